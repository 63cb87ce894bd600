//! Says that this gateway lives, and tells presence again who is connected here when it may have
//! forgotten: after a restart, a flush or a failover of its server.

use std::collections::HashSet;
use std::sync::Arc;

use dunlin_model::{ErrorCode, Identity};
use dunlin_runtime::Shutdown;
use dunlin_storage::StoreError;
use dunlin_storage::presence::{Epoch, NODE_LEASE, Renewed};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::gateway::{Gateway, disconnect};

/// Connections that are told in one call.
const CALL: usize = 5_000;

/// The task that renews; on the main runtime.
pub struct Lease {
    stop: Shutdown,
    task: JoinHandle<()>,
}

impl Lease {
    pub fn start(gateway: Arc<Gateway>) -> Self {
        let stop = Shutdown::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            // Three may fail before the lease is over.
            let mut turn = interval(NODE_LEASE / 4);
            turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let (mut lost, mut away) = (false, false);
            loop {
                tokio::select! {
                    _ = turn.tick() => {}
                    () = stopped.cancelled() => return,
                }
                let outcome = renew(&gateway, &mut lost).await;
                match &outcome {
                    Err(error) if !away => {
                        tracing::error!(%error, "presence is away: who is connected stays, nobody new gets in");
                    }
                    Ok(()) if away => tracing::info!("presence is back"),
                    _ => {}
                }
                away = outcome.is_err();
            }
        });
        Self { stop, task }
    }

    /// Once every connection is gone, nobody is to be found here any more.
    pub async fn finish(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "renewing the lease died: please report this");
        }
    }
}

/// `lost` stays set until everything is restored.
async fn renew(gateway: &Arc<Gateway>, lost: &mut bool) -> Result<(), StoreError> {
    *lost |= gateway.presence.node_renew(&gateway.node).await? == Renewed::Lost;
    if *lost {
        let held = gateway.table.held();
        for held in held.chunks(CALL) {
            restore(gateway, held).await?;
        }
        if !held.is_empty() {
            tracing::warn!(
                connections = held.len(),
                "presence had forgotten this gateway: restored"
            );
        }
        *lost = false;
    }
    Ok(())
}

async fn restore(gateway: &Arc<Gateway>, held: &[(Identity, Epoch)]) -> Result<(), StoreError> {
    let taken: HashSet<_> =
        gateway.presence.restore(&gateway.node, held).await?.into_iter().collect();
    for (identity, epoch) in held {
        let Some(address) = gateway.table.connected(identity, *epoch) else {
            // It has gone since it was looked up, and must not stay restored.
            gateway.presence.release(identity, *epoch).await?;
            continue;
        };
        // Whoever claimed it meanwhile knew of no former holder to be told.
        if taken.contains(identity) {
            let reason = ErrorCode::ConnectionForcefullyClosedOnNewConnection;
            gateway.runtime.spawn(async move { disconnect(&address, reason).await });
        }
    }
    Ok(())
}
