//! Who is connected to this gateway process: identity → the worker and connection that hold it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dunlin_model::Identity;
use dunlin_storage::presence::Epoch;

use crate::queue::Queue;

const SHARDS: usize = 64;

/// One connection, as other threads address it.
#[derive(Clone)]
pub struct Address {
    pub queue: Arc<Queue>,
    pub key: u64,
}

struct Entry {
    address: Address,
    /// 0 while the connection is still being claimed.
    epoch: Epoch,
    /// An epoch up to which a disconnect was asked for before ours was known.
    doomed: Epoch,
}

#[derive(Default)]
struct Shard(Mutex<HashMap<Identity, Entry>>);

/// The local connection table: the newest connection of an identity has the slot.
pub struct Table {
    shards: Vec<Shard>,
    hasher: RandomState,
}

impl Default for Table {
    fn default() -> Self {
        let shards = std::iter::repeat_with(Shard::default).take(SHARDS).collect();
        Self { shards, hasher: RandomState::new() }
    }
}

impl Table {
    /// Takes the identity's slot; who had it before is returned and must be told to go.
    pub fn take(&self, id: &Identity, address: Address) -> Option<Address> {
        let entry = Entry { address, epoch: 0, doomed: 0 };
        self.shard(id).insert(id.clone(), entry).map(|former| former.address)
    }

    /// Whether the slot is still this connection's.
    pub fn holds(&self, id: &Identity, key: u64) -> bool {
        self.shard(id).get(id).is_some_and(|entry| entry.address.key == key)
    }

    /// Gives the claim its epoch. `false`: the slot was taken or doomed in the meantime.
    pub fn settle(&self, id: &Identity, key: u64, epoch: Epoch) -> bool {
        match self.shard(id).get_mut(id) {
            Some(entry) if entry.address.key == key && entry.doomed < epoch => {
                entry.epoch = epoch;
                true
            }
            _ => false,
        }
    }

    /// The connection with that epoch, to be told to go. One that is still being claimed is doomed
    /// instead, if its epoch turns out to be this one or an older one.
    pub fn find(&self, id: &Identity, epoch: Epoch) -> Option<Address> {
        let mut shard = self.shard(id);
        let entry = shard.get_mut(id)?;
        if entry.epoch == 0 {
            entry.doomed = entry.doomed.max(epoch);
        }
        (entry.epoch == epoch).then(|| entry.address.clone())
    }

    /// The connection with that epoch, if it is settled.
    pub fn connected(&self, id: &Identity, epoch: Epoch) -> Option<Address> {
        let shard = self.shard(id);
        let entry = shard.get(id).filter(|entry| entry.epoch == epoch && epoch != 0)?;
        Some(entry.address.clone())
    }

    /// Every connection that is settled.
    pub fn held(&self) -> Vec<(Identity, Epoch)> {
        let mut held = Vec::new();
        for Shard(shard) in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let settled = shard.iter().filter(|(_, entry)| entry.epoch != 0);
            held.extend(settled.map(|(id, entry)| (id.clone(), entry.epoch)));
        }
        held
    }

    /// Gives the slot up, if it is still this connection's.
    pub fn remove(&self, id: &Identity, key: u64) {
        let mut shard = self.shard(id);
        if shard.get(id).is_some_and(|entry| entry.address.key == key) {
            shard.remove(id);
        }
    }

    fn shard(&self, id: &Identity) -> MutexGuard<'_, HashMap<Identity, Entry>> {
        let at = usize::try_from(self.hasher.hash_one(id) % SHARDS as u64).unwrap_or(0);
        self.shards[at].0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(key: u64) -> Address {
        Address { queue: Arc::default(), key }
    }

    #[test]
    fn the_newest_connection_has_the_slot() {
        let (table, id) = (Table::default(), Identity::parse("d").expect("an id"));
        assert!(table.take(&id, address(1)).is_none());
        assert!(table.settle(&id, 1, 10));
        assert_eq!(table.take(&id, address(2)).expect("had it").key, 1);
        assert!(!table.settle(&id, 1, 11), "the slot is no longer its");
        assert!(table.holds(&id, 2) && !table.holds(&id, 1));
        table.remove(&id, 1);
        assert!(table.settle(&id, 2, 12), "removing the old one leaves the new one");
        assert!(table.find(&id, 10).is_none());
        assert_eq!(table.find(&id, 12).expect("connected").key, 2);
        assert_eq!(table.connected(&id, 12).expect("connected").key, 2);
        table.take(&Identity::parse("e").expect("an id"), address(3));
        assert_eq!(table.held(), [(id.clone(), 12)], "not who is still being claimed");
        assert!(table.connected(&id, 13).is_none());
        table.remove(&id, 2);
        assert!(table.find(&id, 12).is_none());
    }

    #[test]
    fn a_disconnect_that_overtakes_the_claim_dooms_it() {
        let (table, id) = (Table::default(), Identity::parse("d").expect("an id"));
        table.take(&id, address(1));
        assert!(table.connected(&id, 0).is_none(), "still being claimed");
        assert!(table.find(&id, 5).is_none());
        assert!(!table.settle(&id, 1, 5));
        table.take(&id, address(2));
        table.find(&id, 5);
        assert!(table.settle(&id, 2, 6), "a disconnect of an older epoch is not for it");
    }
}
