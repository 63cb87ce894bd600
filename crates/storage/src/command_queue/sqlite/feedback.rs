//! Rows of `feedback` and `feedback_batch`. A batch is made when somebody asks for one.

use dunlin_model::command::{Disposition, LockToken, Outcome};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::damaged;
use crate::StoreError;
use crate::command_queue::{FeedbackBatch, FeedbackRecord, FeedbackRules};

pub(super) fn lease(
    db: &Connection,
    token: LockToken,
    now: i64,
    rules: &FeedbackRules,
) -> Result<Option<FeedbackBatch>, StoreError> {
    look(db, now, rules)?;
    let sql = "SELECT id, enqueued, delivery_count FROM feedback_batch
               WHERE lock_token IS NULL ORDER BY id LIMIT 1";
    let waiting = db
        .prepare_cached(sql)?
        .query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?)));
    let (id, enqueued, delivery_count) = match waiting.optional()? {
        Some(batch) => batch,
        None => match make(db, now, rules)? {
            Some(id) => (id, now, 0),
            None => return Ok(None),
        },
    };
    let sql = "UPDATE feedback_batch SET lock_token = ?2, lock_until = ?3 WHERE id = ?1";
    db.prepare_cached(sql)?.execute(params![id, token.as_bytes(), now + rules.lock])?;
    let mut records = db.prepare_cached("SELECT * FROM feedback WHERE batch = ?1 ORDER BY id")?;
    let records = records.query_and_then([id], record)?.collect::<Result<_, StoreError>>()?;
    Ok(Some(FeedbackBatch {
        token,
        sequence: id.cast_unsigned(),
        delivery_count,
        enqueued,
        records,
    }))
}

pub(super) fn settle(
    db: &Connection,
    token: LockToken,
    disposition: Disposition,
    now: i64,
    rules: &FeedbackRules,
) -> Result<bool, StoreError> {
    look(db, now, rules)?;
    let sql = "SELECT id, delivery_count FROM feedback_batch WHERE lock_token = ?1";
    let held = db
        .prepare_cached(sql)?
        .query_row([token.as_bytes()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?)));
    let Some((id, count)) = held.optional()? else { return Ok(false) };
    match disposition {
        Disposition::Complete | Disposition::Reject => remove(db, id)?,
        Disposition::Abandon => put_back(db, id, count, rules)?,
    }
    Ok(true)
}

/// Ends what time has ended.
fn look(db: &Connection, now: i64, rules: &FeedbackRules) -> Result<(), StoreError> {
    let sql = "SELECT id, delivery_count FROM feedback_batch
               WHERE lock_token IS NOT NULL AND lock_until <= ?1";
    let mut over = db.prepare_cached(sql)?;
    let over = over.query_map([now], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let over: Vec<(i64, u32)> = over.collect::<Result<_, _>>()?;
    for (id, count) in over {
        put_back(db, id, count, rules)?;
    }
    forget_old(db, now, rules)
}

/// Drops records that are too old, unless somebody has them, and batches without any. A batch whose
/// devices went while somebody had it stays: he may complete it.
pub(super) fn forget_old(
    db: &Connection,
    now: i64,
    rules: &FeedbackRules,
) -> Result<(), StoreError> {
    let sql = "DELETE FROM feedback WHERE enqueued <= ?1 AND (batch IS NULL OR batch NOT IN
                   (SELECT id FROM feedback_batch WHERE lock_token IS NOT NULL AND lock_until > ?2))";
    db.prepare_cached(sql)?.execute(params![now - rules.ttl, now])?;
    let sql = "DELETE FROM feedback_batch
               WHERE (lock_token IS NULL OR lock_until <= ?1)
                   AND NOT EXISTS (SELECT 1 FROM feedback WHERE batch = feedback_batch.id)";
    db.prepare_cached(sql)?.execute([now])?;
    Ok(())
}

fn put_back(
    db: &Connection,
    id: i64,
    delivery_count: u32,
    rules: &FeedbackRules,
) -> Result<(), StoreError> {
    if delivery_count + 1 >= rules.max_delivery_count {
        return remove(db, id);
    }
    let sql = "UPDATE feedback_batch SET lock_token = NULL, delivery_count = delivery_count + 1
               WHERE id = ?1";
    db.prepare_cached(sql)?.execute([id])?;
    Ok(())
}

fn remove(db: &Connection, id: i64) -> Result<(), StoreError> {
    for sql in ["DELETE FROM feedback WHERE batch = ?1", "DELETE FROM feedback_batch WHERE id = ?1"]
    {
        db.prepare_cached(sql)?.execute([id])?;
    }
    Ok(())
}

/// A batch of the oldest records, if there are enough or they have waited for long enough.
fn make(db: &Connection, now: i64, rules: &FeedbackRules) -> Result<Option<i64>, StoreError> {
    let sql = "SELECT id, enqueued FROM feedback WHERE batch IS NULL ORDER BY id LIMIT ?1";
    let mut single = db.prepare_cached(sql)?;
    let single = single.query_map([rules.batch_records], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let single: Vec<(i64, i64)> = single.collect::<Result<_, _>>()?;
    let [(_, oldest), ..] = single[..] else { return Ok(None) };
    // One from the future, since the clock was set back, has waited for long enough, too.
    let young = (0..rules.batch_age).contains(&(now - oldest));
    if young && single.len() < rules.batch_records as usize {
        return Ok(None);
    }
    let sql = "INSERT INTO feedback_batch (enqueued, delivery_count, lock_until)
               VALUES (?1, 0, 0) RETURNING id";
    let batch: i64 = db.prepare_cached(sql)?.query_row([now], |row| row.get(0))?;
    let mut join = db.prepare_cached("UPDATE feedback SET batch = ?2 WHERE id = ?1")?;
    for (id, _) in single {
        join.execute(params![id, batch])?;
    }
    Ok(Some(batch))
}

fn record(row: &Row<'_>) -> Result<FeedbackRecord, StoreError> {
    let outcome: String = row.get("outcome")?;
    Ok(FeedbackRecord {
        message_id: row.get("message_id")?,
        outcome: Outcome::parse(&outcome).ok_or_else(|| damaged("feedback of an unknown kind"))?,
        enqueued: row.get("enqueued")?,
        device_id: row.get("device_id")?,
        generation_id: row.get("generation_id")?,
    })
}
