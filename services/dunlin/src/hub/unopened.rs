//! The event log of a process whose roles use none. It is not opened then, so that such a role
//! starts while Kafka is away.

use std::sync::Arc;
use std::time::Duration;

use dunlin_model::event::Event;
use dunlin_storage::event_log::{Completions, Full, Position, Range, ReadLimit, Record, Token};
use dunlin_storage::{EventLog, StoreError};

/// Refuses as a log does that is closed.
pub(super) struct Unopened;

fn refusal() -> StoreError {
    StoreError::unavailable("event", "no role of this process uses it, so it was not opened")
}

#[async_trait::async_trait]
impl EventLog for Unopened {
    fn append(
        &self,
        _: &'static str,
        _: Record<'_>,
        _: Token,
        _: Option<&Arc<dyn Completions>>,
    ) -> Result<(), Full> {
        Err(Full)
    }

    async fn writable(&self) {
        std::future::pending().await
    }

    fn partitions(&self) -> u32 {
        0
    }

    fn pending_bytes(&self) -> usize {
        0
    }

    async fn range(&self, _: &'static str, _: u32) -> Result<Range, StoreError> {
        Err(refusal())
    }

    async fn seek(&self, _: &'static str, _: u32, _: Position) -> Result<u64, StoreError> {
        Err(refusal())
    }

    async fn read(
        &self,
        _: &'static str,
        _: u32,
        _: u64,
        _: ReadLimit,
        _: Duration,
    ) -> Result<Vec<Event>, StoreError> {
        Err(refusal())
    }

    async fn group_commit(
        &self,
        _: &'static str,
        _: &str,
        _: &[(u32, u64)],
    ) -> Result<(), StoreError> {
        Err(refusal())
    }

    async fn group_positions(
        &self,
        _: &'static str,
        _: &str,
    ) -> Result<Vec<(u32, u64)>, StoreError> {
        Err(refusal())
    }

    async fn close(&self) {}
}
