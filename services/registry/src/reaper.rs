//! Shows the devices of a dead gateway as disconnected: it could not tell of their end itself.
//!
//! Of all registries one looks, by a lease. A node that holds connections is taken for dead when its
//! lease was gone at each look for as long as a lease lasts: a presence that was flushed has everybody
//! back by then, and one that is away says nothing of anybody. Two that look at once harm nobody, nor
//! does a mistake stay: a gateway that lives tells of its connections again.

use std::collections::HashMap;
use std::sync::Arc;

use dunlin_runtime::component::RunError;
use dunlin_runtime::{Shutdown, clock};
use dunlin_storage::device_store::NODE_END_PIECE;
use dunlin_storage::presence::NODE_LEASE;
use dunlin_storage::{DeviceStore, Presence, StoreError};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::random;

/// Name of the lease.
const LEASE: &str = "reaper";

pub(crate) struct Reaper {
    store: Arc<dyn DeviceStore>,
    presence: Arc<dyn Presence>,
    /// One life of this process.
    holder: String,
    looked: Instant,
    /// Nodes that hold connections and whose lease was gone at the last look.
    gone: HashMap<String, Gone>,
}

struct Gone {
    since: Instant,
    /// Connections of it that were ended so far.
    ended: usize,
}

impl Reaper {
    pub(crate) fn new(store: Arc<dyn DeviceStore>, presence: Arc<dyn Presence>) -> Self {
        let holder = format!("{:016x}", u64::from_be_bytes(random::bytes()));
        Self { store, presence, holder, looked: Instant::now(), gone: HashMap::new() }
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), RunError> {
        let mut turn = interval(NODE_LEASE / 4);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut away = false;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = turn.tick() => {}
            }
            let looked = self.look().await;
            if let Err(error) = &looked
                && !away
            {
                let error = error as &dyn std::error::Error;
                warn!(error, "dead gateways cannot be looked for, trying again");
            }
            away = looked.is_err();
            if let Ok(true) = looked {
                turn.reset_immediately();
            }
        }
    }

    /// `true`: there is more to end.
    async fn look(&mut self) -> Result<bool, StoreError> {
        let now = Instant::now();
        // Between looks that are far apart a node may have lived.
        let blind = now - self.looked >= NODE_LEASE;
        self.looked = now;
        // Whoever fails has seen nothing.
        let mut gone = std::mem::take(&mut self.gone);
        if blind {
            gone.clear();
        }
        if !self.presence.lease_take(LEASE, &self.holder).await? {
            return Ok(false);
        }
        let mut more = false;
        for node in self.store.node_list().await? {
            if self.presence.node_lives(&node).await? {
                continue;
            }
            let mut seen = gone.remove(&node).unwrap_or(Gone { since: now, ended: 0 });
            if now - seen.since >= NODE_LEASE {
                let ended =
                    self.store.node_end(&node, clock::unix_millis(), NODE_END_PIECE).await?;
                seen.ended += ended;
                if ended < NODE_END_PIECE {
                    info!(node, connections = seen.ended, "ended what a dead gateway held");
                }
                more |= ended == NODE_END_PIECE;
            }
            self.gone.insert(node, seen);
        }
        Ok(more)
    }
}

#[cfg(test)]
mod tests;
