//! `DeviceStore` on Postgres.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use dunlin_model::Identity;

use super::{DeviceStore, GENERATION_BITS, IdentityWrite, Statistics, StoredIdentity, Written};
use crate::StoreError;
use crate::postgres::batch::{Batcher, Keys, Work};
use crate::postgres::session::{Fault, Session};
use crate::postgres::text::escape;
use crate::postgres::{Postgres, unavailable};

mod connections;
mod groups;
pub(crate) mod rows;
mod writes;

use connections::Connections;

pub struct PostgresDeviceStore {
    postgres: Postgres,
    reads: Batcher<Reads>,
    connections: Batcher<Connections>,
}

impl PostgresDeviceStore {
    /// Within the runtime that is to do its work.
    pub fn new(postgres: &Postgres) -> Self {
        Self {
            postgres: postgres.clone(),
            reads: Batcher::new(postgres, Reads),
            connections: Batcher::new(postgres, Connections),
        }
    }

    async fn identities(
        &self,
        kind: &'static str,
        sql: &'static str,
        key: &str,
        top: i64,
    ) -> Result<Vec<StoredIdentity>, StoreError> {
        let given = (sql, escape(key), top);
        self.postgres
            .run(kind, &given, |session, (sql, key, top)| {
                Box::pin(async move {
                    let rows = session.read(sql, &[key, top]).await?;
                    rows.iter().map(|row| Ok(rows::from_row(row)?)).collect()
                })
            })
            .await
    }
}

#[async_trait]
impl DeviceStore for PostgresDeviceStore {
    async fn identity_write(
        &self,
        groups: Vec<Vec<IdentityWrite>>,
    ) -> Result<Vec<Written>, StoreError> {
        self.postgres
            .run("identity_write", &groups, |session, groups| {
                Box::pin(writes::write(session, groups))
            })
            .await
    }

    async fn identity_get(&self, id: &Identity) -> Result<Option<StoredIdentity>, StoreError> {
        self.reads.call(id.clone()).await
    }

    async fn device_list(
        &self,
        after: &str,
        top: usize,
    ) -> Result<Vec<StoredIdentity>, StoreError> {
        let sql = rows::select!(
            "",
            "(SELECT * FROM identity WHERE module_id = '' AND device_id > $1
                 ORDER BY device_id LIMIT $2) i",
            "ORDER BY i.device_id"
        );
        let top = i64::try_from(top).unwrap_or(i64::MAX);
        self.identities("device_list", sql, after, top).await
    }

    async fn module_list(&self, device: &str) -> Result<Vec<StoredIdentity>, StoreError> {
        let sql = rows::select!(
            "",
            "identity i",
            "WHERE i.device_id = $1 AND i.module_id <> '' ORDER BY i.module_id LIMIT $2"
        );
        self.identities("module_list", sql, device, i64::MAX).await
    }

    async fn device_statistics(&self) -> Result<Statistics, StoreError> {
        // Each is counted from an index that holds nothing else.
        let sql = "SELECT
            (SELECT count(*) FROM identity WHERE module_id = ''),
            (SELECT count(*) FROM identity WHERE status = 'disabled' AND module_id = ''),
            (SELECT count(*) FROM device_state WHERE connected AND module_id = '')";
        self.postgres
            .run("device_statistics", &sql, |session, sql| {
                Box::pin(async move {
                    let rows = session.read(sql, &[]).await?;
                    let row = rows.first().ok_or(Fault::Raced)?;
                    let count = |at: usize| row.get::<_, i64>(at).cast_unsigned();
                    Ok(Statistics { devices: count(0), disabled: count(1), connected: count(2) })
                })
            })
            .await
    }

    async fn setting_get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.postgres
            .run("setting_get", &escape(name), |session, name| Box::pin(setting(session, name)))
            .await
    }

    async fn setting_init(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let given = (escape(name), value);
        self.postgres
            .run("setting_init", &given, |session, (name, value)| {
                Box::pin(async move {
                    let sql = "INSERT INTO setting (name, value) VALUES ($1, $2)
                               ON CONFLICT DO NOTHING";
                    session.write(sql, &[name, value]).await?;
                    // Settings are never removed: what was in the way is there.
                    setting(session, name).await?.ok_or(Fault::Raced)
                })
            })
            .await
    }

    async fn setting_replace(&self, name: &str, old: &[u8], new: &[u8]) -> Result<(), StoreError> {
        let given = (escape(name), old, new);
        self.postgres
            .run("setting_replace", &given, |session, (name, old, new)| {
                Box::pin(async move {
                    let sql = "WITH replaced AS (
                                   UPDATE setting SET value = $3
                                   WHERE name = $1 AND value = $2 RETURNING 1
                               )
                               SELECT (SELECT count(*) FROM replaced),
                                   (SELECT count(*) FROM setting WHERE name = $1)";
                    let rows = session.write(sql, &[name, old, new]).await?;
                    let row = rows.first().ok_or(Fault::Raced)?;
                    Ok(match (row.get::<_, i64>(0), row.get::<_, i64>(1)) {
                        (0, 0) => Err(StoreError::NotFound),
                        (0, _) => Err(StoreError::PreconditionFailed),
                        _ => Ok(()),
                    })
                })
            })
            .await?
    }

    async fn epoch_generation_next(&self) -> Result<u32, StoreError> {
        let last = (1i64 << GENERATION_BITS) - 1;
        let next = self.postgres.run("epoch_generation_next", &last, |session, last| {
            Box::pin(async move {
                let sql = "UPDATE sequence SET value = value + 1
                           WHERE name = 'epoch_generation' AND value < $1 RETURNING value";
                let rows = session.write(sql, &[last]).await?;
                Ok(rows.first().map(|row| row.get::<_, i64>(0)))
            })
        });
        let next = next.await?.ok_or_else(|| unavailable("the epoch generations are used up"))?;
        u32::try_from(next).map_err(unavailable)
    }
}

async fn setting(session: &Session, name: &str) -> Result<Option<Vec<u8>>, Fault> {
    let rows = session.read("SELECT value FROM setting WHERE name = $1", &[&name]).await?;
    Ok(rows.first().map(|row| row.get(0)))
}

/// Identities by their ids, in one read.
struct Reads;

#[async_trait]
impl Work for Reads {
    type Call = Identity;
    type Answer = Option<StoredIdentity>;
    const KIND: &'static str = "identity_get";

    async fn run(
        &self,
        session: &Session,
        calls: &[Identity],
    ) -> Result<Vec<Result<Option<StoredIdentity>, StoreError>>, Fault> {
        let sql = rows::select!(
            "",
            "unnest($1::text[], $2::text[]) AS k (device_id, module_id)
                JOIN identity i USING (device_id, module_id)",
            ""
        );
        let wanted: BTreeSet<_> = calls.iter().collect();
        let Keys { devices, modules } = wanted.into_iter().collect();
        let mut found = HashMap::new();
        for row in session.read(sql, &[&devices, &modules]).await? {
            let stored = rows::from_row(&row)?;
            found.insert(stored.id.clone(), stored);
        }
        Ok(calls.iter().map(|id| Ok(found.get(id).cloned())).collect())
    }
}
