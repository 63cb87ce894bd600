//! Rows of `feedback` and `feedback_batch`. They belong to the whole hub: one transaction at a time
//! works on batches, by the lock on the row that numbers them. A batch is made when somebody asks
//! for one.

use dunlin_model::command::{Disposition, LockToken, Outcome};
use tokio::try_join;
use tokio_postgres::Row;

use crate::StoreError;
use crate::command_queue::{FeedbackBatch, FeedbackRecord, FeedbackRules};
use crate::postgres::session::{Fault, Params, Session};
use crate::postgres::text::unescape;
use crate::postgres::{Postgres, unavailable};

pub(super) async fn lease(
    postgres: &Postgres,
    token: LockToken,
    now: i64,
    rules: &FeedbackRules,
) -> Result<Option<FeedbackBatch>, StoreError> {
    let given = (token, now, rules);
    let lease = postgres.run("feedback_lease", &given, |session, (token, now, rules)| {
        Box::pin(hand_out(session, *token, *now, rules))
    });
    lease.await
}

pub(super) async fn settle(
    postgres: &Postgres,
    token: LockToken,
    disposition: Disposition,
    now: i64,
    rules: &FeedbackRules,
) -> Result<bool, StoreError> {
    let given = (token, disposition, now, rules);
    let settle = postgres.run("feedback_settle", &given, |session, given| {
        let (token, disposition, now, rules) = given;
        Box::pin(end(session, *token, *disposition, *now, rules))
    });
    settle.await
}

/// Drops what is too old. A lock ends when somebody asks.
pub(super) async fn sweep(
    postgres: &Postgres,
    now: i64,
    rules: &FeedbackRules,
) -> Result<(), StoreError> {
    let given = (now, rules);
    let sweep = postgres.run("feedback_sweep", &given, |session, (now, rules)| {
        Box::pin(async move {
            let sql = "SELECT 1 WHERE EXISTS (SELECT 1 FROM feedback WHERE enqueued <= $1)
                           OR EXISTS (SELECT 1 FROM command WHERE due <= $2)";
            if session.read(sql, &[&(*now - rules.ttl), now]).await?.is_empty() {
                return Ok(());
            }
            begin(session).await?;
            forget_old(session, *now, rules).await?;
            session.trip(session.commit()).await
        })
    });
    sweep.await
}

async fn hand_out(
    session: &Session,
    token: LockToken,
    now: i64,
    rules: &FeedbackRules,
) -> Result<Option<FeedbackBatch>, Fault> {
    if session.read("SELECT 1 FROM feedback LIMIT 1", &[]).await?.is_empty() {
        return Ok(None);
    }
    let last = look(session, now, rules).await?;
    let waiting = "SELECT id, enqueued, delivery_count FROM feedback_batch
                   WHERE lock_token IS NULL ORDER BY id LIMIT 1";
    let (id, enqueued, delivery_count) = match session.read(waiting, &[]).await?.first() {
        Some(row) => (row.get(0), row.get(1), row.get::<_, i64>(2)),
        None => match make(session, last, now, rules).await? {
            Some(id) => (id, now, 0),
            None => {
                session.trip(session.commit()).await?;
                return Ok(None);
            }
        },
    };
    let lock = "UPDATE feedback_batch SET lock_token = $2, lock_until = $3 WHERE id = $1";
    let records = "SELECT device_id, generation_id, message_id, outcome, enqueued FROM feedback
                   WHERE batch = $1 ORDER BY id";
    let (lock, records) = (session.prepare(lock).await?, session.prepare(records).await?);
    let locked: Params<'_> = &[&id, &token.as_bytes().as_slice(), &(now + rules.lock)];
    let batch: Params<'_> = &[&id];
    let trip = async {
        try_join!(
            biased;
            session.execute(&lock, locked),
            session.query(&records, batch),
        )
    };
    let (_, records) = session.trip(trip).await?;
    if records.is_empty() {
        // Their devices are gone since it was looked at: there may be another batch.
        return Err(Fault::Raced);
    }
    let records = records.iter().map(record).collect::<Result<_, _>>()?;
    session.trip(session.commit()).await?;
    Ok(Some(FeedbackBatch {
        token,
        sequence: id.cast_unsigned(),
        delivery_count: u32::try_from(delivery_count).map_err(unavailable)?,
        enqueued,
        records,
    }))
}

async fn end(
    session: &Session,
    token: LockToken,
    disposition: Disposition,
    now: i64,
    rules: &FeedbackRules,
) -> Result<bool, Fault> {
    look(session, now, rules).await?;
    let held = "SELECT id FROM feedback_batch WHERE lock_token = $1";
    let held = session.read(held, &[&token.as_bytes().as_slice()]).await?;
    let id: Option<i64> = held.first().map(|row| row.get(0));
    if let Some(id) = id {
        let over = match disposition {
            Disposition::Complete | Disposition::Reject => 0,
            Disposition::Abandon => i64::from(rules.max_delivery_count),
        };
        put_back(session, "id = $1", id, over).await?;
    }
    session.trip(session.commit()).await?;
    Ok(id.is_some())
}

/// Begins, takes the one lock, and ends what time has ended. Returns the number of the last batch.
async fn look(session: &Session, now: i64, rules: &FeedbackRules) -> Result<i64, Fault> {
    let last = begin(session).await?;
    let most = i64::from(rules.max_delivery_count);
    put_back(session, "lock_token IS NOT NULL AND lock_until <= $1", now, most).await?;
    forget_old(session, now, rules).await?;
    Ok(last)
}

async fn begin(session: &Session) -> Result<i64, Fault> {
    let lock = "SELECT value FROM sequence WHERE name = 'feedback_batch' FOR UPDATE";
    let lock = session.prepare(lock).await?;
    let trip = async { try_join!(biased; session.begin(), session.query(&lock, &[])) };
    let (_, last) = session.trip(trip).await?;
    last.first().map(|row| row.get(0)).ok_or(Fault::Raced)
}

/// Batches that nobody has any more: those that have been handed out in vain too often, once more
/// than now, go. `$1` in `which` is `value`.
async fn put_back(session: &Session, which: &str, value: i64, most: i64) -> Result<(), Fault> {
    let spent = format!("{which} AND delivery_count + 1 >= $2");
    let records = format!(
        "DELETE FROM feedback WHERE batch IN (SELECT id FROM feedback_batch WHERE {spent})"
    );
    let records = session.prepare(&records).await?;
    let batches = session.prepare(&format!("DELETE FROM feedback_batch WHERE {spent}")).await?;
    let rest = format!(
        "UPDATE feedback_batch SET lock_token = NULL, delivery_count = delivery_count + 1
         WHERE {which} AND delivery_count + 1 < $2"
    );
    let rest = session.prepare(&rest).await?;
    let params: Params<'_> = &[&value, &most];
    let trip = async {
        try_join!(
            biased;
            session.execute(&records, params),
            session.execute(&batches, params),
            session.execute(&rest, params),
        )
    };
    session.trip(trip).await.map(drop)
}

/// Drops records that are too old, unless somebody has them, and batches without any. A batch whose
/// devices went while somebody had it stays: he may complete it.
async fn forget_old(session: &Session, now: i64, rules: &FeedbackRules) -> Result<(), Fault> {
    let records = "DELETE FROM feedback WHERE enqueued <= $1 AND (batch IS NULL OR batch NOT IN
                       (SELECT id FROM feedback_batch
                        WHERE lock_token IS NOT NULL AND lock_until > $2))";
    let batches = "DELETE FROM feedback_batch b WHERE (lock_token IS NULL OR lock_until <= $1)
                       AND NOT EXISTS (SELECT 1 FROM feedback WHERE batch = b.id)";
    let (records, batches) = (session.prepare(records).await?, session.prepare(batches).await?);
    let (old, over): (Params<'_>, Params<'_>) = (&[&(now - rules.ttl), &now], &[&now]);
    let trip = async {
        try_join!(biased; session.execute(&records, old), session.execute(&batches, over))
    };
    session.trip(trip).await.map(drop)
}

/// A batch of the oldest records, if there are enough or they have waited for long enough.
async fn make(
    session: &Session,
    last: i64,
    now: i64,
    rules: &FeedbackRules,
) -> Result<Option<i64>, Fault> {
    let sql = "SELECT id, enqueued FROM feedback WHERE batch IS NULL ORDER BY id LIMIT $1";
    let single = session.read(sql, &[&i64::from(rules.batch_records)]).await?;
    let Some(oldest) = single.first().map(|row| row.get::<_, i64>(1)) else { return Ok(None) };
    // One from the future, since the clock was set back, has waited for long enough, too.
    let young = (0..rules.batch_age).contains(&(now - oldest));
    if young && single.len() < rules.batch_records as usize {
        return Ok(None);
    }
    let number = "UPDATE sequence SET value = $1 WHERE name = 'feedback_batch'";
    let batch = "INSERT INTO feedback_batch (id, enqueued, delivery_count, lock_until)
                 VALUES ($1, $2, 0, 0)";
    let join = "UPDATE feedback SET batch = $1 WHERE id = ANY($2)";
    let (number, batch) = (session.prepare(number).await?, session.prepare(batch).await?);
    let join = session.prepare(join).await?;
    let ids: Vec<i64> = single.iter().map(|row| row.get(0)).collect();
    let id = last + 1;
    let (numbered, made, joined): (Params<'_>, Params<'_>, Params<'_>) =
        (&[&id], &[&id, &now], &[&id, &ids]);
    let trip = async {
        try_join!(
            biased;
            session.execute(&number, numbered),
            session.execute(&batch, made),
            session.execute(&join, joined),
        )
    };
    session.trip(trip).await?;
    Ok(Some(id))
}

fn record(row: &Row) -> Result<FeedbackRecord, StoreError> {
    let outcome = Outcome::parse(row.get("outcome"));
    Ok(FeedbackRecord {
        message_id: unescape(row.get("message_id")),
        outcome: outcome.ok_or_else(|| unavailable("feedback of an unknown kind"))?,
        enqueued: row.get("enqueued"),
        device_id: row.get("device_id"),
        generation_id: unescape(row.get("generation_id")),
    })
}
