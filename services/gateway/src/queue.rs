//! HOT PATH: the queue through which everything else reaches the connections of one worker.

use std::sync::{Mutex, MutexGuard, PoisonError};

use dunlin_model::{ErrorCode, HubError};
use dunlin_proto::v1::Absent;
use dunlin_proto::v1::invoke_response::Outcome;
use dunlin_storage::event_log::{Completion, Completions};
use tokio::sync::{Notify, oneshot};

use crate::commands::Leased;
use crate::mqtt::SubscribeAnswer;
use crate::twin::TwinAnswer;

/// What other threads have for the connections of one worker.
#[derive(Default)]
pub struct Queue {
    inbox: Mutex<Inbox>,
    wake: Notify,
}

#[derive(Default)]
pub struct Inbox {
    pub completions: Vec<Completion>,
    pub commands: Vec<Command>,
}

pub enum Command {
    Disconnect { key: u64, reason: ErrorCode, done: oneshot::Sender<()> },
    Drain { done: oneshot::Sender<()> },
    Tell { key: u64, message: Message },
}

/// What one connection is told.
pub enum Message {
    /// Its subscriptions are stored, or could not be.
    Stored {
        answer: SubscribeAnswer,
        durable: bool,
    },
    /// Of the twin request that was made first.
    Twin(Result<TwinAnswer, HubError>),
    Invoke(Call),
    /// The desired properties have changed: the merge patch, and their version now.
    Desired {
        version: u64,
        patch: Vec<u8>,
    },
    /// There are C2D messages for it.
    Commands,
    /// What came of its lease call.
    Leased(Leased),
}

impl Message {
    /// There is no such connection, or it is not open yet.
    pub fn undeliverable(self) {
        if let Self::Invoke(call) = self {
            // Whoever called may have gone.
            let _ = call.answer.send(Ok(Outcome::Absent(Absent {})));
        }
    }
}

/// A method call on its way to a device. Nobody waits for its answer once `answer` is closed.
pub struct Call {
    pub method: String,
    /// JSON text.
    pub payload: Vec<u8>,
    pub answer: oneshot::Sender<Result<Outcome, HubError>>,
}

impl Queue {
    /// Ends a connection. Resolves when it takes no more packets, or does not exist.
    pub fn disconnect(&self, key: u64, reason: ErrorCode) -> oneshot::Receiver<()> {
        self.command(|done| Command::Disconnect { key, reason, done })
    }

    /// Ends all connections once what they sent is acknowledged; resolves when none is left.
    pub fn drain(&self) -> oneshot::Receiver<()> {
        self.command(|done| Command::Drain { done })
    }

    /// Tells a connection, if it exists and is open.
    pub fn tell(&self, key: u64, message: Message) {
        self.with(|inbox| inbox.commands.push(Command::Tell { key, message }));
    }

    /// Resolves when there is something to take.
    pub async fn filled(&self) {
        self.wake.notified().await;
    }

    /// Everything that waits, for an inbox that is empty.
    pub fn swap(&self, inbox: &mut Inbox) {
        std::mem::swap(inbox, &mut self.lock());
    }

    fn command(&self, make: impl FnOnce(oneshot::Sender<()>) -> Command) -> oneshot::Receiver<()> {
        let (done, gone) = oneshot::channel();
        self.with(|inbox| inbox.commands.push(make(done)));
        gone
    }

    fn with(&self, put: impl FnOnce(&mut Inbox)) {
        put(&mut self.lock());
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Completions for Queue {
    fn complete(&self, batch: &[Completion]) {
        self.with(|inbox| inbox.completions.extend_from_slice(batch));
    }
}
