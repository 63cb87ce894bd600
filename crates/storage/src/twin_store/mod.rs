//! `TwinStore`: the twins of devices and modules.

use async_trait::async_trait;
use dunlin_model::json::Object;
use dunlin_model::twin::{Limits, Report, Update};
use dunlin_model::{Identity, Twin};

use crate::StoreError;
use crate::device_store::StoredIdentity;

pub mod conformance;
pub(crate) mod postgres;
pub(crate) mod sqlite;
#[cfg(test)]
mod tests;

pub use postgres::PostgresTwinStore;
pub use sqlite::SqliteTwinStore;

/// A twin beside what is stored of its identity, but for the credentials: they are left empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTwin {
    pub identity: StoredIdentity,
    pub twin: Twin,
}

/// What became of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updated {
    /// As it is stored now.
    pub stored: StoredTwin,
    /// What the device is to be told, if desired properties were changed.
    pub told: Option<Object>,
}

/// Twins of devices and modules.
///
/// * A twin is made with its identity, in the same transaction, and goes with it
///   ([`IdentityWrite`](crate::device_store::IdentityWrite)).
/// * Every method is atomic and durable when it returns, and a read sees every write that returned
///   before it began.
/// * A change works on what the one before it left: of concurrent ones none is lost, and each raises
///   the versions by one.
/// * What a change does, and whether it is refused, is the model's to say ([`Twin::update`],
///   [`Twin::report`]). A refused one (`Refused`) leaves everything as it is.
/// * Numbers and strings are read back as they were written; a store that writes every digit of a
///   double reads by [`stored`](dunlin_model::json::stored).
/// * `NotFound` if there is no such identity.
#[async_trait]
pub trait TwinStore: Send + Sync + 'static {
    async fn twin_get(&self, id: &Identity) -> Result<Option<StoredTwin>, StoreError>;

    /// Applies what a back end asks for, as of `now` (Unix milliseconds).
    async fn twin_update(
        &self,
        id: &Identity,
        update: Update,
        now: i64,
        limits: &Limits,
    ) -> Result<Updated, StoreError>;

    /// Applies what a device reports. Returns the version of the reported properties after it.
    async fn twin_report(
        &self,
        id: &Identity,
        report: Report,
        now: i64,
        limits: &Limits,
    ) -> Result<u64, StoreError>;
}
