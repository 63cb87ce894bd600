//! Says that this gateway lives, and tells presence again who is connected here when it may have
//! forgotten: after a restart, a flush or a failover of its server, or when this process stood still
//! for longer than its lease.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dunlin_model::{ErrorCode, Identity};
use dunlin_runtime::Shutdown;
use dunlin_storage::StoreError;
use dunlin_storage::presence::{Epoch, NODE_LEASE, Renewed};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::background::Background;
use crate::gateway::{Gateway, disconnect};
use crate::queue::Message;

/// Connections that are told in one call.
const CALL: usize = 5_000;
/// Connections that ask for C2D messages at a time, and how long the next ones wait.
const ASK: usize = 500;
const PAUSE: Duration = Duration::from_millis(100);

/// The task that renews. At its end every connection is gone, and nobody is to be found here.
pub fn start(gateway: Arc<Gateway>) -> Background {
    Background::start("renewing the lease", |stop| keep(gateway, stop))
}

async fn keep(gateway: Arc<Gateway>, stop: Shutdown) {
    // Three may fail before the lease is over.
    let mut turn = interval(NODE_LEASE / 4);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut lost, mut away) = (false, false);
    loop {
        tokio::select! {
            _ = turn.tick() => {}
            () = stop.cancelled() => return,
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
        gateway.metrics.presence(!away);
    }
}

/// `lost` stays set until everything is restored.
async fn renew(gateway: &Arc<Gateway>, lost: &mut bool) -> Result<(), StoreError> {
    let renewed = gateway.presence.node_renew(&gateway.node).await;
    // Of one that failed nobody knows what it has found, and whether the next finds its lease.
    *lost |= !matches!(renewed, Ok(Renewed::Kept));
    renewed?;
    if *lost {
        let held = gateway.table.held();
        let mut kept = Vec::new();
        for held in held.chunks(CALL) {
            restore(gateway, held, &mut kept).await?;
        }
        gateway.runtime.spawn(ask(gateway.clone(), kept));
        if !held.is_empty() {
            // The registry may have taken it for dead, too.
            gateway.restored.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                connections = held.len(),
                "presence had forgotten this gateway: restored"
            );
        }
        *lost = false;
    }
    Ok(())
}

/// Has connections ask for C2D messages: who was sent some meanwhile was taken for not connected.
async fn ask(gateway: Arc<Gateway>, kept: Vec<(Identity, Epoch)>) {
    for kept in kept.chunks(ASK) {
        for (identity, epoch) in kept {
            if let Some(address) = gateway.table.connected(identity, *epoch) {
                address.queue.tell(address.key, Message::Commands);
            }
        }
        // sleep: the pace. Nobody else's calls are to be shed for them.
        sleep(PAUSE).await;
    }
}

/// `kept`: who is still the gateway's.
async fn restore(
    gateway: &Arc<Gateway>,
    held: &[(Identity, Epoch)],
    kept: &mut Vec<(Identity, Epoch)>,
) -> Result<(), StoreError> {
    let taken: HashSet<_> =
        gateway.presence.restore(&gateway.node, held).await?.into_iter().collect();
    for (identity, epoch) in held {
        let Some(address) = gateway.table.connected(identity, *epoch) else {
            // It has gone since it was looked up, and must not stay restored.
            gateway.presence.release(identity, *epoch).await?;
            continue;
        };
        if taken.contains(identity) {
            // Whoever claimed it meanwhile knew of no former holder to be told.
            let reason = ErrorCode::ConnectionForcefullyClosedOnNewConnection;
            gateway.runtime.spawn(async move { disconnect(&address, reason).await });
        } else {
            kept.push((identity.clone(), *epoch));
        }
    }
    Ok(())
}
