//! A task of the gateway beside its connections, on the main runtime: it is asked to stop once they
//! are gone, and waited for.

use std::future::Future;

use dunlin_runtime::Shutdown;
use tokio::task::JoinHandle;

pub struct Background {
    what: &'static str,
    stop: Shutdown,
    task: JoinHandle<()>,
}

impl Background {
    /// Starts `work`, which is given what asks it to stop.
    pub fn start<F>(what: &'static str, work: impl FnOnce(Shutdown) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = Shutdown::new();
        let task = tokio::spawn(work(stop.clone()));
        Self { what, stop, task }
    }

    pub async fn finish(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "{} died: please report this", self.what);
        }
    }
}
