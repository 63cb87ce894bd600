//! One transaction for groups of identity writes: lock the devices, read all they have, apply the
//! groups in memory, write what has changed.

use std::collections::BTreeSet;

use dunlin_model::{Identity, Twin};
use tokio::try_join;

use super::groups::{Entry, Registry};
use super::rows;
use crate::device_store::{IdentityWrite, StoredIdentity, Written};
use crate::postgres::batch::Keys;
use crate::postgres::session::{Fault, Params, Session};
use crate::postgres::text::escape;
use crate::twin_store::postgres::rows as twins;

pub(super) async fn write(
    session: &Session,
    groups: &[Vec<IdentityWrite>],
) -> Result<Vec<Written>, Fault> {
    let mut registry = hold(session, groups).await?;
    let written: Vec<_> = groups.iter().map(|group| registry.group(group)).collect();
    let entries: Vec<_> = registry.entries().collect();
    let of = |which: fn(&Entry) -> bool| -> Vec<_> {
        entries.iter().filter(|(_, _, entry)| which(entry)).copied().collect()
    };
    let gone = of(|entry| entry.gone);
    let made = of(|entry| entry.made.is_some());
    let changed = of(|entry| entry.changed && entry.made.is_none());
    if gone.is_empty() && made.is_empty() && changed.is_empty() {
        session.trip(session.rollback()).await?;
        return Ok(written);
    }
    let update = session.prepare(rows::UPDATE).await?;
    let changed: Vec<_> = changed.iter().filter_map(|(_, _, entry)| entry.now.as_ref()).collect();
    remove(session, &gone).await?;
    insert(session, &made).await?;
    let writes =
        async { try_join!(biased; rows::write(session, &update, &changed), session.commit()) };
    session.trip(writes).await?;
    Ok(written)
}

fn id(write: &IdentityWrite) -> &Identity {
    match write {
        IdentityWrite::Create(new, _) | IdentityWrite::Replace(new, _) => &new.id,
        IdentityWrite::Delete(id, _) => id,
    }
}

/// Begins, locks the devices' own rows in order, then reads: a module that another transaction has
/// made meanwhile is among what is read.
async fn hold(session: &Session, groups: &[Vec<IdentityWrite>]) -> Result<Registry, Fault> {
    let lock = "SELECT device_id FROM identity WHERE device_id = ANY($1) AND module_id = ''
                ORDER BY device_id FOR UPDATE";
    let read = rows::select!("", "identity i", "WHERE i.device_id = ANY($1)");
    let (lock, read) = (session.prepare(lock).await?, session.prepare(read).await?);
    let devices: BTreeSet<_> = groups.iter().flatten().map(|write| id(write).device_id()).collect();
    let devices: Vec<_> = devices.into_iter().collect();
    let params: Params<'_> = &[&devices];
    let trip = async {
        try_join!(
            biased;
            session.begin(),
            session.query(&lock, params),
            session.query(&read, params),
        )
    };
    let (_, locked, found) = session.trip(trip).await?;
    let locked: BTreeSet<&str> = locked.iter().map(|row| row.get(0)).collect();
    let mut registry = Registry::default();
    for row in &found {
        let stored = rows::from_row(row)?;
        // Made after the lock was asked for: it must be locked too.
        if !locked.contains(stored.id.device_id()) {
            return Err(Fault::Raced);
        }
        registry.load(stored);
    }
    Ok(registry)
}

type Entries<'a> = &'a [(&'a str, &'a str, &'a Entry)];

/// Tables in the order in which everybody locks them, rows by their keys.
async fn remove(session: &Session, gone: Entries<'_>) -> Result<(), Fault> {
    if gone.is_empty() {
        return Ok(());
    }
    macro_rules! delete {
        ($table:literal) => {
            session
                .prepare(concat!(
                    "DELETE FROM ",
                    $table,
                    " WHERE (device_id, module_id) IN (
                     SELECT t.device_id, t.module_id
                     FROM unnest($1::text[], $2::text[]) AS k (device_id, module_id)
                         JOIN ",
                    $table,
                    " t USING (device_id, module_id)
                     ORDER BY t.device_id, t.module_id FOR UPDATE OF t)"
                ))
                .await?
        };
    }
    let tables = [delete!("identity"), delete!("device_state"), delete!("twin")];
    // Who adds to a queue, or to its feedback, holds the queue.
    let queue = "DELETE FROM command_queue WHERE device_id IN (
                     SELECT device_id FROM command_queue WHERE device_id = ANY($1)
                     ORDER BY device_id FOR UPDATE)";
    let queue = session.prepare(queue).await?;
    let commands = session.prepare("DELETE FROM command WHERE device_id = ANY($1)").await?;
    let feedback = session.prepare("DELETE FROM feedback WHERE device_id = ANY($1)").await?;
    let devices: Vec<_> = gone.iter().map(|(device, ..)| *device).collect();
    let modules: Vec<_> = gone.iter().map(|(_, module, _)| *module).collect();
    let whole = gone.iter().filter(|(_, module, _)| module.is_empty());
    let whole: Vec<_> = whole.map(|(device, ..)| *device).collect();
    let (keys, whole): (Params<'_>, Params<'_>) = (&[&devices, &modules], &[&whole]);
    let [identity, state, twin] = &tables;
    let trip = async {
        try_join!(
            biased;
            session.execute(identity, keys),
            session.execute(state, keys),
            session.execute(twin, keys),
            session.execute(&queue, whole),
            session.execute(&commands, whole),
            session.execute(&feedback, whole),
        )
    };
    session.trip(trip).await.map(drop)
}

/// That another transaction has made the same fails as a whole, and is tried again.
async fn insert(session: &Session, made: Entries<'_>) -> Result<(), Fault> {
    if made.is_empty() {
        return Ok(());
    }
    let state = "INSERT INTO device_state (device_id, module_id, generation_id)
                 SELECT * FROM unnest($1::text[], $2::text[], $3::text[])";
    let queue = "INSERT INTO command_queue (device_id, generation_id)
                 SELECT n.device_id, n.generation_id
                 FROM unnest($1::text[], $2::text[], $3::text[])
                     AS n (device_id, module_id, generation_id)
                 WHERE n.module_id = ''";
    let identity = session.prepare(rows::INSERT).await?;
    let (state, queue) = (session.prepare(state).await?, session.prepare(queue).await?);
    let twin = session.prepare(twins::INSERT).await?;
    let new: Vec<&StoredIdentity> =
        made.iter().filter_map(|(_, _, entry)| entry.now.as_ref()).collect();
    let with_twin: Vec<(&Identity, &Twin)> = made
        .iter()
        .filter_map(|(_, _, entry)| Some((&entry.now.as_ref()?.id, entry.made.as_ref()?)))
        .collect();
    let Keys { devices, modules } = new.iter().map(|new| &new.id).collect();
    let generations: Vec<_> = new.iter().map(|new| escape(&new.generation_id)).collect();
    let keys: Params<'_> = &[&devices, &modules, &generations];
    let trip = async {
        try_join!(
            biased;
            rows::write(session, &identity, &new),
            session.execute(&state, keys),
            twins::insert(session, &twin, &with_twin),
            session.execute(&queue, keys),
        )
    };
    session.trip(trip).await.map(drop)
}
