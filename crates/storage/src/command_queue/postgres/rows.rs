//! Rows of `command_queue` and `command`.

use std::borrow::Cow;
use std::fmt::Write as _;

use dunlin_model::Command;
use dunlin_model::command::{Ack, LockToken};
use tokio::try_join;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::queue::{End, Message, Queue};
use crate::StoreError;
use crate::postgres::session::{Fault, Session};
use crate::postgres::text::{escape, escape_some, unescape};
use crate::postgres::unavailable;

/// For whoever was overtaken: nobody changes these queues until it ends.
pub(super) const LOCK: &str = "SELECT FROM command_queue
     WHERE device_id = ANY($1) ORDER BY device_id FOR UPDATE";

/// Its `xmin`, the last transaction that wrote it, is the version of a row.
pub(super) const READ: &str = "SELECT device_id, generation_id, sequence, epoch, messages, due,
         xmin::text AS version
     FROM command_queue WHERE device_id = ANY($1)";

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
    pub(super) due: i64,
}

impl<'a> Write<'a> {
    /// Locks the queues in the order of their devices: so no two batches wait for each other, in
    /// whatever process they are.
    pub(super) fn new(queues: &[Advanced<'a>]) -> Result<Self, StoreError> {
        let mut write = Self { sql: String::new(), values: Vec::new() };
        let devices: Vec<_> = queues.iter().map(|one| one.device).collect();
        let versions: Vec<_> = queues.iter().map(|one| one.version).collect();
        let messages: Result<Vec<_>, _> =
            queues.iter().map(|one| messages_text(&one.queue.messages)).collect();
        write.add(
            "WITH held AS MATERIALIZED (
                 SELECT FROM command_queue q
                 JOIN unnest(?text[], ?text[]) AS k (device_id, version)
                     ON q.device_id = k.device_id AND q.xmin::text = k.version
                 ORDER BY q.device_id FOR UPDATE OF q),
             sound AS MATERIALIZED (
                 SELECT count(*) = cardinality($1) AS sound FROM held),
             advanced AS (
                 UPDATE command_queue q SET sequence = n.sequence, epoch = n.epoch,
                     messages = n.messages, due = n.due
                 FROM unnest($1, ?bigint[], ?bigint[], ?text[], ?bigint[])
                     AS n (device_id, sequence, epoch, messages, due)
                 WHERE q.device_id = n.device_id AND (SELECT sound FROM sound))",
            vec![
                Box::new(devices),
                Box::new(versions),
                column(queues, |one| one.queue.sequence.cast_signed()),
                column(queues, |one| one.queue.epoch.cast_signed()),
                Box::new(messages?),
                column(queues, |one| one.due),
            ],
        );
        Ok(write)
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

    pub(super) fn insert(&mut self, new: &[New<'a>]) -> Result<(), StoreError> {
        if new.is_empty() {
            return Ok(());
        }
        let properties: Result<Vec<_>, _> =
            new.iter().map(|new| serde_json::to_string(&new.command.properties)).collect();
        self.add(
            ", new AS (
                 INSERT INTO command (device_id, sequence, message_id, correlation_id, user_id,
                     content_type, content_encoding, properties, enqueued, body)
                 SELECT * FROM unnest(?text[], ?bigint[], ?text[], ?text[], ?text[], ?text[],
                     ?text[], ?text[], ?bigint[], ?bytea[])
                 WHERE (SELECT sound FROM sound))",
            vec![
                column(new, |new| new.device),
                column(new, |new| new.sequence.cast_signed()),
                column(new, |new| escape_some(new.command.message_id.as_ref())),
                column(new, |new| escape_some(new.command.correlation_id.as_ref())),
                column(new, |new| escape_some(new.command.user_id.as_ref())),
                column(new, |new| escape_some(new.command.content_type.as_ref())),
                column(new, |new| escape_some(new.command.content_encoding.as_ref())),
                Box::new(properties.map_err(unavailable)?),
                column(new, |new| new.enqueued),
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
                         c.content_type, c.content_encoding, c.properties, c.enqueued, c.body
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
        let sound = rows.first().is_some_and(|row| row.get("sound"));
        Ok(sound.then_some(rows))
    }
}

fn column<'a, R, T: ToSql + Sync + Send + 'a>(rows: &[R], of: impl Fn(&R) -> T) -> Value<'a> {
    Box::new(rows.iter().map(of).collect::<Vec<_>>())
}

fn keys<'a>(keys: &[(&'a str, u64)]) -> Vec<Value<'a>> {
    vec![column(keys, |(device, _)| *device), column(keys, |(_, sequence)| sequence.cast_signed())]
}

/// A message in the row of its queue: sequence, ack, size, expires, due, delivery count, token and
/// epoch of its lock, and its id, if its sender wants to know what becomes of it. SQL reads and
/// writes it too (`transfer`).
type Stored<'a> = (
    i64,
    Cow<'a, str>,
    usize,
    i64,
    i64,
    u32,
    Option<Cow<'a, str>>,
    Option<i64>,
    Option<Cow<'a, str>>,
);

fn messages_text(messages: &[Message]) -> Result<String, StoreError> {
    let stored = messages.iter().map(|message| -> Stored<'_> {
        (
            message.sequence.cast_signed(),
            message.ack.as_str().into(),
            message.size,
            message.expires,
            message.due,
            message.delivery_count,
            message.lock.as_ref().map(|(token, _)| hex(token).into()),
            message.lock.map(|(_, epoch)| epoch.cast_signed()),
            escape_some(message.message_id.as_ref()),
        )
    });
    serde_json::to_string(&stored.collect::<Vec<_>>()).map_err(unavailable)
}

pub(super) fn queue(row: &Row) -> Result<Queue, StoreError> {
    Ok(Queue {
        sequence: row.get::<_, i64>("sequence").cast_unsigned(),
        epoch: row.get::<_, i64>("epoch").cast_unsigned(),
        messages: messages(row)?,
        ends: Vec::new(),
    })
}

fn messages(row: &Row) -> Result<Vec<Message>, StoreError> {
    let stored: Vec<Stored<'_>> = serde_json::from_str(row.get("messages")).map_err(unavailable)?;
    let message =
        |(sequence, ack, size, expires, due, delivery_count, token, epoch, id): Stored<'_>| {
            let ack =
                Ack::parse(&ack).ok_or_else(|| unavailable("a message wants unknown feedback"))?;
            let token = token.map(|token| unhex(&token)).transpose()?;
            Ok(Message {
                sequence: sequence.cast_unsigned(),
                message_id: id.map(|id| unescape(id.into_owned())),
                ack,
                size,
                expires,
                due,
                delivery_count,
                lock: token.zip(epoch.map(i64::cast_unsigned)),
            })
        };
    stored.into_iter().map(message).collect()
}

fn hex(token: &LockToken) -> String {
    format!("{:032x}", u128::from_be_bytes(*token.as_bytes()))
}

fn unhex(text: &str) -> Result<LockToken, StoreError> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32);
    let number = number.ok_or_else(|| unavailable("a lock has no token"))?;
    Ok(LockToken::from_bytes(number.to_be_bytes()))
}

/// With the time at which it was enqueued, but without what its queue knows: `expires` and `ack`.
pub(super) fn command(row: &Row) -> Result<(Command, i64), StoreError> {
    let some = |column: &str| row.get::<_, Option<String>>(column).map(unescape);
    let command = Command {
        message_id: some("message_id"),
        correlation_id: some("correlation_id"),
        user_id: some("user_id"),
        content_type: some("content_type"),
        content_encoding: some("content_encoding"),
        expires: None,
        ack: Ack::None,
        properties: serde_json::from_str(row.get("properties")).map_err(unavailable)?,
        body: row.get("body"),
    };
    Ok((command, row.get("enqueued")))
}

/// A message as it is to be stored.
pub(super) struct New<'a> {
    pub(super) device: &'a str,
    pub(super) sequence: u64,
    pub(super) command: &'a Command,
    pub(super) enqueued: i64,
}

/// A record of feedback, and the generation of its device.
pub(super) struct Record<'a> {
    pub(super) device: &'a str,
    pub(super) generation_id: &'a str,
    pub(super) end: &'a End,
}
