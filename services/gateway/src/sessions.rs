//! What of sessions is still to be stored: changed subscriptions, gathered into calls. Whoever waits
//! for one (a SUBACK, a CONNACK) is told when it is durable.

use std::sync::{Arc, Mutex, PoisonError};

use dunlin_model::{ErrorCode, HubError, Session};
use dunlin_proto::v1;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::MeshChannel;
use tokio::sync::{Notify, oneshot};

use crate::background::Background;
use crate::gateway::Gateway;

/// Sessions in one call. Further ones gather while a call is under way.
const CALL: usize = 1_000;

/// Told the session as it is stored now; nothing, if it could not be, or is another connection's.
type Done = Box<dyn FnOnce(Option<Session>) + Send>;

#[derive(Default)]
pub struct Sessions {
    waiting: Mutex<Vec<(v1::SessionReport, Done)>>,
    wake: Notify,
}

impl Sessions {
    /// Has a session stored. Those of one identity are stored in the order of the calls.
    pub fn store(
        &self,
        report: v1::SessionReport,
        done: impl FnOnce(Option<Session>) + Send + 'static,
    ) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push((report, Box::new(done)));
        drop(waiting);
        self.wake.notify_one();
    }

    /// As `store`; durable when it returns.
    pub async fn stored(&self, report: v1::SessionReport) -> Result<Session, HubError> {
        let (done, stored) = oneshot::channel();
        self.store(report, move |session| {
            // Nobody may be waiting any more.
            let _ = done.send(session);
        });
        stored.await.ok().flatten().ok_or_else(|| {
            HubError::new(ErrorCode::ServiceUnavailable, "the session was not stored")
        })
    }

    /// Stores everything that waits.
    async fn drain(&self, registry: &MeshChannel) {
        let mut client = RegistryClient::new(registry.clone());
        loop {
            let mut batch = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *waiting).into_iter().peekable()
            };
            if batch.peek().is_none() {
                return;
            }
            while batch.peek().is_some() {
                let (sessions, done): (Vec<_>, Vec<_>) = batch.by_ref().take(CALL).unzip();
                let request = v1::RecordConnectionsRequest { sessions, ..Default::default() };
                let stored = client.record_connections(request).await;
                let outcomes = match stored {
                    Ok(answer) => answer.into_inner().sessions,
                    Err(error) => {
                        let sessions = done.len();
                        tracing::warn!(%error, sessions, "sessions could not be stored");
                        Vec::new()
                    }
                };
                // Who has no outcome was not stored.
                let mut outcomes = outcomes.into_iter();
                for done in done {
                    let outcome = outcomes.next().and_then(|outcome| outcome.session);
                    done(outcome.map(Into::into));
                }
            }
        }
    }
}

/// The task that stores. At its end every connection is gone, and nobody waits any more.
pub fn start(gateway: Arc<Gateway>) -> Background {
    Background::start("keeping sessions", |stop| async move {
        loop {
            tokio::select! {
                () = gateway.sessions.wake.notified() => {}
                () = stop.cancelled() => break,
            }
            gateway.sessions.drain(&gateway.registry).await;
        }
    })
}
