//! `TwinStore` on the embedded database: rows of `twin`, which `DeviceStore` makes and removes.

use async_trait::async_trait;
use dunlin_model::json::{self, Object};
use dunlin_model::twin::{Limits, Report, Section, Update};
use dunlin_model::{Identity, Twin};
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::{StoredTwin, TwinStore, Updated};
use crate::StoreError;
use crate::device_store::sqlite::rows as identities;
use crate::sqlite::Sqlite;

pub struct SqliteTwinStore {
    sqlite: Sqlite,
}

impl SqliteTwinStore {
    pub fn new(sqlite: Sqlite) -> Self {
        Self { sqlite }
    }
}

#[async_trait]
impl TwinStore for SqliteTwinStore {
    async fn twin_get(&self, id: &Identity) -> Result<Option<StoredTwin>, StoreError> {
        let id = id.clone();
        let get = move |db: &Connection| {
            let twin = find(db, &id)?;
            twin.map(|twin| with_identity(db, &id, twin)).transpose()
        };
        self.sqlite.read(get).await
    }

    async fn twin_update(
        &self,
        id: &Identity,
        update: Update,
        now: i64,
        limits: &Limits,
    ) -> Result<Updated, StoreError> {
        let (id, limits) = (id.clone(), limits.clone());
        let apply = move |db: &Connection| {
            let mut twin = find(db, &id)?.ok_or(StoreError::NotFound)?;
            let before = twin.version;
            let told = twin.update(&update, now, &limits).map_err(StoreError::Refused)?;
            if twin.version != before {
                put(db, &id, &twin)?;
            }
            Ok(Updated { stored: with_identity(db, &id, twin)?, told })
        };
        self.sqlite.write(apply).await
    }

    async fn twin_report(
        &self,
        id: &Identity,
        report: Report,
        now: i64,
        limits: &Limits,
    ) -> Result<u64, StoreError> {
        let (id, limits) = (id.clone(), limits.clone());
        let apply = move |db: &Connection| {
            let mut twin = find(db, &id)?.ok_or(StoreError::NotFound)?;
            if twin.report(&report, now, &limits).map_err(StoreError::Refused)? {
                put(db, &id, &twin)?;
            }
            Ok(twin.reported.version)
        };
        self.sqlite.write(apply).await
    }
}

fn with_identity(db: &Connection, id: &Identity, twin: Twin) -> Result<StoredTwin, StoreError> {
    let mut identity = identities::find(db, id)?
        .ok_or_else(|| StoreError::unavailable("sqlite", "a twin has no identity"))?;
    identity.credentials = Vec::new();
    Ok(StoredTwin { identity, twin })
}

fn find(db: &Connection, id: &Identity) -> Result<Option<Twin>, StoreError> {
    let sql = "SELECT * FROM twin WHERE device_id = ?1 AND module_id = ?2";
    let key = params![id.device_id(), id.module_id().unwrap_or_default()];
    let mut rows = db.prepare_cached(sql)?;
    rows.query_row(key, |row| Ok(from_row(row))).optional()?.transpose()
}

pub(crate) fn put(db: &Connection, id: &Identity, twin: &Twin) -> Result<(), StoreError> {
    let sql = "INSERT OR REPLACE INTO twin (device_id, module_id, etag, version, tags,
                   desired, desired_metadata, desired_version,
                   reported, reported_metadata, reported_version, reported_epoch)
               VALUES (:device_id, :module_id, :etag, :version, :tags,
                   :desired, :desired_metadata, :desired_version,
                   :reported, :reported_metadata, :reported_version, :reported_epoch)";
    db.prepare_cached(sql)?.execute(named_params! {
        ":device_id": id.device_id(),
        ":module_id": id.module_id().unwrap_or_default(),
        ":etag": twin.etag.cast_signed(),
        ":version": twin.version.cast_signed(),
        ":tags": text(&twin.tags)?,
        ":desired": text(&twin.desired.properties)?,
        ":desired_metadata": text(&twin.desired.metadata)?,
        ":desired_version": twin.desired.version.cast_signed(),
        ":reported": text(&twin.reported.properties)?,
        ":reported_metadata": text(&twin.reported.metadata)?,
        ":reported_version": twin.reported.version.cast_signed(),
        ":reported_epoch": twin.reported_epoch.cast_signed(),
    })?;
    Ok(())
}

fn from_row(row: &Row<'_>) -> Result<Twin, StoreError> {
    let section = |properties, metadata, version| -> Result<Section, StoreError> {
        Ok(Section {
            properties: object(row, properties)?,
            metadata: object(row, metadata)?,
            version: counter(row, version)?,
        })
    };
    Ok(Twin {
        etag: counter(row, "etag")?,
        version: counter(row, "version")?,
        tags: object(row, "tags")?,
        desired: section("desired", "desired_metadata", "desired_version")?,
        reported: section("reported", "reported_metadata", "reported_version")?,
        reported_epoch: counter(row, "reported_epoch")?,
    })
}

fn counter(row: &Row<'_>, column: &str) -> Result<u64, StoreError> {
    Ok(row.get::<_, i64>(column)?.cast_unsigned())
}

fn object(row: &Row<'_>, column: &str) -> Result<Object, StoreError> {
    let text = row.get_ref(column)?.as_str().map_err(unavailable)?;
    json::stored(text).map_err(unavailable)
}

fn text(object: &Object) -> Result<String, StoreError> {
    serde_json::to_string(object).map_err(unavailable)
}

fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::unavailable("sqlite", source)
}
