//! `DeviceStore` on the embedded database.

use async_trait::async_trait;
use dunlin_model::Identity;
use rusqlite::{Connection, OptionalExtension, params};

use super::{DeviceStore, GENERATION_BITS, IdentityWrite, Statistics, StoredIdentity, Written};
use crate::StoreError;
use crate::sqlite::Sqlite;

mod connections;
pub(crate) mod rows;
mod writes;

pub struct SqliteDeviceStore {
    sqlite: Sqlite,
}

impl SqliteDeviceStore {
    pub fn new(sqlite: Sqlite) -> Self {
        Self { sqlite }
    }
}

#[async_trait]
impl DeviceStore for SqliteDeviceStore {
    async fn identity_write(
        &self,
        groups: Vec<Vec<IdentityWrite>>,
    ) -> Result<Vec<Written>, StoreError> {
        let write = move |db: &Connection| {
            groups.into_iter().map(|group| writes::group(db, group)).collect()
        };
        self.sqlite.write(write).await
    }

    async fn identity_get(&self, id: &Identity) -> Result<Option<StoredIdentity>, StoreError> {
        let id = id.clone();
        self.sqlite.read(move |db| rows::find(db, &id)).await
    }

    async fn device_list(
        &self,
        after: &str,
        top: usize,
    ) -> Result<Vec<StoredIdentity>, StoreError> {
        let (after, top) = (after.to_owned(), i64::try_from(top).unwrap_or(i64::MAX));
        self.sqlite.read(move |db| rows::devices(db, &after, top)).await
    }

    async fn module_list(&self, device: &str) -> Result<Vec<StoredIdentity>, StoreError> {
        let device = device.to_owned();
        self.sqlite.read(move |db| rows::modules(db, &device)).await
    }

    async fn device_statistics(&self) -> Result<Statistics, StoreError> {
        let count = |db: &Connection| {
            // Each is counted from an index that holds nothing else.
            let count = |sql: &str| -> rusqlite::Result<u64> {
                let count: i64 = db.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
                Ok(count.cast_unsigned())
            };
            Ok(Statistics {
                devices: count("SELECT count(*) FROM identity WHERE module_id = ''")?,
                disabled: count(
                    "SELECT count(*) FROM identity WHERE status = 'disabled' AND module_id = ''",
                )?,
                connected: count(
                    "SELECT count(*) FROM device_state WHERE connected = 1 AND module_id = ''",
                )?,
            })
        };
        self.sqlite.read(count).await
    }

    async fn setting_get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let name = name.to_owned();
        self.sqlite.read(move |db| setting(db, &name)).await
    }

    async fn setting_init(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let (name, value) = (name.to_owned(), value.to_owned());
        let init = move |db: &Connection| {
            let sql = "INSERT INTO setting (name, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
            db.prepare_cached(sql)?.execute(params![name, value])?;
            setting(db, &name)?.ok_or_else(|| damaged("a setting vanished"))
        };
        self.sqlite.write(init).await
    }

    async fn setting_replace(&self, name: &str, old: &[u8], new: &[u8]) -> Result<(), StoreError> {
        let (name, old, new) = (name.to_owned(), old.to_owned(), new.to_owned());
        let replace = move |db: &Connection| {
            let stored = setting(db, &name)?.ok_or(StoreError::NotFound)?;
            if stored != old {
                return Err(StoreError::PreconditionFailed);
            }
            let sql = "UPDATE setting SET value = ?2 WHERE name = ?1";
            db.prepare_cached(sql)?.execute(params![name, new])?;
            Ok(())
        };
        self.sqlite.write(replace).await
    }

    async fn epoch_generation_next(&self) -> Result<u32, StoreError> {
        let next = |db: &Connection| {
            let sql = "INSERT INTO sequence (name, value) VALUES ('epoch_generation', 1)
                       ON CONFLICT DO UPDATE SET value = value + 1 RETURNING value";
            let value: u32 = db.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
            if value >> GENERATION_BITS != 0 {
                return Err(damaged("the epoch generations are used up"));
            }
            Ok(value)
        };
        self.sqlite.write(next).await
    }
}

fn setting(db: &Connection, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let sql = "SELECT value FROM setting WHERE name = ?1";
    Ok(db.prepare_cached(sql)?.query_row([name], |row| row.get(0)).optional()?)
}

fn damaged(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::unavailable("sqlite", what)
}
