//! `CommandQueue`: C2D messages, a queue per device, and feedback on what became of them.

use async_trait::async_trait;
use dunlin_model::Command;
use dunlin_model::command::{Disposition, LockToken, Outcome};

use crate::StoreError;
use crate::presence::Epoch;

pub mod conformance;
mod postgres;
pub(crate) mod sqlite;
#[cfg(test)]
mod tests;

pub use postgres::PostgresCommandQueue;
pub use sqlite::SqliteCommandQueue;

/// How long things last and how much there may be. Times are milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Messages a device may have queued, those that are locked included.
    pub depth: u32,
    pub lock: i64,
    /// Hand-outs in vain after which a message ends as `DeliveryCountExceeded`.
    pub max_delivery_count: u32,
    pub feedback: FeedbackRules,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedbackRules {
    /// A batch is made of so many records,
    pub batch_records: u32,
    /// or of fewer once the oldest of them is that old.
    pub batch_age: i64,
    pub lock: i64,
    pub ttl: i64,
    pub max_delivery_count: u32,
}

/// A message that was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    /// With the time at which it expires.
    pub command: Command,
    pub token: LockToken,
    /// Grows by one with each message of the device, 1 first.
    pub sequence: u64,
    /// Its hand-outs in vain.
    pub delivery_count: u32,
    pub enqueued: i64,
}

/// What was handed out in one call.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Lease {
    pub messages: Vec<Leased>,
    /// Time had ended a lock, and nobody knows yet: somebody else may wait for what it held.
    pub returned: bool,
}

/// What became of locks that were to be settled.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Settlement {
    /// Of each, whether it was held.
    pub held: Vec<bool>,
    /// A message is to be had again: one that was abandoned, or whose lock time had ended.
    pub returned: bool,
}

/// What became of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedbackRecord {
    /// Empty, if the message had none.
    pub message_id: String,
    pub outcome: Outcome,
    /// When that was known.
    pub enqueued: i64,
    pub device_id: String,
    pub generation_id: String,
}

/// Feedback that was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedbackBatch {
    pub token: LockToken,
    /// Grows with each batch of the hub.
    pub sequence: u64,
    pub delivery_count: u32,
    pub enqueued: i64,
    /// At least one.
    pub records: Vec<FeedbackRecord>,
}

/// What a sweep has done.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Swept {
    /// Devices that were looked at; as many as were asked for: there may be more.
    pub looked: usize,
    /// Those of them for which a message is to be had again, its lock being over.
    pub returned: Vec<String>,
}

/// C2D messages and feedback.
///
/// * Every method is atomic and durable when it returns, and sees every write that returned before
///   it began. Times, lock tokens and rules come from the caller. `now` (Unix milliseconds) may go
///   back.
/// * A message ends exactly once: completed (`Success`), `Rejected`, `Expired`,
///   `DeliveryCountExceeded` or `Purged`. Where its `ack` wants that outcome, there is one record of
///   it for the back end, made in the same transaction.
/// * A queue is FIFO: a hand-out has the first messages that are not locked, and what comes back is
///   where it was.
/// * A lock ends when its message is settled, when its time is over, when the connection that holds it
///   is released, or when a connection with a newer epoch asks for messages. All but the first are
///   hand-outs in vain, and raise the delivery count, unless a release says otherwise. Epoch 0 is
///   no connection: it ends nobody's locks, and its own end by time alone.
/// * A message that is locked does not expire before its lock has ended. Where a lock ends and the
///   delivery count is at its maximum, that is the outcome, whether or not it has expired too.
/// * Whoever brings a message back is told so, since its device is then to be told. That a connection
///   has ended is no news to a device.
/// * What time ends has ended for every method that is told a later time, whether or not anybody has
///   swept: [`command_sweep`](Self::command_sweep) only brings it about that feedback comes without
///   anybody asking for the device.
/// * Queue, locks and feedback go with their device, in the same transaction. Modules have no queue.
#[async_trait]
pub trait CommandQueue: Send + Sync + 'static {
    /// Queues a message, whose `expires` is given, and returns its sequence number. `NotFound` if
    /// there is no such device, `LimitReached` if its queue is full.
    async fn command_send(
        &self,
        device: &str,
        command: Command,
        now: i64,
        rules: &Rules,
    ) -> Result<u64, StoreError>;

    /// Hands out messages, one for each token at most, and no more of them than the first whose
    /// weights fill `bytes`. Empty if there is none, or no such device.
    /// `PreconditionFailed` if a connection with a newer epoch was handed messages.
    async fn command_lease(
        &self,
        device: &str,
        epoch: Epoch,
        tokens: Vec<LockToken>,
        bytes: usize,
        now: i64,
        rules: &Rules,
    ) -> Result<Lease, StoreError>;

    /// Settles what is locked under these tokens by that epoch.
    async fn command_settle(
        &self,
        device: &str,
        epoch: Epoch,
        tokens: &[LockToken],
        disposition: Disposition,
        now: i64,
        rules: &Rules,
    ) -> Result<Settlement, StoreError>;

    /// Ends the locks of a connection. `in_vain`: its hand-outs count.
    async fn command_release(
        &self,
        device: &str,
        epoch: Epoch,
        in_vain: bool,
        now: i64,
        rules: &Rules,
    ) -> Result<(), StoreError>;

    /// Ends every message of a device, also those that are locked, and returns how many.
    /// `NotFound` if there is no such device.
    async fn command_purge(&self, device: &str, now: i64, rules: &Rules)
    -> Result<u32, StoreError>;

    /// How many messages are queued, those that are locked included. `NotFound` as above.
    async fn command_count(&self, device: &str, now: i64, rules: &Rules)
    -> Result<u32, StoreError>;

    /// Ends what time has ended, of up to `most` devices, and drops feedback that is too old. A lock
    /// of feedback ends for who asks.
    async fn command_sweep(
        &self,
        most: usize,
        now: i64,
        rules: &Rules,
    ) -> Result<Swept, StoreError>;

    /// Hands out the oldest batch of feedback that is not locked, or makes one of the oldest
    /// records. A record goes when it is too old, unless its batch is locked, or when its batch was
    /// handed out in vain too often.
    async fn feedback_lease(
        &self,
        token: LockToken,
        now: i64,
        rules: &FeedbackRules,
    ) -> Result<Option<FeedbackBatch>, StoreError>;

    /// Settles a batch; whether it was locked under that token. Completed or rejected, it goes.
    async fn feedback_settle(
        &self,
        token: LockToken,
        disposition: Disposition,
        now: i64,
        rules: &FeedbackRules,
    ) -> Result<bool, StoreError>;
}
