//! Rows of `identity`, with what `device_state` has of them.

use dunlin_model::{ConnectionState, Identity, KeyPair, Session, Status, Subscriptions};
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::damaged;
use crate::StoreError;
use crate::device_store::StoredIdentity;

/// Every column that is read. `device_state` has a row only of who was connected once.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT i.*, s.connected, s.connection_updated, s.last_activity, s.subscriptions,
                 s.model_id
             FROM identity i LEFT JOIN device_state s USING (device_id, module_id) ",
            $rest
        )
    };
}

pub(crate) fn find(db: &Connection, id: &Identity) -> Result<Option<StoredIdentity>, StoreError> {
    let sql = select!("WHERE i.device_id = ?1 AND i.module_id = ?2");
    let key = params![id.device_id(), id.module_id().unwrap_or_default()];
    let mut rows = db.prepare_cached(sql)?;
    rows.query_row(key, |row| Ok(from_row(row))).optional()?.transpose()
}

pub(super) fn devices(
    db: &Connection,
    after: &str,
    top: i64,
) -> Result<Vec<StoredIdentity>, StoreError> {
    let sql = select!("WHERE i.module_id = '' AND i.device_id > ?1 ORDER BY i.device_id LIMIT ?2");
    let mut rows = db.prepare_cached(sql)?;
    rows.query_and_then(params![after, top], from_row)?.collect()
}

pub(super) fn modules(db: &Connection, device: &str) -> Result<Vec<StoredIdentity>, StoreError> {
    let sql = select!("WHERE i.device_id = ?1 AND i.module_id <> '' ORDER BY i.module_id");
    let mut rows = db.prepare_cached(sql)?;
    rows.query_and_then([device], from_row)?.collect()
}

pub(super) fn put(db: &Connection, new: &StoredIdentity) -> Result<(), StoreError> {
    let sql = "INSERT OR REPLACE INTO identity (device_id, module_id, generation_id, etag, status,
                   status_reason, status_updated, auth_type, credentials, auth_version,
                   thumbprints, iot_edge, device_scope, parent_scopes, managed_by)
               VALUES (:device_id, :module_id, :generation_id, :etag, :status,
                   :status_reason, :status_updated, :auth_type, :credentials, :auth_version,
                   :thumbprints, :iot_edge, :device_scope, :parent_scopes, :managed_by)";
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
        ":thumbprints": new.thumbprints.as_ref().map(|two| [&*two.primary, &two.secondary].join("\n")),
        ":iot_edge": new.iot_edge,
        ":device_scope": new.device_scope,
        ":parent_scopes": new.parent_scopes.join("\n"),
        ":managed_by": new.managed_by,
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
    let parent_scopes: String = row.get("parent_scopes")?;
    let thumbprints: Option<String> = row.get("thumbprints")?;
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
        thumbprints: thumbprints.map(|two| {
            let (primary, secondary) = two.split_once('\n').unwrap_or((&two, ""));
            KeyPair { primary: primary.to_owned(), secondary: secondary.to_owned() }
        }),
        iot_edge: row.get("iot_edge")?,
        device_scope: row.get("device_scope")?,
        parent_scopes: parent_scopes.lines().map(str::to_owned).collect(),
        managed_by: row.get("managed_by")?,
        connection: ConnectionState {
            connected: row.get::<_, Option<bool>>("connected")?.unwrap_or_default(),
            updated: row.get::<_, Option<i64>>("connection_updated")?.unwrap_or_default(),
            last_activity: row.get::<_, Option<i64>>("last_activity")?.unwrap_or_default(),
        },
        session: Session {
            subscriptions: Subscriptions::from_bits(
                row.get::<_, Option<u32>>("subscriptions")?.unwrap_or_default(),
            ),
            model_id: row.get("model_id")?,
        },
    })
}
