//! An operation on one connection: counted, under a deadline, tried again where that is safe.

use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_postgres::Object;
use futures_util::future::BoxFuture;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row, Statement};

use super::{Postgres, unavailable};
use crate::StoreError;
use crate::error::chain;

/// How often an operation is tried before its callers are told.
const ATTEMPTS: usize = 5;

/// Why an operation did not come to its end.
#[derive(Debug)]
pub(crate) enum Fault {
    Database(Error),
    /// What it rests on has changed under it, so that it must begin anew. Nothing is committed.
    Raced,
    /// A row that no version of the hub has written.
    Damaged(StoreError),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Database(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Damaged(error)
    }
}

/// A connection for the time of one operation. Unless that comes to its end, it is closed: whatever
/// it held is rolled back, and nobody takes over a connection in an unknown state.
pub(crate) struct Session {
    client: Option<Object>,
    postgres: Postgres,
    kind: &'static str,
    committing: AtomicBool,
}

pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Postgres {
    /// Runs an operation on what it is given; `kind` is what its round trips are counted as. What
    /// failed for sure is tried again. A commit whose answer was lost is an error, though it may
    /// have taken effect.
    pub(crate) async fn run<C: Sync, T>(
        &self,
        kind: &'static str,
        given: &C,
        operation: impl for<'a> Fn(&'a Session, &'a C) -> BoxFuture<'a, Result<T, Fault>>,
    ) -> Result<T, StoreError> {
        let tried = async {
            let mut attempt = 1;
            loop {
                let client = Some(self.connection().await.map_err(unavailable)?);
                let committing = AtomicBool::new(false);
                let mut session = Session { client, postgres: self.clone(), kind, committing };
                let fault = match operation(&session, given).await {
                    Ok(done) => {
                        // Back to the pool.
                        drop(session.client.take());
                        return Ok(done);
                    }
                    Err(fault) => fault,
                };
                if attempt == ATTEMPTS || !session.may_retry(&fault) {
                    return Err(fault.into());
                }
                attempt += 1;
            }
        };
        let late = || unavailable(format!("no answer within {:?}", self.0.deadline));
        timeout(self.0.deadline, tried).await.unwrap_or_else(|_| Err(late()))
    }
}

impl Session {
    /// Prepared once a connection.
    pub(crate) async fn prepare(&self, sql: &str) -> Result<Statement, Fault> {
        Ok(self.client()?.prepare_cached(sql).await?)
    }

    /// Waits for the server once: what is joined in `statements` is sent together.
    pub(crate) async fn trip<T>(
        &self,
        statements: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        self.postgres.count(self.kind);
        statements.await
    }

    pub(crate) async fn query(
        &self,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<Vec<Row>, Fault> {
        Ok(self.client()?.query(statement, params).await?)
    }

    pub(crate) async fn execute(
        &self,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<u64, Fault> {
        Ok(self.client()?.execute(statement, params).await?)
    }

    /// One statement that stands alone, and waits for its rows.
    pub(crate) async fn read(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Fault> {
        let statement = self.prepare(sql).await?;
        self.trip(self.query(&statement, params)).await
    }

    /// As `read`, but it writes.
    pub(crate) async fn write(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Fault> {
        let statement = self.prepare(sql).await?;
        self.committing.store(true, Ordering::Relaxed);
        self.trip(self.query(&statement, params)).await
    }

    /// Each statement in it sees what was committed before it began.
    pub(crate) async fn begin(&self) -> Result<(), Fault> {
        Ok(self.client()?.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?)
    }

    /// To be sent behind the last writes: if one of them fails, this rolls back.
    pub(crate) async fn commit(&self) -> Result<(), Fault> {
        self.committing.store(true, Ordering::Relaxed);
        Ok(self.client()?.batch_execute("COMMIT").await?)
    }

    /// The last write is known to have changed nothing: what follows may be tried again.
    pub(crate) fn wrote_nothing(&self) {
        self.committing.store(false, Ordering::Relaxed);
    }

    /// For a transaction that has found nothing to write.
    pub(crate) async fn rollback(&self) -> Result<(), Fault> {
        Ok(self.client()?.batch_execute("ROLLBACK").await?)
    }

    fn client(&self) -> Result<&Object, Fault> {
        self.client.as_ref().ok_or(Fault::Raced)
    }

    /// Whether nothing was committed, and another attempt may fare better.
    fn may_retry(&self, fault: &Fault) -> bool {
        const ROLLED_BACK: [SqlState; 3] = [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            // Two have made the same thing; the next attempt will find it.
            SqlState::UNIQUE_VIOLATION,
        ];
        const ENDED: [SqlState; 3] = [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ];
        let uncommitted = !self.committing.load(Ordering::Relaxed);
        match fault {
            Fault::Raced => uncommitted,
            Fault::Damaged(_) => false,
            Fault::Database(error) => match error.code() {
                Some(code) => ROLLED_BACK.contains(code) || uncommitted && ENDED.contains(code),
                // A connection that had ended while nobody used it shows it only now.
                None => uncommitted && error.is_closed(),
            },
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Database(error) => unavailable(chain(&error)),
            Fault::Raced => unavailable("others have changed the same over and over"),
            Fault::Damaged(error) => error,
        }
    }
}
