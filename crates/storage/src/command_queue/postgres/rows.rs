//! Rows of `command_queue` and `command`.

use std::fmt::Write as _;

use dunlin_model::Command;
use dunlin_model::command::{Ack, LockToken};
use tokio::try_join;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::queue::{End, Message, Queue, size};
use crate::StoreError;
use crate::postgres::session::{Fault, Session};
use crate::postgres::text::{escape, escape_some, unescape};
use crate::postgres::unavailable;

/// For whoever was overtaken: nobody changes these queues until it ends.
pub(super) const LOCK: &str = "SELECT FROM command_queue
     WHERE device_id = ANY($1) ORDER BY device_id FOR UPDATE";

/// Queues with the messages of each. Who changes a message changes its queue's row too, so its
/// `xmin`, the last transaction that did, is the version of all.
pub(super) const READ: &str = "SELECT q.device_id, q.generation_id, q.sequence AS last, q.epoch,
         q.xmin::text AS version, c.*
     FROM command_queue q LEFT JOIN LATERAL (
         SELECT sequence, message_id, ack, size, expires, due, delivery_count, lock_token,
             lock_epoch
         FROM command WHERE device_id = q.device_id ORDER BY sequence) c ON true
     WHERE q.device_id = ANY($1)";

type Value<'a> = Box<dyn ToSql + Sync + Send + 'a>;

/// All that is to be written, in one statement: its own transaction, which does nothing if one of
/// the queues is not what was read any more.
pub(super) struct Write<'a> {
    sql: String,
    values: Vec<Value<'a>>,
}

/// A queue as it is to be stored.
pub(super) struct Advanced<'a> {
    pub(super) device: &'a str,
    /// As it was read.
    pub(super) version: &'a str,
    pub(super) queue: &'a Queue,
}

impl<'a> Write<'a> {
    /// Locks the queues in the order of their devices: so no two batches wait for each other, in
    /// whatever process they are.
    pub(super) fn new(queues: &[Advanced<'a>]) -> Self {
        let mut write = Self { sql: String::new(), values: Vec::new() };
        let devices: Vec<_> = queues.iter().map(|one| one.device).collect();
        let versions: Vec<_> = queues.iter().map(|one| one.version).collect();
        write.add(
            "WITH held AS MATERIALIZED (
                 SELECT FROM command_queue q
                 JOIN unnest(?text[], ?text[]) AS k (device_id, version)
                     ON q.device_id = k.device_id AND q.xmin::text = k.version
                 ORDER BY q.device_id FOR UPDATE OF q),
             sound AS MATERIALIZED (
                 SELECT count(*) = cardinality($1) AS sound FROM held),
             advanced AS (
                 UPDATE command_queue q SET sequence = n.sequence, epoch = n.epoch
                 FROM unnest($1, ?bigint[], ?bigint[]) AS n (device_id, sequence, epoch)
                 WHERE q.device_id = n.device_id AND (SELECT sound FROM sound))",
            vec![
                Box::new(devices),
                Box::new(versions),
                column(queues, |one| one.queue.sequence.cast_signed()),
                column(queues, |one| one.queue.epoch.cast_signed()),
            ],
        );
        write
    }

    /// Each `?` in it stands for the next of the values.
    fn add(&mut self, sql: &str, values: Vec<Value<'a>>) {
        let mut parts = sql.split('?');
        self.sql.extend(parts.next());
        for (part, value) in parts.zip(values) {
            self.values.push(value);
            // `write!` to a string never fails.
            let _ = write!(self.sql, "${}::{part}", self.values.len());
        }
    }

    pub(super) fn remove(&mut self, removed: &[(&'a str, u64)]) {
        if removed.is_empty() {
            return;
        }
        self.add(
            ", removed AS (
                 DELETE FROM command c
                 USING unnest(?text[], ?bigint[]) AS k (device_id, sequence)
                 WHERE c.device_id = k.device_id AND c.sequence = k.sequence
                     AND (SELECT sound FROM sound))",
            keys(removed),
        );
    }

    pub(super) fn change(&mut self, changed: &[(&'a str, &'a Message)]) {
        if changed.is_empty() {
            return;
        }
        self.add(
            ", changed AS (
                 UPDATE command c SET due = n.due, delivery_count = n.delivery_count,
                     lock_token = n.lock_token, lock_epoch = n.lock_epoch
                 FROM unnest(?text[], ?bigint[], ?bigint[], ?bigint[], ?bytea[], ?bigint[])
                     AS n (device_id, sequence, due, delivery_count, lock_token, lock_epoch)
                 WHERE c.device_id = n.device_id AND c.sequence = n.sequence
                     AND (SELECT sound FROM sound))",
            vec![
                column(changed, |(device, _)| *device),
                column(changed, |(_, message)| message.sequence.cast_signed()),
                column(changed, |(_, message)| message.due),
                column(changed, |(_, message)| i64::from(message.delivery_count)),
                column(changed, |(_, message)| token(message)),
                column(changed, |(_, message)| epoch(message)),
            ],
        );
    }

    pub(super) fn insert(&mut self, new: &[New<'a>]) -> Result<(), StoreError> {
        if new.is_empty() {
            return Ok(());
        }
        let properties: Result<Vec<_>, _> =
            new.iter().map(|new| serde_json::to_string(&new.command.properties)).collect();
        self.add(
            ", new AS (
                 INSERT INTO command (device_id, sequence, message_id, correlation_id, user_id,
                     content_type, content_encoding, ack, properties, size, enqueued, expires, due,
                     delivery_count, lock_token, lock_epoch, body)
                 SELECT * FROM unnest(?text[], ?bigint[], ?text[], ?text[], ?text[], ?text[],
                     ?text[], ?text[], ?text[], ?bigint[], ?bigint[], ?bigint[], ?bigint[],
                     ?bigint[], ?bytea[], ?bigint[], ?bytea[])
                 WHERE (SELECT sound FROM sound))",
            vec![
                column(new, |new| new.device),
                column(new, |new| new.message.sequence.cast_signed()),
                column(new, |new| escape_some(new.command.message_id.as_ref())),
                column(new, |new| escape_some(new.command.correlation_id.as_ref())),
                column(new, |new| escape_some(new.command.user_id.as_ref())),
                column(new, |new| escape_some(new.command.content_type.as_ref())),
                column(new, |new| escape_some(new.command.content_encoding.as_ref())),
                column(new, |new| new.command.ack.as_str()),
                Box::new(properties.map_err(unavailable)?),
                column(new, |new| i64::try_from(size(new.command)).unwrap_or(i64::MAX)),
                column(new, |new| new.enqueued),
                column(new, |new| new.message.expires),
                column(new, |new| new.message.due),
                column(new, |new| i64::from(new.message.delivery_count)),
                column(new, |new| token(new.message)),
                column(new, |new| epoch(new.message)),
                column(new, |new| &*new.command.body),
            ],
        );
        Ok(())
    }

    /// Records of feedback, in their order.
    pub(super) fn tell(&mut self, ends: &[Record<'a>]) {
        if ends.is_empty() {
            return;
        }
        self.add(
            ", told AS (
                 INSERT INTO feedback (device_id, generation_id, message_id, outcome, enqueued)
                 SELECT device_id, generation_id, message_id, outcome, enqueued
                 FROM unnest(?text[], ?text[], ?text[], ?text[], ?bigint[]) WITH ORDINALITY
                     AS n (device_id, generation_id, message_id, outcome, enqueued, place)
                 WHERE (SELECT sound FROM sound) ORDER BY place)",
            vec![
                column(ends, |record| record.device),
                column(ends, |record| record.generation_id),
                column(ends, |record| escape(&record.end.message_id)),
                column(ends, |record| record.end.outcome.as_str()),
                column(ends, |record| record.end.at),
            ],
        );
    }

    /// Does it, and reads what is handed out. `None`: somebody was faster, and nothing is done.
    pub(super) async fn run(
        mut self,
        session: &Session,
        handed: &[(&'a str, u64)],
        locked: bool,
    ) -> Result<Option<Vec<Row>>, Fault> {
        if handed.is_empty() {
            self.add(" SELECT sound, NULL::text AS device_id FROM sound", Vec::new());
        } else {
            self.add(
                " SELECT sound, c.* FROM sound LEFT JOIN (
                     SELECT c.device_id, c.sequence, c.message_id, c.correlation_id, c.user_id,
                         c.content_type, c.content_encoding, c.ack, c.properties, c.enqueued,
                         c.expires, c.body
                     FROM unnest(?text[], ?bigint[]) AS k (device_id, sequence)
                         JOIN command c USING (device_id, sequence)) c ON true",
                keys(handed),
            );
        }
        let params: Vec<_> = self.values.iter().map(|value| &**value as _).collect();
        let rows = if locked {
            let statement = session.prepare(&self.sql).await?;
            let trip =
                async { try_join!(biased; session.query(&statement, &params), session.commit()) };
            session.trip(trip).await?.0
        } else {
            session.write(&self.sql, &params).await?
        };
        if rows.first().is_some_and(|row| row.get("sound")) {
            return Ok(Some(rows));
        }
        session.wrote_nothing();
        Ok(None)
    }
}

fn column<'a, R, T: ToSql + Sync + Send + 'a>(rows: &[R], of: impl Fn(&R) -> T) -> Value<'a> {
    Box::new(rows.iter().map(of).collect::<Vec<_>>())
}

fn keys<'a>(keys: &[(&'a str, u64)]) -> Vec<Value<'a>> {
    vec![column(keys, |(device, _)| *device), column(keys, |(_, sequence)| sequence.cast_signed())]
}

pub(super) fn message(row: &Row) -> Result<Message, StoreError> {
    let token: Option<&[u8]> = row.get("lock_token");
    let token = token.map(|token| token.try_into().map(LockToken::from_bytes));
    let token = token.transpose().map_err(unavailable)?;
    let epoch: Option<i64> = row.get("lock_epoch");
    Ok(Message {
        sequence: row.get::<_, i64>("sequence").cast_unsigned(),
        message_id: row.get::<_, Option<String>>("message_id").map(unescape),
        ack: ack(row)?,
        size: usize::try_from(row.get::<_, i64>("size")).map_err(unavailable)?,
        expires: row.get("expires"),
        due: row.get("due"),
        delivery_count: u32::try_from(row.get::<_, i64>("delivery_count")).map_err(unavailable)?,
        lock: token.zip(epoch.map(i64::cast_unsigned)),
    })
}

/// With the time at which it was enqueued.
pub(super) fn command(row: &Row) -> Result<(Command, i64), StoreError> {
    let some = |column: &str| row.get::<_, Option<String>>(column).map(unescape);
    let command = Command {
        message_id: some("message_id"),
        correlation_id: some("correlation_id"),
        user_id: some("user_id"),
        content_type: some("content_type"),
        content_encoding: some("content_encoding"),
        expires: Some(row.get("expires")),
        ack: ack(row)?,
        properties: serde_json::from_str(row.get("properties")).map_err(unavailable)?,
        body: row.get("body"),
    };
    Ok((command, row.get("enqueued")))
}

fn ack(row: &Row) -> Result<Ack, StoreError> {
    let text: &str = row.get("ack");
    Ack::parse(text).ok_or_else(|| unavailable("a message wants unknown feedback"))
}

/// A message as it is to be stored.
pub(super) struct New<'a> {
    pub(super) device: &'a str,
    pub(super) message: &'a Message,
    pub(super) command: &'a Command,
    pub(super) enqueued: i64,
}

fn token(message: &Message) -> Option<&[u8]> {
    message.lock.as_ref().map(|(token, _)| &token.as_bytes()[..])
}

fn epoch(message: &Message) -> Option<i64> {
    message.lock.map(|(_, epoch)| epoch.cast_signed())
}

/// A record of feedback, and the generation of its device.
pub(super) struct Record<'a> {
    pub(super) device: &'a str,
    pub(super) generation_id: &'a str,
    pub(super) end: &'a End,
}
