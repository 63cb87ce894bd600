//! `TwinStore` on Postgres: rows of `twin`, which `DeviceStore` makes and removes.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use dunlin_model::Identity;
use dunlin_model::twin::{Limits, Report, Update};

use super::{StoredTwin, TwinStore, Updated};
use crate::StoreError;
use crate::device_store::postgres::rows as identities;
use crate::postgres::Postgres;
use crate::postgres::batch::{Batcher, Keys, Work};
use crate::postgres::session::{Fault, Session};

mod changes;
pub(crate) mod rows;

use changes::{Change, Changed, Changes};

pub struct PostgresTwinStore {
    reads: Batcher<Reads>,
    changes: Batcher<Changes>,
}

impl PostgresTwinStore {
    /// Within the runtime that is to do its work.
    pub fn new(postgres: &Postgres) -> Self {
        Self { reads: Batcher::new(postgres, Reads), changes: Batcher::new(postgres, Changes) }
    }
}

#[async_trait]
impl TwinStore for PostgresTwinStore {
    async fn twin_get(&self, id: &Identity) -> Result<Option<StoredTwin>, StoreError> {
        self.reads.call(id.clone()).await
    }

    async fn twin_update(
        &self,
        id: &Identity,
        update: Update,
        now: i64,
        limits: &Limits,
    ) -> Result<Updated, StoreError> {
        let change = Change::update(id, update, now, limits);
        match self.changes.call(change).await? {
            Changed::Updated(updated) => Ok(*updated),
            Changed::Reported(_) => Err(changes::mixed_up()),
        }
    }

    async fn twin_report(
        &self,
        id: &Identity,
        report: Report,
        now: i64,
        limits: &Limits,
    ) -> Result<u64, StoreError> {
        let change = Change::report(id, report, now, limits);
        match self.changes.call(change).await? {
            Changed::Reported(version) => Ok(version),
            Changed::Updated(_) => Err(changes::mixed_up()),
        }
    }
}

/// Twins beside their identities, in one read.
struct Reads;

#[async_trait]
impl Work for Reads {
    type Call = Identity;
    type Answer = Option<StoredTwin>;
    const KIND: &'static str = "twin_get";

    async fn run(
        &self,
        session: &Session,
        calls: &[Identity],
    ) -> Result<Vec<Result<Option<StoredTwin>, StoreError>>, Fault> {
        let sql = identities::select!(
            ", t.etag AS twin_etag, t.version, t.tags, t.desired, t.desired_metadata,
                t.desired_version, t.reported, t.reported_metadata, t.reported_version,
                t.reported_epoch",
            "unnest($1::text[], $2::text[]) AS k (device_id, module_id)
                JOIN identity i USING (device_id, module_id)",
            "JOIN twin t USING (device_id, module_id)"
        );
        let wanted: BTreeSet<_> = calls.iter().collect();
        let Keys { devices, modules } = wanted.into_iter().collect();
        let mut found = HashMap::new();
        for row in session.read(sql, &[&devices, &modules]).await? {
            let mut identity = identities::from_row(&row)?;
            identity.credentials = Vec::new();
            let stored = StoredTwin { twin: rows::from_row(&row)?, identity };
            found.insert(stored.identity.id.clone(), stored);
        }
        Ok(calls.iter().map(|id| Ok(found.get(id).cloned())).collect())
    }
}
