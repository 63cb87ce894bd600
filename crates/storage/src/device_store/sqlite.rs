//! `DeviceStore` on the embedded database.

use async_trait::async_trait;
use dunlin_model::{Identity, Status};
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::{DeviceStore, IfMatch, StoredIdentity};
use crate::StoreError;
use crate::sqlite::Sqlite;

/// The bits an epoch leaves for its generation above the counter (`generation << 40 | counter`).
const GENERATION_BITS: u32 = 24;

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
    async fn identity_create(&self, new: StoredIdentity) -> Result<(), StoreError> {
        let create = move |db: &Connection| {
            if find(db, &new.id)?.is_some() {
                return Err(StoreError::AlreadyExists);
            }
            if new.id.module_id().is_some() {
                let device = Identity::device(new.id.device_id()).map_err(damaged)?;
                find(db, &device)?.ok_or(StoreError::NotFound)?;
            }
            put(db, &new)
        };
        self.sqlite.write(create).await
    }

    async fn identity_get(&self, id: &Identity) -> Result<Option<StoredIdentity>, StoreError> {
        let id = id.clone();
        self.sqlite.read(move |db| find(db, &id)).await
    }

    async fn device_list(&self, top: usize) -> Result<Vec<StoredIdentity>, StoreError> {
        let top = i64::try_from(top).unwrap_or(i64::MAX);
        let list = move |db: &Connection| {
            let sql = "SELECT * FROM identity WHERE module_id = '' ORDER BY device_id LIMIT ?1";
            let mut rows = db.prepare_cached(sql)?;
            rows.query_and_then([top], from_row)?.collect()
        };
        self.sqlite.read(list).await
    }

    async fn module_list(&self, device: &str) -> Result<Vec<StoredIdentity>, StoreError> {
        let device = device.to_owned();
        let list = move |db: &Connection| {
            let sql = "SELECT * FROM identity WHERE device_id = ?1 AND module_id <> ''
                       ORDER BY module_id";
            let mut rows = db.prepare_cached(sql)?;
            rows.query_and_then([device], from_row)?.collect()
        };
        self.sqlite.read(list).await
    }

    async fn identity_replace(
        &self,
        mut new: StoredIdentity,
        if_match: IfMatch,
    ) -> Result<StoredIdentity, StoreError> {
        let replace = move |db: &Connection| {
            let old = find_matching(db, &new.id, &if_match)?;
            let same = (old.status, &old.auth_type, &old.credentials)
                == (new.status, &new.auth_type, &new.credentials);
            new.auth_version = if same { old.auth_version } else { old.auth_version + 1 };
            new.generation_id = old.generation_id;
            put(db, &new)?;
            Ok(new)
        };
        self.sqlite.write(replace).await
    }

    async fn identity_delete(&self, id: &Identity, if_match: IfMatch) -> Result<(), StoreError> {
        let id = id.clone();
        let delete = move |db: &Connection| {
            find_matching(db, &id, &if_match)?;
            // A device takes its modules along: no module id means all rows of the device.
            let sql = "DELETE FROM identity
                       WHERE device_id = ?1 AND (?2 IS NULL OR module_id = ?2)";
            db.prepare_cached(sql)?.execute(params![id.device_id(), id.module_id()])?;
            Ok(())
        };
        self.sqlite.write(delete).await
    }

    async fn setting_init(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let (name, value) = (name.to_owned(), value.to_owned());
        let init = move |db: &Connection| {
            let sql = "INSERT INTO setting (name, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
            db.prepare_cached(sql)?.execute(params![name, value])?;
            let sql = "SELECT value FROM setting WHERE name = ?1";
            Ok(db.prepare_cached(sql)?.query_row([name], |row| row.get(0))?)
        };
        self.sqlite.write(init).await
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

fn find(db: &Connection, id: &Identity) -> Result<Option<StoredIdentity>, StoreError> {
    let sql = "SELECT * FROM identity WHERE device_id = ?1 AND module_id = ?2";
    let key = params![id.device_id(), id.module_id().unwrap_or_default()];
    let mut rows = db.prepare_cached(sql)?;
    rows.query_row(key, |row| Ok(from_row(row))).optional()?.transpose()
}

/// What an operation under `If-Match` works on; its errors in the order the trait asks for.
fn find_matching(
    db: &Connection,
    id: &Identity,
    if_match: &IfMatch,
) -> Result<StoredIdentity, StoreError> {
    let found = find(db, id)?.ok_or(StoreError::NotFound)?;
    if if_match.matches(&found.etag) { Ok(found) } else { Err(StoreError::PreconditionFailed) }
}

fn put(db: &Connection, new: &StoredIdentity) -> Result<(), StoreError> {
    let sql = "INSERT OR REPLACE INTO identity (device_id, module_id, generation_id, etag, status,
                   status_reason, status_updated, auth_type, credentials, auth_version)
               VALUES (:device_id, :module_id, :generation_id, :etag, :status,
                   :status_reason, :status_updated, :auth_type, :credentials, :auth_version)";
    db.prepare_cached(sql)?.execute(named_params! {
        ":device_id": new.id.device_id(),
        ":module_id": new.id.module_id().unwrap_or_default(),
        ":generation_id": new.generation_id,
        ":etag": new.etag,
        ":status": new.status.as_str(),
        ":status_reason": new.status_reason,
        ":status_updated": new.status_updated,
        ":auth_type": new.auth_type,
        ":credentials": new.credentials,
        ":auth_version": new.auth_version.cast_signed(),
    })?;
    Ok(())
}

fn from_row(row: &Row<'_>) -> Result<StoredIdentity, StoreError> {
    let device: String = row.get("device_id")?;
    let module: String = row.get("module_id")?;
    let id = match module.as_str() {
        "" => Identity::device(&device),
        module => Identity::module(&device, module),
    };
    let status: String = row.get("status")?;
    let auth_version: i64 = row.get("auth_version")?;
    Ok(StoredIdentity {
        id: id.map_err(damaged)?,
        generation_id: row.get("generation_id")?,
        etag: row.get("etag")?,
        status: Status::parse(&status).ok_or_else(|| damaged("a row has an unknown status"))?,
        status_reason: row.get("status_reason")?,
        status_updated: row.get("status_updated")?,
        auth_type: row.get("auth_type")?,
        credentials: row.get("credentials")?,
        auth_version: auth_version.cast_unsigned(),
    })
}

fn damaged(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::unavailable("sqlite", what)
}
