//! `EventLog`: what devices send, kept durably and in order.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dunlin_model::event::Event;

use crate::StoreError;

pub mod conformance;
mod kafka;
mod partitioner;
mod segment;

pub(crate) use kafka::remove;
pub use kafka::{KafkaLog, KafkaLogConfig};
pub use partitioner::partition_of;
pub use segment::{SegmentLog, SegmentLogConfig, SegmentLogError};

/// What devices send, before routing.
pub const TOPIC_D2C: &str = "d2c";
/// The built-in endpoint; a reader of it reads `d2c` until routing fills it.
pub const TOPIC_EVENTS: &str = "events";

/// Until routing fills the built-in endpoint, its readers and their groups are on what devices
/// send. The one place that says so.
fn physical(topic: &'static str) -> &'static str {
    if topic == TOPIC_EVENTS { TOPIC_D2C } else { topic }
}

/// A record to append, borrowed: nothing is allocated for it on the caller's side.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Device id: it chooses the partition, so a device's records stay in order.
    pub key: &'a [u8],
    pub headers: &'a [Header<'a>],
    pub body: &'a [u8],
    /// Unix milliseconds: when the hub took it. From 1 on: Kafka has no others.
    pub enqueued: i64,
}

/// A property of a record; `value: None` is a property without a value.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    pub name: &'a str,
    pub value: Option<&'a str>,
}

/// What came of one append. `token` is the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    pub token: Token,
    /// Durable, or known not to be acknowledged (it may still be read later: at-least-once).
    pub durable: bool,
}

/// What the caller wants to be told with a completion: which of its connections, which message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub connection: u64,
    pub sequence: u64,
}

/// Where completions go: one per gateway worker. It is called from the log's own thread with a
/// whole batch and must only hand it on (never block, never call the log).
pub trait Completions: Send + Sync + 'static {
    fn complete(&self, batch: &[Completion]);
}

/// Appending was refused because too much is waiting to be written. The record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event log's queue is full")]
pub struct Full;

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The oldest record that is kept.
    Earliest,
    /// Behind the newest durable record.
    Latest,
    /// The first record with that offset or a greater one.
    Offset(u64),
    /// The first record enqueued at that Unix millisecond or later.
    Time(i64),
}

/// The kept range of a partition: `begin` is the offset of the oldest record, `end` the one the
/// next durable record will have at the least. Equal = empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub begin: u64,
    pub end: u64,
}

/// An append-only, partitioned, durable log, with the contracts of Kafka that both sides can keep.
///
/// * `append` enqueues and returns at once. The order of a key's records in the log is the order
///   of its `append` calls (calls from different threads are ordered by who came first).
/// * Each accepted record with a sink is completed exactly once, `durable: true` only when it
///   would survive the loss of the process (embedded: and of the machine's power). Completions of
///   one partition come in append order.
/// * A record that failed is never completed as durable, and every record of the same partition
///   that was accepted before the failure was reported fails with it or is durable itself.
/// * Offsets of a partition grow strictly; they start at 0 and may skip numbers after a failure.
/// * Readers see durable records only, byte for byte as appended, and never a gap that is not one
///   of retention, failure or damage (damage is logged at ERROR).
/// * Old records go by age or size, whole segments at a time, oldest first.
/// * A topic needs no creation; one that nobody appended to is empty. A partition that is not
///   there is `NotFound`.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// Hot path: no await, no allocation per record. `sink` None: nobody asks what comes of it.
    fn append(
        &self,
        topic: &'static str,
        record: Record<'_>,
        token: Token,
        sink: Option<&Arc<dyn Completions>>,
    ) -> Result<(), Full>;

    /// Resolves when an `append` that was refused with [`Full`] is worth another try.
    async fn writable(&self);

    fn partitions(&self) -> u32;

    /// Bytes, about, of records that were accepted and are not completed: how far the log lags
    /// behind those who append.
    fn pending_bytes(&self) -> usize;

    async fn range(&self, topic: &'static str, partition: u32) -> Result<Range, StoreError>;

    /// The offset at which reading from `position` begins; a fixed number, so that a reader that
    /// asked for `Latest` misses nothing appended since. An offset older than the oldest kept
    /// record becomes that record's; one beyond the end becomes the end.
    async fn seek(
        &self,
        topic: &'static str,
        partition: u32,
        position: Position,
    ) -> Result<u64, StoreError>;

    /// Records with `offset >= from`, in order, at most `max_records` and about `max_bytes` (one
    /// record at least). Waits up to `wait` for the first one, then returns none. Retention may
    /// have overtaken `from`: then it starts at the oldest.
    async fn read(
        &self,
        topic: &'static str,
        partition: u32,
        from: u64,
        limit: ReadLimit,
        wait: Duration,
    ) -> Result<Vec<Event>, StoreError>;

    /// Stores, for a consumer group, the offset of the next record it wants of each partition.
    /// Durable when it returns. A group exists from its first commit on. `LimitReached` if it would
    /// be one more than [`CONSUMER_GROUPS`](dunlin_model::limits::CONSUMER_GROUPS), for which
    /// [`DEFAULT_GROUP`](dunlin_model::limits::DEFAULT_GROUP) counts also while it does not exist.
    async fn group_commit(
        &self,
        topic: &'static str,
        group: &str,
        next: &[(u32, u64)],
    ) -> Result<(), StoreError>;

    /// What was committed, by partition, ascending; partitions without a commit are left out.
    async fn group_positions(
        &self,
        topic: &'static str,
        group: &str,
    ) -> Result<Vec<(u32, u64)>, StoreError>;

    /// Makes everything accepted so far durable or failed, completes it, and takes nothing more:
    /// from then on `append` is refused and `writable` does not resolve. Reading goes on.
    async fn close(&self);
}

/// How much one `read` returns.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    pub records: usize,
    pub bytes: usize,
}
