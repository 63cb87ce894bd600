//! The segment log as the port has it.

use std::future;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dunlin_model::event::Event;
use tokio::time::{Instant, timeout_at};

use super::topic::Topic;
use super::{SegmentLog, groups, reader};
use crate::StoreError;
use crate::event_log::{
    Completions, EventLog, Full, Position, Range, ReadLimit, Record, Token, physical,
};

/// The longest a reader sleeps, so that `Duration::MAX` means no end.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl SegmentLog {
    fn topic(&self, name: &str) -> io::Result<Arc<Topic>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = topics.iter().find(|topic| topic.name == name) {
            return Ok(Arc::clone(topic));
        }
        drop(topics);
        self.start_empty(name)
    }

    fn readable(&self, topic: &'static str, partition: u32) -> Result<Arc<Topic>, StoreError> {
        if partition >= self.partitions() {
            return Err(StoreError::NotFound);
        }
        self.topic(physical(topic)).map_err(unavailable)
    }
}

#[async_trait]
impl EventLog for SegmentLog {
    fn append(
        &self,
        topic: &'static str,
        record: Record<'_>,
        token: Token,
        sink: Option<&Arc<dyn Completions>>,
    ) -> Result<(), Full> {
        {
            let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(topic) = topics.iter().find(|known| known.name == topic) {
                return topic.append(&record, token, sink);
            }
        }
        match self.start_empty(topic) {
            Ok(topic) => topic.append(&record, token, sink),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(topic, error, "cannot start a writer of the event log");
                Err(Full)
            }
        }
    }

    async fn writable(&self) {
        loop {
            let fell = self.shared.writable.notified();
            tokio::pin!(fell);
            // From here on it hears of every completion, also of one before it waits.
            fell.as_mut().enable();
            if self.closed.load(Ordering::SeqCst) {
                future::pending::<()>().await;
            }
            if self.shared.pending.load(Ordering::Relaxed) < self.shared.config.pending_bytes {
                return;
            }
            fell.await;
        }
    }

    fn partitions(&self) -> u32 {
        self.shared.config.partitions
    }

    fn pending_bytes(&self) -> usize {
        self.shared.pending.load(Ordering::Relaxed)
    }

    async fn range(&self, topic: &'static str, partition: u32) -> Result<Range, StoreError> {
        Ok(self.readable(topic, partition)?.range(partition))
    }

    async fn seek(
        &self,
        topic: &'static str,
        partition: u32,
        position: Position,
    ) -> Result<u64, StoreError> {
        let topic = self.readable(topic, partition)?;
        let range = topic.range(partition);
        match position {
            Position::Earliest => Ok(range.begin),
            Position::Latest => Ok(range.end),
            Position::Offset(offset) => Ok(offset.clamp(range.begin, range.end)),
            Position::Time(time) => {
                let seek = move || reader::seek_time(&topic, partition, time);
                Ok(blocking(seek).await?.unwrap_or(range.end))
            }
        }
    }

    async fn read(
        &self,
        topic: &'static str,
        partition: u32,
        from: u64,
        limit: ReadLimit,
        wait: Duration,
    ) -> Result<Vec<Event>, StoreError> {
        let topic = self.readable(topic, partition)?;
        let deadline = Instant::now() + wait.min(FOREVER);
        let mut end = topic.partitions[partition as usize].end.subscribe();
        let mut beyond = from;
        loop {
            // Looked at first: a caller that does not want to wait gets what is there.
            let seen = *end.borrow_and_update();
            if seen <= beyond {
                match timeout_at(deadline, end.changed()).await {
                    Ok(Ok(())) => continue,
                    // The sender is in the topic: it cannot be gone.
                    Ok(Err(_)) | Err(_) => return Ok(Vec::new()),
                }
            }
            let topic = Arc::clone(&topic);
            let events = blocking(move || reader::read(&topic, partition, from, limit)).await?;
            if !events.is_empty() {
                return Ok(events);
            }
            // Retention or damage left nothing up to there.
            beyond = seen;
        }
    }

    async fn group_commit(
        &self,
        topic: &'static str,
        group: &str,
        next: &[(u32, u64)],
    ) -> Result<(), StoreError> {
        groups::commit(&self.sqlite, physical(topic), group, next).await
    }

    async fn group_positions(
        &self,
        topic: &'static str,
        group: &str,
    ) -> Result<Vec<(u32, u64)>, StoreError> {
        groups::positions(&self.sqlite, physical(topic), group).await
    }

    async fn close(&self) {
        for topic in self.begin_close() {
            // The sender is in the topic: it cannot be gone.
            let _ = topic.closed.subscribe().wait_for(|closed| *closed).await;
        }
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(read).await.map_err(unavailable)?.map_err(unavailable)
}

fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::unavailable("event log", source)
}
