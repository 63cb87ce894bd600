//! The writer thread: everything that waits goes into one transaction, each in its savepoint.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::unavailable;
use crate::StoreError;

/// Operations in one transaction: bounds how long the first of them waits for the last.
const GROUP: usize = 1_024;

/// A write that waits. `run` says whether to keep what it wrote.
pub(super) trait Job: Send {
    fn run(&mut self, connection: &Connection) -> bool;
    /// After the commit, or with what made it fail.
    fn answer(self: Box<Self>, failure: Option<&str>);
}

pub(super) struct Operation<F, T> {
    operation: Option<F>,
    outcome: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Operation<F, T> {
    pub(super) fn new(operation: F, reply: oneshot::Sender<Result<T, StoreError>>) -> Self {
        Self { operation: Some(operation), outcome: None, reply }
    }
}

impl<F, T> Job for Operation<F, T>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        let Some(operation) = self.operation.take() else { return false };
        // A panic must not end the thread that everybody's writes depend on.
        let outcome = catch_unwind(AssertUnwindSafe(|| operation(connection)))
            .unwrap_or_else(|_| Err(unavailable("the operation panicked")));
        let keep = outcome.is_ok();
        self.outcome = Some(outcome);
        keep
    }

    fn answer(self: Box<Self>, failure: Option<&str>) {
        // After a failed commit a refusal is void too: it may rest on what a neighbour wrote.
        let outcome = match (failure, self.outcome) {
            (None, Some(outcome)) => outcome,
            (failure, _) => Err(unavailable(failure.unwrap_or("the operation did not run"))),
        };
        // The caller may have stopped waiting.
        let _ = self.reply.send(outcome);
    }
}

/// Works until every handle is gone and nothing waits.
pub(super) fn run(connection: Connection, queue: mpsc::Receiver<Box<dyn Job>>) {
    let mut waiting = VecDeque::new();
    let mut done = Vec::new();
    while let Ok(first) = queue.recv() {
        waiting.push_back(first);
        waiting.extend(queue.try_iter().take(GROUP - 1));
        // More than one round only if SQLite gave up a transaction half way.
        while !waiting.is_empty() {
            let failure = transact(&connection, &mut waiting, &mut done).err();
            let failure = failure.map(|error| error.to_string());
            if let Some(error) = &failure {
                tracing::error!(
                    error,
                    operations = done.len(),
                    "the database refused a transaction"
                );
                if !connection.is_autocommit() {
                    // If this fails too, so will the next BEGIN, and its callers are told.
                    let _ = connection.execute_batch("ROLLBACK");
                }
            }
            for job in done.drain(..) {
                job.answer(failure.as_deref());
            }
        }
    }
}

/// Moves what it ran, or could not begin, from `waiting` to `done`.
fn transact(
    connection: &Connection,
    waiting: &mut VecDeque<Box<dyn Job>>,
    done: &mut Vec<Box<dyn Job>>,
) -> rusqlite::Result<()> {
    if let Err(error) = statement(connection, "BEGIN IMMEDIATE") {
        done.extend(waiting.drain(..));
        return Err(error);
    }
    while let Some(job) = waiting.pop_front() {
        done.push(job);
        let Some(job) = done.last_mut() else { break };
        statement(connection, "SAVEPOINT operation")?;
        if !job.run(connection) {
            // Fails if SQLite has rolled everything back by itself (disk full, out of memory).
            statement(connection, "ROLLBACK TO operation")?;
        }
        statement(connection, "RELEASE operation")?;
    }
    statement(connection, "COMMIT")
}

fn statement(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}
