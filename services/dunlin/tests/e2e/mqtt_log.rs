//! An event log with faults: it fails a record, holds back completions, or has no room, when a test
//! says so. Below it is the hub's real log.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dunlin_model::event::Event;
use dunlin_storage::event_log::{
    Completion, Completions, Full, Position, Range, ReadLimit, Record, Token,
};
use dunlin_storage::{EventLog, StoreError};
use tokio::sync::watch;

use crate::raw::within;

pub struct FaultyLog {
    inner: Arc<dyn EventLog>,
    state: Arc<State>,
}

struct State {
    books: Mutex<Books>,
    counts: watch::Sender<Counts>,
}

/// What goes wrong.
#[derive(Default)]
pub struct Faults {
    /// The record that is reported as not durable, counted from 1.
    pub fails: Option<u64>,
    /// Records there is room for; `None`: any number.
    pub room: Option<u64>,
    /// Completions wait.
    pub withhold: bool,
}

/// What goes wrong, and what has been handed on.
#[derive(Default)]
struct Books {
    faults: Faults,
    failing: HashSet<(u64, u64)>,
    held: Vec<(Arc<dyn Completions>, Completion)>,
    outstanding: HashMap<u64, u64>,
}

/// What has happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub accepted: u64,
    pub refused: u64,
    /// The most that one connection ever had accepted and not completed.
    pub most_outstanding: u64,
    full: bool,
}

impl FaultyLog {
    pub fn over(inner: &Arc<dyn EventLog>, faults: Faults) -> Self {
        let (counts, _) = watch::channel(Counts::default());
        Self {
            inner: inner.clone(),
            state: Arc::new(State { books: Books { faults, ..Books::default() }.into(), counts }),
        }
    }

    /// Holds completions back, or lets go of them.
    pub fn withhold(&self, withhold: bool) {
        let mut books = self.state.books();
        books.faults.withhold = withhold;
        if !withhold {
            for (to, completion) in std::mem::take(&mut books.held) {
                books.complete(&*to, completion);
            }
        }
    }

    /// Makes room for so many records more; `None`: for all.
    pub fn make_room(&self, room: Option<u64>) {
        let mut books = self.state.books();
        books.faults.room = room;
        self.state.counts.send_modify(|counts| counts.full = room == Some(0));
    }

    pub fn counts(&self) -> Counts {
        *self.state.counts.borrow()
    }

    /// Resolves when that is so.
    pub async fn when(&self, what: impl Fn(&Counts) -> bool) {
        let mut counts = self.state.counts.subscribe();
        within("the event log", counts.wait_for(|counts| what(counts))).await.expect("it lives");
    }
}

impl State {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a record in, before the log below may complete it.
    fn take(&self, token: Token) -> Result<(), Full> {
        let mut books = self.books();
        let room = &mut books.faults.room;
        if *room == Some(0) {
            self.counts.send_modify(|counts| counts.refused += 1);
            return Err(Full);
        }
        *room = room.map(|room| room - 1);
        let full = *room == Some(0);
        let outstanding = books.outstanding.entry(token.connection).or_default();
        *outstanding += 1;
        let outstanding = *outstanding;
        self.counts.send_modify(|counts| {
            counts.accepted += 1;
            counts.full = full;
            counts.most_outstanding = counts.most_outstanding.max(outstanding);
        });
        if books.faults.fails == Some(self.counts.borrow().accepted) {
            books.failing.insert((token.connection, token.sequence));
        }
        Ok(())
    }
}

impl Books {
    fn complete(&mut self, to: &dyn Completions, completion: Completion) {
        let Token { connection, sequence } = completion.token;
        if let Some(outstanding) = self.outstanding.get_mut(&connection) {
            *outstanding -= 1;
        }
        let durable = completion.durable && !self.failing.contains(&(connection, sequence));
        to.complete(&[Completion { durable, ..completion }]);
    }
}

/// Stands between the log and whoever waits for one record.
struct Relay {
    state: Arc<State>,
    to: Arc<dyn Completions>,
}

impl Completions for Relay {
    fn complete(&self, batch: &[Completion]) {
        let mut books = self.state.books();
        for completion in batch {
            if books.faults.withhold {
                books.held.push((self.to.clone(), *completion));
            } else {
                books.complete(&*self.to, *completion);
            }
        }
    }
}

#[async_trait]
impl EventLog for FaultyLog {
    fn append(
        &self,
        topic: &'static str,
        record: Record<'_>,
        token: Token,
        sink: Option<&Arc<dyn Completions>>,
    ) -> Result<(), Full> {
        // A will: nobody waits for it.
        let Some(to) = sink else { return self.inner.append(topic, record, token, None) };
        self.state.take(token)?;
        let relay: Arc<dyn Completions> =
            Arc::new(Relay { state: self.state.clone(), to: to.clone() });
        self.inner.append(topic, record, token, Some(&relay)).inspect_err(|_| {
            // The real log is never that far behind in a test; the counts would be off.
            panic!("the log below is full");
        })
    }

    async fn writable(&self) {
        let mut counts = self.state.counts.subscribe();
        // The sender lives as long as this log.
        let _ = counts.wait_for(|counts| !counts.full).await;
        self.inner.writable().await;
    }

    fn pending_bytes(&self) -> usize {
        self.inner.pending_bytes()
    }

    fn partitions(&self) -> u32 {
        self.inner.partitions()
    }

    async fn range(&self, topic: &'static str, partition: u32) -> Result<Range, StoreError> {
        self.inner.range(topic, partition).await
    }

    async fn seek(
        &self,
        topic: &'static str,
        partition: u32,
        position: Position,
    ) -> Result<u64, StoreError> {
        self.inner.seek(topic, partition, position).await
    }

    async fn read(
        &self,
        topic: &'static str,
        partition: u32,
        from: u64,
        limit: ReadLimit,
        wait: Duration,
    ) -> Result<Vec<Event>, StoreError> {
        self.inner.read(topic, partition, from, limit, wait).await
    }

    async fn group_commit(
        &self,
        topic: &'static str,
        group: &str,
        next: &[(u32, u64)],
    ) -> Result<(), StoreError> {
        self.inner.group_commit(topic, group, next).await
    }

    async fn group_positions(
        &self,
        topic: &'static str,
        group: &str,
    ) -> Result<Vec<(u32, u64)>, StoreError> {
        self.inner.group_positions(topic, group).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
