//! `Presence`: which gateway holds which device right now.

use async_trait::async_trait;
use dunlin_model::Identity;

use crate::StoreError;

pub mod conformance;
mod memory;
#[cfg(test)]
mod tests;

pub use memory::MemoryPresence;

/// Fences one connection of an identity from the next: `generation << 40 | counter`.
pub type Epoch = u64;

/// The first epoch of a generation: every one of an earlier generation is older.
pub fn first_epoch(generation: u32) -> Epoch {
    Epoch::from(generation) << 40
}

/// Who holds a connection of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Name of the gateway process, as the mesh reaches it.
    pub node: String,
    pub epoch: Epoch,
}

/// The answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The identity is the claimant's, under this epoch. `former` must be told to drop.
    Granted { epoch: Epoch, former: Option<Holder> },
    /// The identity was revoked at an auth version newer than the claimant's: it must be
    /// authenticated again.
    Revoked,
}

/// Which gateway holds which identity. Soft state: it is never the only copy of anything
/// acknowledged, and may come back empty.
///
/// * Epochs grow strictly over all claims and never repeat, whatever the process or a clock does.
/// * A claim always wins over an older one: the newest connection of an identity owns it.
/// * `release` and `holder` are linearizable with claims of the same identity.
#[async_trait]
pub trait Presence: Send + Sync + 'static {
    /// Takes the identity for `node`. `auth_version` is the one its authentication saw.
    async fn claim(
        &self,
        id: &Identity,
        node: &str,
        auth_version: u64,
    ) -> Result<Claim, StoreError>;

    /// Gives the identity up, if the epoch is still the holder's; else does nothing.
    async fn release(&self, id: &Identity, epoch: Epoch) -> Result<(), StoreError>;

    async fn holder(&self, id: &Identity) -> Result<Option<Holder>, StoreError>;

    /// Refuses, for a minute at the least, claims whose auth version is older than this one, and
    /// returns who holds the identity now: it must be told to drop, and stays the holder until it
    /// releases or is claimed from. The newest of several revocations counts.
    async fn revoke(&self, id: &Identity, auth_version: u64) -> Result<Option<Holder>, StoreError>;
}
