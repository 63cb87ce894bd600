//! Rows of `command_queue` and `command`.

use dunlin_model::Command;
use dunlin_model::command::{Ack, LockToken};
use tokio_postgres::{Row, Statement};

use super::queue::{End, Message, Queue, size};
use crate::StoreError;
use crate::postgres::session::{Fault, Params, Session};
use crate::postgres::text::{escape, escape_some, unescape};
use crate::postgres::unavailable;

/// Whoever changes a queue holds its row here.
pub(super) const LOCK: &str = "SELECT device_id, generation_id, sequence, epoch FROM command_queue
     WHERE device_id = ANY($1) ORDER BY device_id FOR UPDATE";

pub(super) const READ: &str = "SELECT device_id, sequence, message_id, ack, size, expires, due,
         delivery_count, lock_token, lock_epoch
     FROM command WHERE device_id = ANY($1) ORDER BY device_id, sequence";

/// What is handed out, with all that was sent.
pub(super) const BODIES: &str = "SELECT c.device_id, c.sequence, c.message_id,
         c.correlation_id, c.user_id, c.content_type, c.content_encoding, c.ack, c.properties,
         c.enqueued, c.expires, c.body
     FROM unnest($1::text[], $2::bigint[]) AS k (device_id, sequence)
         JOIN command c USING (device_id, sequence)";

pub(super) const REMOVE: &str = "DELETE FROM command c
     USING unnest($1::text[], $2::bigint[]) AS k (device_id, sequence)
     WHERE c.device_id = k.device_id AND c.sequence = k.sequence";

/// By device and sequence.
pub(super) async fn by_key(
    session: &Session,
    statement: &Statement,
    keys: &[(&str, u64)],
) -> Result<Vec<Row>, Fault> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let devices: Vec<_> = keys.iter().map(|(device, _)| *device).collect();
    let sequences: Vec<_> = keys.iter().map(|(_, sequence)| sequence.cast_signed()).collect();
    session.query(statement, &[&devices, &sequences]).await
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

pub(super) const INSERT: &str = "INSERT INTO command (device_id, sequence, message_id,
         correlation_id, user_id, content_type, content_encoding, ack, properties, size, enqueued,
         expires, due, delivery_count, lock_token, lock_epoch, body)
     SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[],
         $7::text[], $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[],
         $13::bigint[], $14::bigint[], $15::bytea[], $16::bigint[], $17::bytea[])";

pub(super) async fn insert(
    session: &Session,
    statement: &Statement,
    new: &[New<'_>],
) -> Result<(), Fault> {
    if new.is_empty() {
        return Ok(());
    }
    fn column<'a, T>(new: &'a [New<'a>], of: impl Fn(&'a New<'a>) -> T) -> Vec<T> {
        new.iter().map(of).collect()
    }
    let properties: Result<Vec<_>, _> =
        new.iter().map(|new| serde_json::to_string(&new.command.properties)).collect();
    let (tokens, epochs) = locks(new.iter().map(|new| new.message));
    let params: Params<'_> = &[
        &column(new, |new| new.device),
        &column(new, |new| new.message.sequence.cast_signed()),
        &column(new, |new| escape_some(new.command.message_id.as_ref())),
        &column(new, |new| escape_some(new.command.correlation_id.as_ref())),
        &column(new, |new| escape_some(new.command.user_id.as_ref())),
        &column(new, |new| escape_some(new.command.content_type.as_ref())),
        &column(new, |new| escape_some(new.command.content_encoding.as_ref())),
        &column(new, |new| new.command.ack.as_str()),
        &properties.map_err(unavailable)?,
        &column(new, |new| i64::try_from(size(new.command)).unwrap_or(i64::MAX)),
        &column(new, |new| new.enqueued),
        &column(new, |new| new.message.expires),
        &column(new, |new| new.message.due),
        &column(new, |new| i64::from(new.message.delivery_count)),
        &tokens,
        &epochs,
        &column(new, |new| &*new.command.body),
    ];
    session.execute(statement, params).await.map(drop)
}

pub(super) const UPDATE: &str = "UPDATE command c SET due = n.due,
         delivery_count = n.delivery_count, lock_token = n.lock_token, lock_epoch = n.lock_epoch
     FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bigint[])
         AS n (device_id, sequence, due, delivery_count, lock_token, lock_epoch)
     WHERE c.device_id = n.device_id AND c.sequence = n.sequence";

pub(super) async fn update(
    session: &Session,
    statement: &Statement,
    changed: &[(&str, &Message)],
) -> Result<(), Fault> {
    if changed.is_empty() {
        return Ok(());
    }
    let (tokens, epochs) = locks(changed.iter().map(|(_, message)| *message));
    let params: Params<'_> = &[
        &changed.iter().map(|(device, _)| *device).collect::<Vec<_>>(),
        &changed.iter().map(|(_, message)| message.sequence.cast_signed()).collect::<Vec<_>>(),
        &changed.iter().map(|(_, message)| message.due).collect::<Vec<_>>(),
        &changed.iter().map(|(_, message)| i64::from(message.delivery_count)).collect::<Vec<_>>(),
        &tokens,
        &epochs,
    ];
    session.execute(statement, params).await.map(drop)
}

fn locks<'a>(
    messages: impl Iterator<Item = &'a Message>,
) -> (Vec<Option<&'a [u8]>>, Vec<Option<i64>>) {
    let parts = messages.map(|message| match &message.lock {
        Some((token, epoch)) => (Some(&token.as_bytes()[..]), Some(epoch.cast_signed())),
        None => (None, None),
    });
    parts.unzip()
}

/// A record of feedback, and the generation of its device.
pub(super) struct Record<'a> {
    pub(super) device: &'a str,
    pub(super) generation_id: &'a str,
    pub(super) end: &'a End,
}

/// In their order.
pub(super) const TELL: &str = "INSERT INTO feedback
         (device_id, generation_id, message_id, outcome, enqueued)
     SELECT device_id, generation_id, message_id, outcome, enqueued
     FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[]) WITH ORDINALITY
         AS n (device_id, generation_id, message_id, outcome, enqueued, place)
     ORDER BY place";

pub(super) async fn tell(
    session: &Session,
    statement: &Statement,
    ends: &[Record<'_>],
) -> Result<(), Fault> {
    if ends.is_empty() {
        return Ok(());
    }
    let params: Params<'_> = &[
        &ends.iter().map(|record| record.device).collect::<Vec<_>>(),
        &ends.iter().map(|record| record.generation_id).collect::<Vec<_>>(),
        &ends.iter().map(|record| escape(&record.end.message_id)).collect::<Vec<_>>(),
        &ends.iter().map(|record| record.end.outcome.as_str()).collect::<Vec<_>>(),
        &ends.iter().map(|record| record.end.at).collect::<Vec<_>>(),
    ];
    session.execute(statement, params).await.map(drop)
}

pub(super) const ADVANCE: &str = "UPDATE command_queue q SET sequence = n.sequence, epoch = n.epoch
     FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS n (device_id, sequence, epoch)
     WHERE q.device_id = n.device_id";

pub(super) async fn advance(
    session: &Session,
    statement: &Statement,
    queues: &[(&str, &Queue)],
) -> Result<(), Fault> {
    if queues.is_empty() {
        return Ok(());
    }
    let params: Params<'_> = &[
        &queues.iter().map(|(device, _)| *device).collect::<Vec<_>>(),
        &queues.iter().map(|(_, queue)| queue.sequence.cast_signed()).collect::<Vec<_>>(),
        &queues.iter().map(|(_, queue)| queue.epoch.cast_signed()).collect::<Vec<_>>(),
    ];
    session.execute(statement, params).await.map(drop)
}
