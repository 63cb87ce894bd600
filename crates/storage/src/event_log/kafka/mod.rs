//! `EventLog` in Kafka, for a hub of many processes.
//!
//! Any cluster will do that speaks its protocol: an idempotent producer and plain consumers, no
//! transactions. Calls of librdkafka that block run on tokio's threads for those.

use std::future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dunlin_model::event::Event;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::Mutex as Turn;

use super::{
    Completions, EventLog, Full, Position, Range, ReadLimit, Record, TOPIC_D2C, Token, physical,
};
use crate::{StoreError, lock};

mod admin;
mod context;
mod groups;
mod pending;
mod producer;
mod reader;
#[cfg(test)]
mod tests;
mod url;

pub(crate) use admin::remove;
use context::Logged;
use groups::Groups;
use pending::{Pending, Topic};
use producer::Producer;
use reader::Readers;
use url::{ANSWER, Place};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaLogConfig {
    /// Of each topic. Fixed when a topic is made: keys would change their partition.
    pub partitions: u32,
    /// Of topics that are made here: records go when they are older (`Duration::MAX`: they never
    /// are),
    pub retention_age: Duration,
    /// or when their topic is bigger.
    pub retention_bytes: u64,
    /// What may be accepted and not durable yet, before `append` refuses more.
    pub pending_bytes: usize,
}

impl Default for KafkaLogConfig {
    fn default() -> Self {
        Self {
            partitions: 4,
            retention_age: Duration::from_secs(24 * 60 * 60),
            retention_bytes: u64::MAX,
            pending_bytes: 64 << 20,
        }
    }
}

/// The event log of one hub in one cluster, by `kafka://`.
pub struct KafkaLog {
    shared: Arc<Shared>,
    producer: Arc<Producer>,
    /// Hears of deliveries.
    thread: Mutex<Option<JoinHandle<()>>>,
    readers: Arc<Readers>,
    groups: Arc<Groups>,
    runtime: Handle,
}

struct Shared {
    place: Place,
    config: KafkaLogConfig,
    pending: Arc<Pending>,
    /// Asks about topics and offsets.
    meta: Arc<BaseConsumer<Logged>>,
    /// Of who makes a topic.
    making: Turn<()>,
    /// Somebody does so for an `append` that was refused.
    awaited: AtomicBool,
}

impl KafkaLog {
    /// Makes what is missing, so that a wrong URL is known at once. `url` is
    /// `kafka://[USER:PASSWORD@]HOST:PORT[,HOST:PORT]`, and may end in options: `?prefix=NAME`, of
    /// topics and groups (`dunlin`); `replication=N` of topics made here (1); `delivery_timeout=S`,
    /// after which what no broker acknowledges has failed (30); `tls=true`, with
    /// `sslrootcert=FILE`, the PEM file of the CA to trust in place of the system's; `sasl=PLAIN`,
    /// `SCRAM-SHA-256` or `SCRAM-SHA-512` (which is also taken if there is a user).
    pub async fn open(url: &str, config: KafkaLogConfig) -> Result<Self, StoreError> {
        if config.partitions == 0 {
            return Err(unavailable("an event log needs 1 partition at the least"));
        }
        let place = Place::parse(url)?;
        let mut asking = place.client.clone();
        asking.set("allow.auto.create.topics", "false");
        let meta = BaseConsumer::from_config_and_context(&asking, Logged).map_err(unavailable)?;
        let (readers, groups) = (Readers::new(&place), Arc::new(Groups::new(&place)));
        let pending = Arc::new(Pending::new(config.pending_bytes));
        let shared = Arc::new(Shared {
            place,
            config,
            pending: Arc::clone(&pending),
            meta: Arc::new(meta),
            making: Turn::new(()),
            awaited: AtomicBool::new(false),
        });
        shared.topic(TOPIC_D2C).await?;
        let (producer, thread) = Producer::start(&shared.place, pending)?;
        let (thread, runtime) = (Mutex::new(Some(thread)), Handle::current());
        Ok(Self { shared, producer, thread, readers, groups, runtime })
    }

    async fn readable(
        &self,
        topic: &'static str,
        partition: u32,
    ) -> Result<Arc<Topic>, StoreError> {
        if partition >= self.partitions() {
            return Err(StoreError::NotFound);
        }
        self.shared.topic(physical(topic)).await
    }

    fn wake(&self) {
        if let Some(thread) = &*lock(&self.thread) {
            thread.thread().unpark();
        }
    }
}

impl Shared {
    /// The topic, made if it is not there.
    async fn topic(&self, name: &'static str) -> Result<Arc<Topic>, StoreError> {
        if let Some(topic) = self.pending.topic(name) {
            return Ok(topic);
        }
        let _turn = self.making.lock().await;
        let kafka = self.place.name(name);
        admin::ensure(&self.place, &self.config, &self.meta, &kafka).await?;
        let topic = self.pending.add_topic(name, kafka, self.config.partitions);
        topic.ok_or_else(|| unavailable("the event log has too many topics"))
    }

    async fn range(&self, topic: &Topic, partition: u32) -> Result<Range, StoreError> {
        let (meta, name) = (Arc::clone(&self.meta), topic.kafka.clone());
        let ask = move || {
            while meta.poll(Duration::ZERO).is_some() {}
            led(|| meta.fetch_watermarks(&name, partition.cast_signed(), ANSWER))
        };
        let (begin, end) = blocking(ask).await.map_err(unavailable)?;
        let offset = |offset: i64| u64::try_from(offset).unwrap_or(0);
        Ok(Range { begin: offset(begin), end: offset(end) })
    }
}

#[async_trait]
impl EventLog for KafkaLog {
    fn append(
        &self,
        topic: &'static str,
        record: Record<'_>,
        token: Token,
        sink: Option<&Arc<dyn Completions>>,
    ) -> Result<(), Full> {
        let appended = self.producer.append(topic, &record, token, sink);
        match appended {
            Ok(first) => {
                if first {
                    self.wake();
                }
                Ok(())
            }
            Err(Full) => {
                let pending = &self.shared.pending;
                let unknown =
                    !pending.closed.load(Ordering::SeqCst) && pending.topic(topic).is_none();
                if unknown && !self.shared.awaited.swap(true, Ordering::SeqCst) {
                    let shared = Arc::clone(&self.shared);
                    self.runtime.spawn(async move {
                        if let Err(error) = shared.topic(topic).await {
                            let error = &error as &dyn std::error::Error;
                            tracing::error!(topic, error, "cannot make a topic of the event log");
                        }
                        shared.awaited.store(false, Ordering::SeqCst);
                        shared.pending.changed.notify_waiters();
                    });
                }
                Err(Full)
            }
        }
    }

    async fn writable(&self) {
        let pending = &self.shared.pending;
        loop {
            let changed = pending.changed.notified();
            tokio::pin!(changed);
            // From here on it hears of every change, also of one before it waits.
            changed.as_mut().enable();
            if pending.closed.load(Ordering::SeqCst) {
                future::pending::<()>().await;
            }
            if pending.has_room() && !self.shared.awaited.load(Ordering::SeqCst) {
                return;
            }
            changed.await;
        }
    }

    fn partitions(&self) -> u32 {
        self.shared.config.partitions
    }

    fn pending_bytes(&self) -> usize {
        self.shared.pending.bytes()
    }

    async fn range(&self, topic: &'static str, partition: u32) -> Result<Range, StoreError> {
        let topic = self.readable(topic, partition).await?;
        self.shared.range(&topic, partition).await
    }

    async fn seek(
        &self,
        topic: &'static str,
        partition: u32,
        position: Position,
    ) -> Result<u64, StoreError> {
        let topic = self.readable(topic, partition).await?;
        let range = self.shared.range(&topic, partition).await?;
        let time = match position {
            Position::Earliest => return Ok(range.begin),
            Position::Latest => return Ok(range.end),
            Position::Offset(offset) => return Ok(offset.clamp(range.begin, range.end)),
            // Kafka gives a meaning of their own to negative ones.
            Position::Time(time) => time.max(0),
        };
        let mut list = TopicPartitionList::with_capacity(1);
        let added =
            list.add_partition_offset(&topic.kafka, partition.cast_signed(), Offset::Offset(time));
        added.map_err(unavailable)?;
        let meta = Arc::clone(&self.shared.meta);
        let ask = move || {
            led(|| {
                let found = meta.offsets_for_times(list.clone(), ANSWER)?;
                let found = found.elements();
                let [found] = &found[..] else { return Ok(Offset::End) };
                found.error().map(|()| found.offset())
            })
        };
        match blocking(ask).await.map_err(unavailable)? {
            Offset::Offset(offset) => Ok(u64::try_from(offset).unwrap_or(range.end)),
            // None so late.
            _ => Ok(range.end),
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
        let topic = self.readable(topic, partition).await?;
        let range = self.shared.range(&topic, partition).await?;
        self.readers.read(&topic.kafka, partition, (from, range), limit, wait).await
    }

    async fn group_commit(
        &self,
        topic: &'static str,
        group: &str,
        next: &[(u32, u64)],
    ) -> Result<(), StoreError> {
        let topic = self.shared.topic(physical(topic)).await?;
        self.groups.commit(&self.shared.meta, &topic.kafka, group, next).await
    }

    async fn group_positions(
        &self,
        topic: &'static str,
        group: &str,
    ) -> Result<Vec<(u32, u64)>, StoreError> {
        let topic = self.shared.topic(physical(topic)).await?;
        self.groups.positions(&topic.kafka, group, self.partitions()).await
    }

    async fn close(&self) {
        let pending = &self.shared.pending;
        pending.close();
        loop {
            let changed = pending.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if pending.is_empty() {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for KafkaLog {
    /// Whoever has not closed it does not want to wait: what is under way fails.
    fn drop(&mut self) {
        self.shared.pending.close();
        self.producer.stop();
        self.wake();
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that heard of kafka's deliveries has panicked");
        }
    }
}

/// Asks again while a partition's leader, or a group's, is not known or not ready: it is new, or
/// another one now. Blocks.
fn led<T>(ask: impl Fn() -> KafkaResult<T>) -> KafkaResult<T> {
    let since = Instant::now();
    loop {
        let answer = ask();
        let code = answer.as_ref().err().and_then(KafkaError::rdkafka_error_code);
        let leaderless = [
            Some(RDKafkaErrorCode::NotLeaderForPartition),
            Some(RDKafkaErrorCode::LeaderNotAvailable),
            Some(RDKafkaErrorCode::CoordinatorLoadInProgress),
            Some(RDKafkaErrorCode::CoordinatorNotAvailable),
            Some(RDKafkaErrorCode::NotCoordinator),
        ];
        if !leaderless.contains(&code) || since.elapsed() > ANSWER {
            return answer;
        }
        // sleep: between two looks; nobody tells when the cluster has elected a leader.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs what may block where it may.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> KafkaResult<T> + Send + 'static,
) -> KafkaResult<T> {
    let done = tokio::task::spawn_blocking(call).await;
    // It is neither cancelled nor does it panic but on what no producer of ours writes.
    done.unwrap_or(Err(KafkaError::Global(RDKafkaErrorCode::Fail)))
}

fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::unavailable("event log", source)
}
