//! `DeviceStore`: devices and modules, their connections, and the hub's own settings.

use async_trait::async_trait;
use dunlin_model::{ConnectionState, Identity, KeyPair, Session, Status, Twin};

use crate::StoreError;
use crate::presence::{COUNTER_BITS, Epoch};

pub mod conformance;
mod connections;
pub(crate) mod postgres;
pub(crate) mod sqlite;
#[cfg(test)]
mod tests;

pub use connections::{ConnectionReport, ConnectionStore, NODE_END_PIECE};
pub use postgres::PostgresDeviceStore;
pub use sqlite::SqliteDeviceStore;

/// The bits an epoch leaves for its generation above the counter (`generation << 40 | counter`).
const GENERATION_BITS: u32 = Epoch::BITS - COUNTER_BITS;

/// A device or module as it is stored. `credentials` is ciphertext: only `registry` can read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredIdentity {
    pub id: Identity,
    pub generation_id: String,
    /// Opaque; the caller makes a new one for each write.
    pub etag: String,
    pub status: Status,
    pub status_reason: Option<String>,
    /// Unix milliseconds.
    pub status_updated: i64,
    /// `authentication.type` of the REST API, in the clear so that it can be queried.
    pub auth_type: String,
    pub credentials: Vec<u8>,
    /// Of a self-signed certificate, in the clear: they are no secrets, and twins show them.
    pub thumbprints: Option<KeyPair>,
    /// Grows by one with each change of status or credentials: an older claim is refused by it.
    pub auth_version: u64,
    pub iot_edge: bool,
    pub device_scope: Option<String>,
    /// None of them holds a line break.
    pub parent_scopes: Vec<String>,
    pub managed_by: Option<String>,
    /// Read only: what a write says of it counts for nothing. `connections_record` writes it.
    pub connection: ConnectionState,
    /// Read only, as `connection`.
    pub session: Session,
}

/// What an `If-Match` header asks of a stored ETag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfMatch {
    Any,
    Etag(String),
}

impl IfMatch {
    pub fn matches(&self, etag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Etag(wanted) => wanted == etag,
        }
    }
}

/// One change of one identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityWrite {
    /// Stores a new device or module with its twin. `AlreadyExists` if the id is taken; `NotFound` if a module's
    /// device does not exist; `LimitReached` if that device has
    /// [`MODULES_PER_DEVICE`](dunlin_model::limits::MODULES_PER_DEVICE) modules, of which the
    /// system modules count neither as held nor as new. `auth_version` is stored as given.
    Create(StoredIdentity, Twin),
    /// Replaces every field but `id`, `generation_id` and `auth_version`; the last is raised by one
    /// if `status`, `auth_type` or `credentials` differ. `NotFound`, or `PreconditionFailed` if the
    /// stored ETag does not match (`NotFound` comes first).
    Replace(StoredIdentity, IfMatch),
    /// Removes an identity, its twin, what is known of its connection, and with a device its
    /// modules, its C2D messages and the feedback on them.
    /// Errors as `Replace`.
    Delete(Identity, IfMatch),
}

/// What a write did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The identity as it is stored now.
    Stored(Box<StoredIdentity>),
    Deleted(Removed),
}

/// What a delete has removed, so that nobody has to look for it at another moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The auth version of the device, be it removed or a module of it.
    pub device_version: u64,
    /// The identity, then the modules that went with it, ordered by id.
    pub identities: Vec<StoredIdentity>,
}

/// What became of a group of writes: of each, what it did.
pub type Written = Result<Vec<Done>, StoreError>;

/// How many devices (not modules) there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Statistics {
    pub devices: u64,
    pub disabled: u64,
    pub connected: u64,
}

/// Devices, modules, their connections ([`ConnectionStore`]) and hub settings.
///
/// * Every method is atomic and durable when it returns: a crash right after loses nothing of it,
///   a crash before leaves nothing of it.
/// * A read sees every write that returned before it began.
/// * Ids are compared ordinally (`D` and `d` are two devices).
/// * Times, ETags and generation ids come from the caller: a store has no clock and no randomness,
///   so that two sides given the same operations hold the same.
#[async_trait]
pub trait DeviceStore: ConnectionStore {
    /// Applies groups of writes in order, in one transaction. A group takes effect whole or not at
    /// all: its first refused write refuses it. A refused group changes nothing for the others.
    async fn identity_write(
        &self,
        groups: Vec<Vec<IdentityWrite>>,
    ) -> Result<Vec<Written>, StoreError>;

    async fn identity_get(&self, id: &Identity) -> Result<Option<StoredIdentity>, StoreError>;

    /// Up to `top` devices (not modules) whose ids come after `after` (empty: from the first on),
    /// ordered by id, bytewise. There need be no device of that id.
    async fn device_list(&self, after: &str, top: usize)
    -> Result<Vec<StoredIdentity>, StoreError>;

    /// The modules of a device, ordered by id, bytewise; empty if there is no such device.
    async fn module_list(&self, device: &str) -> Result<Vec<StoredIdentity>, StoreError>;

    async fn device_statistics(&self) -> Result<Statistics, StoreError>;

    async fn setting_get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Stores a setting unless one of that name exists; returns the one that is stored now. Two
    /// processes that start at once so agree on what either made up.
    async fn setting_init(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError>;

    /// Replaces a setting whose stored bytes are `old`. `NotFound` if there is none of that name,
    /// `PreconditionFailed` if it is another by now.
    async fn setting_replace(&self, name: &str, old: &[u8], new: &[u8]) -> Result<(), StoreError>;

    /// The next number of a sequence that never repeats and never goes back, 1 first: the
    /// generation in an epoch (`generation << 40 | counter`). `Unavailable` rather than a number
    /// of more than the 24 bits an epoch has for it.
    async fn epoch_generation_next(&self) -> Result<u32, StoreError>;
}

/// [`DeviceStore::identity_write`] for one write alone.
impl dyn DeviceStore {
    /// For tests: its twin is of 1970.
    pub async fn identity_create(&self, new: StoredIdentity) -> Result<(), StoreError> {
        self.write_one(IdentityWrite::Create(new, Twin::new(0))).await.map(drop)
    }

    /// Returns what is stored now.
    pub async fn identity_replace(
        &self,
        new: StoredIdentity,
        if_match: IfMatch,
    ) -> Result<StoredIdentity, StoreError> {
        match self.write_one(IdentityWrite::Replace(new, if_match)).await? {
            Done::Stored(stored) => Ok(*stored),
            Done::Deleted(_) => Err(incomplete()),
        }
    }

    pub async fn identity_delete(
        &self,
        id: &Identity,
        if_match: IfMatch,
    ) -> Result<(), StoreError> {
        self.write_one(IdentityWrite::Delete(id.clone(), if_match)).await.map(drop)
    }

    async fn write_one(&self, write: IdentityWrite) -> Result<Done, StoreError> {
        let mut groups = self.identity_write(vec![vec![write]]).await?;
        groups.pop().ok_or_else(incomplete)??.pop().ok_or_else(incomplete)
    }
}

fn incomplete() -> StoreError {
    StoreError::unavailable("device", "an answer for each write was expected")
}
