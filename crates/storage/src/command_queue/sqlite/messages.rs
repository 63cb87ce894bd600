//! Rows of `command`: what takes one from a state to the next.

use std::ops::Range;

use dunlin_model::Command;
use dunlin_model::command::{Ack, Disposition, LockToken, Outcome};
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::damaged;
use crate::StoreError;
use crate::command_queue::{Leased, Rules};
use crate::presence::Epoch;

/// What decides on the next state of a message.
struct Stage {
    sequence: i64,
    locked: bool,
    delivery_count: u32,
    expires: i64,
}

impl Stage {
    const COLUMNS: &str = "sequence, lock_token IS NOT NULL, delivery_count, expires";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            sequence: row.get(0)?,
            locked: row.get(1)?,
            delivery_count: row.get(2)?,
            expires: row.get(3)?,
        })
    }
}

/// Ends what time has ended. Whether a message is to be had again.
pub(super) fn look(
    db: &Connection,
    device: &str,
    now: i64,
    rules: &Rules,
) -> Result<bool, StoreError> {
    let mut returned = false;
    for stage in stages(db, "due <= ?2 AND ?3 = 0", device, now, 0)? {
        returned |= put_back(db, device, &stage, stage.locked, now, rules)?;
    }
    Ok(returned)
}

/// Ends the locks of these connections.
pub(super) fn take_back(
    db: &Connection,
    device: &str,
    epochs: Range<Epoch>,
    in_vain: bool,
    now: i64,
    rules: &Rules,
) -> Result<(), StoreError> {
    let (from, to) = (epochs.start.cast_signed(), epochs.end.cast_signed());
    for stage in stages(db, "lock_epoch >= ?2 AND lock_epoch < ?3", device, from, to)? {
        put_back(db, device, &stage, in_vain, now, rules)?;
    }
    Ok(())
}

fn stages(
    db: &Connection,
    which: &str,
    device: &str,
    first: i64,
    second: i64,
) -> Result<Vec<Stage>, StoreError> {
    let columns = Stage::COLUMNS;
    let sql =
        format!("SELECT {columns} FROM command WHERE device_id = ?1 AND {which} ORDER BY sequence");
    let mut rows = db.prepare_cached(&sql)?;
    let rows = rows.query_map(params![device, first, second], Stage::read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A message nobody holds any more is where it was, unless that is its end. Whether it is back.
fn put_back(
    db: &Connection,
    device: &str,
    stage: &Stage,
    in_vain: bool,
    now: i64,
    rules: &Rules,
) -> Result<bool, StoreError> {
    let count = stage.delivery_count + u32::from(in_vain);
    if in_vain && count >= rules.max_delivery_count {
        return end(db, device, stage.sequence, Outcome::DeliveryCountExceeded, now)
            .map(|()| false);
    }
    if stage.expires <= now {
        return end(db, device, stage.sequence, Outcome::Expired, now).map(|()| false);
    }
    let sql = "UPDATE command SET due = expires, delivery_count = ?3, lock_token = NULL,
                   lock_epoch = NULL WHERE device_id = ?1 AND sequence = ?2";
    db.prepare_cached(sql)?.execute(params![device, stage.sequence, count])?;
    Ok(true)
}

/// The one way out of the queue, but for the device's own end.
fn end(
    db: &Connection,
    device: &str,
    sequence: i64,
    outcome: Outcome,
    now: i64,
) -> Result<(), StoreError> {
    let sql = "DELETE FROM command WHERE device_id = ?1 AND sequence = ?2
               RETURNING ack, message_id";
    let mut rows = db.prepare_cached(sql)?;
    let (acked, id): (String, Option<String>) =
        rows.query_row(params![device, sequence], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if ack(&acked)?.wants(outcome) {
        let sql = "INSERT INTO feedback (device_id, generation_id, message_id, outcome, enqueued)
                   SELECT device_id, generation_id, ?2, ?3, ?4 FROM identity
                       WHERE device_id = ?1 AND module_id = ''";
        let id = id.unwrap_or_default();
        db.prepare_cached(sql)?.execute(params![device, id, outcome.as_str(), now])?;
    }
    Ok(())
}

pub(super) fn put(
    db: &Connection,
    device: &str,
    command: &Command,
    now: i64,
) -> Result<u64, StoreError> {
    let sql = "INSERT INTO command_queue (device_id, sequence, epoch) VALUES (?1, 1, 0)
               ON CONFLICT DO UPDATE SET sequence = sequence + 1 RETURNING sequence";
    let sequence: i64 = db.prepare_cached(sql)?.query_row([device], |row| row.get(0))?;
    let expires = command.expires.ok_or_else(|| damaged("a message without an end"))?;
    let sql = "INSERT INTO command (device_id, sequence, message_id, correlation_id, user_id,
                   content_type, content_encoding, ack, properties, enqueued, expires, due,
                   delivery_count, body)
               VALUES (:device_id, :sequence, :message_id, :correlation_id, :user_id,
                   :content_type, :content_encoding, :ack, :properties, :enqueued, :expires,
                   :expires, 0, :body)";
    db.prepare_cached(sql)?.execute(named_params! {
        ":device_id": device,
        ":sequence": sequence,
        ":message_id": command.message_id,
        ":correlation_id": command.correlation_id,
        ":user_id": command.user_id,
        ":content_type": command.content_type,
        ":content_encoding": command.content_encoding,
        ":ack": command.ack.as_str(),
        ":properties": serde_json::to_string(&command.properties).map_err(damaged)?,
        ":enqueued": now,
        ":expires": expires,
        ":body": command.body,
    })?;
    Ok(sequence.cast_unsigned())
}

/// Locks the first messages that nobody holds.
pub(super) fn lock(
    db: &Connection,
    device: &str,
    epoch: Epoch,
    tokens: Vec<LockToken>,
    bytes: usize,
    until: i64,
) -> Result<Vec<Leased>, StoreError> {
    let sql = "SELECT * FROM command WHERE device_id = ?1 AND lock_token IS NULL ORDER BY sequence";
    let mut free = db.prepare_cached(sql)?;
    let mut free = free.query([device])?;
    let (mut leased, mut filled) = (Vec::new(), 0);
    for token in tokens {
        let Some(row) = free.next()?.filter(|_| filled < bytes) else { break };
        let one = read(row, token)?;
        filled += one.command.weight();
        leased.push(one);
    }
    let sql = "UPDATE command SET lock_token = ?3, lock_epoch = ?4, due = ?5
               WHERE device_id = ?1 AND sequence = ?2";
    let mut update = db.prepare_cached(sql)?;
    for Leased { token, sequence, .. } in &leased {
        let (token, epoch) = (token.as_bytes(), epoch.cast_signed());
        update.execute(params![device, sequence.cast_signed(), token, epoch, until])?;
    }
    Ok(leased)
}

/// Whether the message is to be had again; `None`: the lock is not held.
pub(super) fn settle(
    db: &Connection,
    device: &str,
    epoch: Epoch,
    token: &LockToken,
    disposition: Disposition,
    now: i64,
    rules: &Rules,
) -> Result<Option<bool>, StoreError> {
    let columns = Stage::COLUMNS;
    let sql = format!(
        "SELECT {columns} FROM command
         WHERE device_id = ?1 AND lock_token = ?2 AND lock_epoch = ?3"
    );
    let mut held = db.prepare_cached(&sql)?;
    let key = params![device, token.as_bytes(), epoch.cast_signed()];
    let Some(stage) = held.query_row(key, Stage::read).optional()? else { return Ok(None) };
    match disposition {
        Disposition::Complete => end(db, device, stage.sequence, Outcome::Success, now)?,
        Disposition::Reject => end(db, device, stage.sequence, Outcome::Rejected, now)?,
        Disposition::Abandon => return put_back(db, device, &stage, true, now, rules).map(Some),
    }
    Ok(Some(false))
}

pub(super) fn purge(db: &Connection, device: &str, now: i64) -> Result<u32, StoreError> {
    let all = stages(db, "?2 = 0 AND ?3 = 0", device, 0, 0)?;
    for stage in &all {
        end(db, device, stage.sequence, Outcome::Purged, now)?;
    }
    u32::try_from(all.len()).map_err(damaged)
}

fn read(row: &Row<'_>, token: LockToken) -> Result<Leased, StoreError> {
    let properties: String = row.get("properties")?;
    Ok(Leased {
        command: Command {
            message_id: row.get("message_id")?,
            correlation_id: row.get("correlation_id")?,
            user_id: row.get("user_id")?,
            content_type: row.get("content_type")?,
            content_encoding: row.get("content_encoding")?,
            expires: Some(row.get("expires")?),
            ack: ack(&row.get::<_, String>("ack")?)?,
            properties: serde_json::from_str(&properties).map_err(damaged)?,
            body: row.get("body")?,
        },
        token,
        sequence: row.get::<_, i64>("sequence")?.cast_unsigned(),
        delivery_count: row.get("delivery_count")?,
        enqueued: row.get("enqueued")?,
    })
}

fn ack(text: &str) -> Result<Ack, StoreError> {
    Ack::parse(text).ok_or_else(|| damaged("a message wants unknown feedback"))
}
