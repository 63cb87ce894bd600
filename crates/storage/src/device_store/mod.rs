//! `DeviceStore`: devices and modules, and the hub's own settings.

use async_trait::async_trait;
use dunlin_model::{Identity, Status};

use crate::StoreError;

pub mod conformance;
mod sqlite;
#[cfg(test)]
mod tests;

pub use sqlite::SqliteDeviceStore;

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
    /// Grows by one with each change of status or credentials: an older claim is refused by it.
    pub auth_version: u64,
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

/// Devices, modules and hub settings.
///
/// * Every method is atomic and durable when it returns: a crash right after loses nothing of it,
///   a crash before leaves nothing of it.
/// * A read sees every write that returned before it began.
/// * Ids are compared ordinally (`D` and `d` are two devices).
/// * Times, ETags and generation ids come from the caller: a store has no clock and no randomness,
///   so that two sides given the same operations hold the same.
#[async_trait]
pub trait DeviceStore: Send + Sync + 'static {
    /// Stores a new device or module. `AlreadyExists` if the id is taken; `NotFound` if a module's
    /// device does not exist. `auth_version` is stored as given.
    async fn identity_create(&self, new: StoredIdentity) -> Result<(), StoreError>;

    async fn identity_get(&self, id: &Identity) -> Result<Option<StoredIdentity>, StoreError>;

    /// Up to `top` devices (not modules), ordered by id, bytewise.
    async fn device_list(&self, top: usize) -> Result<Vec<StoredIdentity>, StoreError>;

    /// The modules of a device, ordered by id, bytewise; empty if there is no such device.
    async fn module_list(&self, device: &str) -> Result<Vec<StoredIdentity>, StoreError>;

    /// Replaces every field but `id`, `generation_id` and `auth_version`; the last is raised by one
    /// if `status`, `auth_type` or `credentials` differ. Returns what is stored now. `NotFound`,
    /// or `PreconditionFailed` if the stored ETag does not match (`NotFound` comes first).
    async fn identity_replace(
        &self,
        new: StoredIdentity,
        if_match: IfMatch,
    ) -> Result<StoredIdentity, StoreError>;

    /// Removes an identity, and the modules of a device with it. Errors as `identity_replace`.
    async fn identity_delete(&self, id: &Identity, if_match: IfMatch) -> Result<(), StoreError>;

    /// Stores a setting unless one of that name exists; returns the one that is stored now. Two
    /// processes that start at once so agree on what either made up.
    async fn setting_init(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError>;

    /// The next number of a sequence that never repeats and never goes back, 1 first: the
    /// generation in an epoch (`generation << 40 | counter`). `Unavailable` rather than a number
    /// of more than the 24 bits an epoch has for it.
    async fn epoch_generation_next(&self) -> Result<u32, StoreError>;
}
