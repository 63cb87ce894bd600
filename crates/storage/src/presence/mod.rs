//! `Presence`: which gateway holds which device right now.

use std::time::Duration;

use async_trait::async_trait;
use dunlin_model::Identity;

use crate::StoreError;

pub mod conformance;
mod memory;
mod redis;
#[cfg(test)]
mod tests;

pub use memory::MemoryPresence;
pub use redis::RedisPresence;

/// How long a node lives that does not say so again.
pub const NODE_LEASE: Duration = Duration::from_secs(10);
/// How long a revocation refuses older claims: longer than any authentication that it can have
/// overtaken takes to claim.
const REVOCATION: Duration = Duration::from_secs(90);

/// Fences one connection of an identity from the next: `generation << 40 | counter`.
pub type Epoch = u64;

/// Where the generation begins in an epoch.
pub(crate) const COUNTER_BITS: u32 = 40;

/// The first epoch of a generation: every one of an earlier generation is older.
fn first_epoch(generation: u32) -> Epoch {
    Epoch::from(generation) << COUNTER_BITS
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

/// The answer to a node that says that it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// What it claimed is here.
    Kept,
    /// What it claimed may be missing: it must [`restore`](Presence::restore) it. Also the first
    /// answer.
    Lost,
}

/// Which gateway holds which identity. Soft state: it is never the only copy of anything
/// acknowledged, and may come back empty.
///
/// * The epochs of an identity grow strictly over its claims and never repeat, whatever a process,
///   the store or a clock does.
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

    /// Says that a node lives, for [`NODE_LEASE`] from now. A node is one life of a process: it never
    /// comes back under the same name.
    async fn node_renew(&self, node: &str) -> Result<Renewed, StoreError>;

    /// Whether a node has said that it lives, within [`NODE_LEASE`].
    async fn node_lives(&self, node: &str) -> Result<bool, StoreError>;

    /// Takes the lease `name` for `holder`, or keeps it, for [`NODE_LEASE`] from now. `false`:
    /// somebody else has it. Two may take each other for its holder when what is here was lost, so
    /// what is done under it must bear that.
    async fn lease_take(&self, name: &str, holder: &str) -> Result<bool, StoreError>;

    /// Puts back what a node holds, under the epochs it has. Returns the identities that were claimed
    /// under newer ones meanwhile: they are the node's no more.
    async fn restore(
        &self,
        node: &str,
        held: &[(Identity, Epoch)],
    ) -> Result<Vec<Identity>, StoreError>;
}
