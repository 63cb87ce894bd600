//! `Presence` in memory, for a hub of one process.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use dunlin_model::Identity;
use tokio::time::Instant;

use super::{Claim, Epoch, Holder, NODE_LEASE, Presence, REVOCATION, Renewed, first_epoch};
use crate::StoreError;
use crate::lock;

/// Locks that claims of different identities rarely share.
const SHARDS: usize = 64;

/// Who holds which identity. Comes back empty after a restart, under a new generation.
pub struct MemoryPresence {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    last_epoch: AtomicU64,
    /// Until when each node lives.
    nodes: Mutex<HashMap<String, Instant>>,
    /// Who has which lease, and until when.
    leases: Mutex<HashMap<String, (String, Instant)>>,
}

#[derive(Default)]
struct Shard {
    holders: HashMap<Identity, Entry>,
    /// Every holder of a node shares its name: with a million devices it must not be a million.
    nodes: HashSet<Arc<str>>,
    revoked: HashMap<Identity, Revocation>,
    /// Expiries in order. An identity revoked again is listed again.
    expiries: VecDeque<(Instant, Identity)>,
}

struct Entry {
    node: Arc<str>,
    epoch: Epoch,
}

struct Revocation {
    auth_version: u64,
    until: Instant,
}

impl MemoryPresence {
    /// `generation` is a new number of [`crate::DeviceStore::epoch_generation_next`].
    pub fn new(generation: u32) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            last_epoch: AtomicU64::new(first_epoch(generation)),
            nodes: Mutex::default(),
            leases: Mutex::default(),
        }
    }

    fn shard(&self, id: &Identity) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(id) as usize;
        lock(&self.shards[hash % SHARDS])
    }
}

impl Shard {
    fn holder(&self, id: &Identity) -> Option<Holder> {
        self.holders.get(id).map(Entry::holder)
    }

    fn node(&mut self, name: &str) -> Arc<str> {
        if let Some(node) = self.nodes.get(name) {
            return Arc::clone(node);
        }
        let node: Arc<str> = name.into();
        self.nodes.insert(Arc::clone(&node));
        node
    }

    fn forget_expired(&mut self, now: Instant) {
        while let Some((until, _)) = self.expiries.front()
            && *until <= now
        {
            if let Some((_, id)) = self.expiries.pop_front()
                && self.revoked.get(&id).is_some_and(|revocation| revocation.until <= now)
            {
                self.revoked.remove(&id);
            }
        }
    }
}

impl Entry {
    fn holder(&self) -> Holder {
        Holder { node: self.node.to_string(), epoch: self.epoch }
    }
}

#[async_trait]
impl Presence for MemoryPresence {
    async fn claim(
        &self,
        id: &Identity,
        node: &str,
        auth_version: u64,
    ) -> Result<Claim, StoreError> {
        let mut shard = self.shard(id);
        shard.forget_expired(Instant::now());
        if shard.revoked.get(id).is_some_and(|revoked| auth_version < revoked.auth_version) {
            return Ok(Claim::Revoked);
        }
        // Taken under the lock, so that of two claims of one identity the later has the greater.
        let epoch = self.last_epoch.fetch_add(1, Ordering::Relaxed) + 1;
        let entry = Entry { node: shard.node(node), epoch };
        let former = match shard.holders.get_mut(id) {
            Some(held) => Some(std::mem::replace(held, entry).holder()),
            None => {
                shard.holders.insert(id.clone(), entry);
                None
            }
        };
        Ok(Claim::Granted { epoch, former })
    }

    async fn release(&self, id: &Identity, epoch: Epoch) -> Result<(), StoreError> {
        let mut shard = self.shard(id);
        if shard.holders.get(id).is_some_and(|held| held.epoch == epoch) {
            shard.holders.remove(id);
        }
        Ok(())
    }

    async fn holder(&self, id: &Identity) -> Result<Option<Holder>, StoreError> {
        Ok(self.shard(id).holder(id))
    }

    async fn revoke(&self, id: &Identity, auth_version: u64) -> Result<Option<Holder>, StoreError> {
        let now = Instant::now();
        let until = now + REVOCATION;
        let mut shard = self.shard(id);
        shard.forget_expired(now);
        let revoked = shard.revoked.entry(id.clone()).or_insert(Revocation { auth_version, until });
        revoked.auth_version = revoked.auth_version.max(auth_version);
        revoked.until = until;
        shard.expiries.push_back((until, id.clone()));
        Ok(shard.holder(id))
    }

    async fn node_renew(&self, node: &str) -> Result<Renewed, StoreError> {
        let now = Instant::now();
        let mut nodes = lock(&self.nodes);
        nodes.retain(|_, until| *until > now);
        let known = nodes.insert(node.to_owned(), now + NODE_LEASE);
        Ok(if known.is_some() { Renewed::Kept } else { Renewed::Lost })
    }

    async fn node_lives(&self, node: &str) -> Result<bool, StoreError> {
        Ok(lock(&self.nodes).get(node).is_some_and(|until| *until > Instant::now()))
    }

    async fn lease_take(&self, name: &str, holder: &str) -> Result<bool, StoreError> {
        let now = Instant::now();
        let mut leases = lock(&self.leases);
        if leases.get(name).is_some_and(|(other, until)| other != holder && *until > now) {
            return Ok(false);
        }
        leases.insert(name.to_owned(), (holder.to_owned(), now + NODE_LEASE));
        Ok(true)
    }

    async fn restore(
        &self,
        node: &str,
        held: &[(Identity, Epoch)],
    ) -> Result<Vec<Identity>, StoreError> {
        let mut taken = Vec::new();
        for (id, epoch) in held {
            let mut shard = self.shard(id);
            match shard.holders.get(id).map(|held| held.epoch) {
                Some(newer) if newer > *epoch => taken.push(id.clone()),
                Some(same) if same == *epoch => {}
                _ => {
                    let entry = Entry { node: shard.node(node), epoch: *epoch };
                    shard.holders.insert(id.clone(), entry);
                }
            }
        }
        Ok(taken)
    }
}

#[cfg(test)]
impl MemoryPresence {
    /// Revocations that are kept: markers and their expiries.
    pub(super) fn revocations(&self) -> (usize, usize) {
        let shards = self.shards.iter().map(lock);
        shards.fold((0, 0), |(m, e), s| (m + s.revoked.len(), e + s.expiries.len()))
    }
}
