//! A `CommandQueue` that is watched: each call goes to the queue behind it, and is then compared with
//! the model. Whoever uses it, by whatever way, is so told on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::sync::{Mutex, MutexGuard, OwnedMutexGuard};

use super::model::Model;
use super::*;
use crate::command_queue::FeedbackBatch;

/// What goes on from one opening of the queue to the next.
#[derive(Clone, Default)]
pub struct Watch {
    model: Arc<Mutex<Model>>,
    failed: Arc<AtomicBool>,
}

impl Watch {
    /// The queue `port`, watched.
    pub fn over(&self, port: Arc<dyn CommandQueue>) -> Arc<dyn CommandQueue> {
        Arc::new(Watched { port, watch: self.clone() })
    }

    /// What is known of the queue, between two calls. Panics if an answer was wrong.
    pub async fn model(&self) -> MutexGuard<'_, Model> {
        let model = self.model.lock().await;
        assert!(!self.failed.load(Ordering::SeqCst), "an answer was not the model's: see above");
        model
    }
}

struct Watched {
    port: Arc<dyn CommandQueue>,
    watch: Watch,
}

impl Watched {
    /// One call at a time, so that the model sees them in their order; to its end, also when the
    /// caller goes away.
    async fn call<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        call: impl FnOnce(Arc<dyn CommandQueue>, OwnedMutexGuard<Model>) -> F,
    ) -> T {
        let call = call(self.port.clone(), self.watch.model.clone().lock_owned().await);
        match tokio::spawn(call).await {
            Ok(got) => got,
            Err(failed) => {
                self.watch.failed.store(true, Ordering::SeqCst);
                std::panic::resume_unwind(failed.into_panic())
            }
        }
    }
}

#[async_trait]
impl CommandQueue for Watched {
    async fn command_send(
        &self,
        device: &str,
        command: Command,
        now: i64,
        rules: &Rules,
    ) -> Result<u64, StoreError> {
        let (device, rules) = (device.to_owned(), rules.clone());
        self.call(move |port, mut model| async move {
            let got = port.command_send(&device, command.clone(), now, &rules).await;
            model.sent(&device, &command, now, &rules, &got);
            got
        })
        .await
    }

    async fn command_lease(
        &self,
        device: &str,
        epoch: Epoch,
        tokens: Vec<LockToken>,
        bytes: usize,
        now: i64,
        rules: &Rules,
    ) -> Result<Lease, StoreError> {
        let (device, rules) = (device.to_owned(), rules.clone());
        self.call(move |port, mut model| async move {
            let lease = port.command_lease(&device, epoch, tokens.clone(), bytes, now, &rules);
            let got = lease.await;
            model.leased(&device, epoch, &tokens, bytes, now, &rules, &got);
            got
        })
        .await
    }

    async fn command_settle(
        &self,
        device: &str,
        epoch: Epoch,
        tokens: &[LockToken],
        disposition: Disposition,
        now: i64,
        rules: &Rules,
    ) -> Result<Settlement, StoreError> {
        let (device, tokens, rules) = (device.to_owned(), tokens.to_owned(), rules.clone());
        self.call(move |port, mut model| async move {
            let settle = port.command_settle(&device, epoch, &tokens, disposition, now, &rules);
            let got = settle.await;
            model.settled(&device, epoch, &tokens, disposition, now, &rules, &got);
            got
        })
        .await
    }

    async fn command_release(
        &self,
        device: &str,
        epoch: Epoch,
        in_vain: bool,
        now: i64,
        rules: &Rules,
    ) -> Result<(), StoreError> {
        let (device, rules) = (device.to_owned(), rules.clone());
        self.call(move |port, mut model| async move {
            let got = port.command_release(&device, epoch, in_vain, now, &rules).await;
            model.released(&device, epoch, in_vain, now, &rules, &got);
            got
        })
        .await
    }

    async fn command_purge(
        &self,
        device: &str,
        now: i64,
        rules: &Rules,
    ) -> Result<u32, StoreError> {
        let (device, rules) = (device.to_owned(), rules.clone());
        self.call(move |port, mut model| async move {
            let got = port.command_purge(&device, now, &rules).await;
            model.purged(&device, now, &rules, &got);
            got
        })
        .await
    }

    async fn command_count(
        &self,
        device: &str,
        now: i64,
        rules: &Rules,
    ) -> Result<u32, StoreError> {
        let (device, rules) = (device.to_owned(), rules.clone());
        self.call(move |port, model| async move {
            let got = port.command_count(&device, now, &rules).await;
            model.counted(&device, now, &rules, &got);
            got
        })
        .await
    }

    async fn command_sweep(
        &self,
        most: usize,
        now: i64,
        rules: &Rules,
    ) -> Result<Swept, StoreError> {
        let rules = rules.clone();
        self.call(move |port, mut model| async move {
            let got = port.command_sweep(most, now, &rules).await;
            model.swept(now, &rules, &got);
            got
        })
        .await
    }

    async fn feedback_lease(
        &self,
        token: LockToken,
        now: i64,
        rules: &FeedbackRules,
    ) -> Result<Option<FeedbackBatch>, StoreError> {
        let rules = rules.clone();
        self.call(move |port, mut model| async move {
            let got = port.feedback_lease(token, now, &rules).await;
            model.feedback_leased(now, &rules, &got);
            got
        })
        .await
    }

    async fn feedback_settle(
        &self,
        token: LockToken,
        disposition: Disposition,
        now: i64,
        rules: &FeedbackRules,
    ) -> Result<bool, StoreError> {
        let rules = rules.clone();
        self.call(move |port, mut model| async move {
            let got = port.feedback_settle(token, disposition, now, &rules).await;
            model.feedback_settled(token, disposition, now, &rules, &got);
            got
        })
        .await
    }
}
