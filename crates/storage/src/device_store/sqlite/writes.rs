//! Groups of identity writes, each in a savepoint of its own.

use dunlin_model::device::{SYSTEM_MODULES, is_system_module};
use dunlin_model::{ConnectionState, Identity, Session, Twin, limits};
use rusqlite::{Connection, params};

use super::{damaged, rows};
use crate::StoreError;
use crate::command_queue::sqlite as commands;
use crate::device_store::{IdentityWrite, IfMatch, StoredIdentity, Written};
use crate::twin_store::sqlite as twins;

/// `Err` only if the store itself fails, which undoes every group.
pub(super) fn group(db: &Connection, writes: Vec<IdentityWrite>) -> Result<Written, StoreError> {
    db.prepare_cached("SAVEPOINT identity_group")?.execute([])?;
    let written: Written = writes.into_iter().map(|write| apply(db, write)).collect();
    if let Err(error) = written {
        if error.retryable() {
            return Err(error);
        }
        db.prepare_cached("ROLLBACK TO identity_group")?.execute([])?;
        db.prepare_cached("RELEASE identity_group")?.execute([])?;
        return Ok(Err(error));
    }
    db.prepare_cached("RELEASE identity_group")?.execute([])?;
    Ok(written)
}

fn apply(db: &Connection, write: IdentityWrite) -> Result<Option<StoredIdentity>, StoreError> {
    match write {
        IdentityWrite::Create(new, twin) => create(db, new, &twin).map(Some),
        IdentityWrite::Replace(new, if_match) => replace(db, new, &if_match).map(Some),
        IdentityWrite::Delete(id, if_match) => delete(db, &id, &if_match).map(|()| None),
    }
}

fn create(
    db: &Connection,
    mut new: StoredIdentity,
    twin: &Twin,
) -> Result<StoredIdentity, StoreError> {
    if rows::find(db, &new.id)?.is_some() {
        return Err(StoreError::AlreadyExists);
    }
    if let Some(module) = new.id.module_id() {
        let device = Identity::device(new.id.device_id()).map_err(damaged)?;
        rows::find(db, &device)?.ok_or(StoreError::NotFound)?;
        if !is_system_module(module) {
            let sql = "SELECT count(*) FROM identity
                       WHERE device_id = ?1 AND module_id NOT IN ('', ?2, ?3)";
            let [agent, hub] = SYSTEM_MODULES;
            let key = params![device.as_str(), agent, hub];
            let held: u32 = db.prepare_cached(sql)?.query_row(key, |row| row.get(0))?;
            if held as usize >= limits::MODULES_PER_DEVICE {
                return Err(StoreError::LimitReached);
            }
        }
    }
    rows::put(db, &new)?;
    twins::put(db, &new.id, twin)?;
    new.connection = ConnectionState::default();
    new.session = Session::default();
    Ok(new)
}

fn replace(
    db: &Connection,
    mut new: StoredIdentity,
    if_match: &IfMatch,
) -> Result<StoredIdentity, StoreError> {
    let old = find_matching(db, &new.id, if_match)?;
    let same = (old.status, &old.auth_type, &old.credentials)
        == (new.status, &new.auth_type, &new.credentials);
    new.auth_version = if same { old.auth_version } else { old.auth_version + 1 };
    new.generation_id = old.generation_id;
    rows::put(db, &new)?;
    new.connection = old.connection;
    new.session = old.session;
    Ok(new)
}

fn delete(db: &Connection, id: &Identity, if_match: &IfMatch) -> Result<(), StoreError> {
    find_matching(db, id, if_match)?;
    // A device takes its modules along: no module id means all rows of the device.
    for sql in [
        "DELETE FROM identity WHERE device_id = ?1 AND (?2 IS NULL OR module_id = ?2)",
        "DELETE FROM device_state WHERE device_id = ?1 AND (?2 IS NULL OR module_id = ?2)",
        "DELETE FROM twin WHERE device_id = ?1 AND (?2 IS NULL OR module_id = ?2)",
    ] {
        db.prepare_cached(sql)?.execute(params![id.device_id(), id.module_id()])?;
    }
    if id.module_id().is_none() {
        commands::forget(db, id.device_id())?;
    }
    Ok(())
}

/// What a write under `If-Match` works on; its errors in the order the trait asks for.
fn find_matching(
    db: &Connection,
    id: &Identity,
    if_match: &IfMatch,
) -> Result<StoredIdentity, StoreError> {
    let found = rows::find(db, id)?.ok_or(StoreError::NotFound)?;
    if if_match.matches(&found.etag) { Ok(found) } else { Err(StoreError::PreconditionFailed) }
}
