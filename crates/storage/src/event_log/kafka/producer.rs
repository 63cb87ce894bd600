//! HOT PATH: appending to Kafka, and the thread that hears what came of it.
//!
//! librdkafka copies each record into one allocation, and one a header; ours are its topic's name
//! as a C string, which its crate makes, and nothing else.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{JoinHandle, park_timeout};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig};
use rdkafka::types::RDKafkaErrorCode;

use super::context;
use super::pending::{Handed, Pending, Report};
use super::unavailable;
use super::url::Place;
use crate::StoreError;
use crate::event_log::{Completions, Full, Record, Token, partition_of};
use crate::lock;

/// Reports of so long are handed on together.
const TICK: Duration = Duration::from_millis(1);
/// Between two looks at a producer that has nothing to do.
const IDLE: Duration = Duration::from_millis(200);

/// The producer in use, and what it needs to be made anew.
pub(super) struct Producer {
    pub pending: Arc<Pending>,
    config: ClientConfig,
    current: RwLock<Arc<BaseProducer<Reports>>>,
    stopped: AtomicBool,
}

/// Hears of deliveries, and of what else comes by the same queue. Only the thread that polls does.
#[derive(Default)]
pub(super) struct Reports {
    waiting: Mutex<Vec<Report>>,
    heard: AtomicUsize,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        context::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        context::told(&error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let (partition, durable) = match result {
            Ok(message) => (message.partition(), true),
            Err((_, message)) => (message.partition(), false),
        };
        self.heard.fetch_add(1, Ordering::Relaxed);
        lock(&self.waiting).push(Report { partition, opaque, durable });
    }
}

impl Producer {
    pub(super) fn start(
        place: &Place,
        pending: Arc<Pending>,
    ) -> Result<(Arc<Self>, JoinHandle<()>), StoreError> {
        let mut config = place.client.clone();
        let delivery = place.delivery_timeout.as_millis();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("delivery.timeout.ms", delivery.to_string())
            .set("request.timeout.ms", delivery.min(10_000).to_string())
            .set("linger.ms", "5")
            // `Pending` counts, headers and all.
            .set("queue.buffering.max.messages", "0")
            .set("queue.buffering.max.kbytes", "2147483647")
            .set("topic.metadata.propagation.max.ms", "5000");
        let current = create(&config).map_err(unavailable)?;
        let current = RwLock::new(Arc::new(current));
        let stopped = AtomicBool::new(false);
        let producer = Arc::new(Self { pending, config, current, stopped });
        let thread = std::thread::Builder::new().name("kafka-reports".to_owned());
        let of_thread = Arc::clone(&producer);
        let thread = thread.spawn(move || of_thread.run()).map_err(unavailable)?;
        Ok((producer, thread))
    }

    /// Whether nothing else waits: the thread must be woken.
    pub(super) fn append(
        &self,
        topic: &str,
        record: &Record<'_>,
        token: Token,
        sink: Option<&Arc<dyn Completions>>,
    ) -> Result<bool, Full> {
        let producer = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let choose = |partitions: usize| partition_of(record.key, partitions as u32) as usize;
        self.pending.push(topic, choose, record, (token, sink), |topic, partition, opaque| {
            let message = BaseRecord::with_opaque_to(&topic.kafka, opaque)
                .partition(partition as i32)
                .key(record.key)
                .payload(record.body)
                // Zero would mean now, and less is refused.
                .timestamp(record.enqueued.max(1));
            let message = match headers(record) {
                Some(headers) => message.headers(headers),
                None => message,
            };
            match producer.send(message) {
                Ok(()) => Handed::Taken,
                Err((error, _)) => match error.rdkafka_error_code() {
                    // After a fatal error another producer follows.
                    Some(RDKafkaErrorCode::QueueFull | RDKafkaErrorCode::Fatal) => Handed::Full,
                    _ => Handed::Refused,
                },
            }
        })
    }

    fn run(&self) {
        let mut producer = self.current();
        loop {
            let empty = self.listen(&producer);
            if let Some((code, reason)) = producer.client().fatal_error() {
                tracing::error!(%code, reason, "kafka's producer has failed; another one follows");
                self.give_up(&producer);
                match create(&self.config) {
                    Ok(next) => {
                        producer = Arc::new(next);
                        let mut current =
                            self.current.write().unwrap_or_else(PoisonError::into_inner);
                        *current = Arc::clone(&producer);
                        drop(current);
                        self.pending.changed.notify_waiters();
                    }
                    Err(error) => {
                        tracing::error!(%error, "cannot make a producer; trying again");
                        park_timeout(IDLE);
                    }
                }
            }
            if self.stopped.load(Ordering::SeqCst) {
                self.give_up(&producer);
                return;
            }
            park_timeout(if empty { IDLE } else { TICK });
        }
    }

    /// Hands on what has been reported. Whether nothing waits any more.
    fn listen(&self, producer: &BaseProducer<Reports>) -> bool {
        let Reports { waiting, heard } = producer.context().as_ref();
        let until = Instant::now() + TICK;
        loop {
            let before = heard.load(Ordering::Relaxed);
            // One event. The crate's poll takes all of the time it is given, and what of it is less
            // than a millisecond it spends spinning.
            producer.poll(Duration::ZERO);
            if heard.load(Ordering::Relaxed) == before || Instant::now() > until {
                break;
            }
        }
        self.pending.settle(&mut lock(waiting));
        self.pending.tell()
    }

    pub(super) fn current(&self) -> Arc<BaseProducer<Reports>> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Fails what this producer has not delivered, and hears of all of it.
    fn give_up(&self, producer: &BaseProducer<Reports>) {
        producer.purge(PurgeConfig::default().queue().inflight());
        while producer.in_flight_count() > 0 {
            self.listen(producer);
            park_timeout(TICK);
        }
        self.listen(producer);
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }
}

fn create(config: &ClientConfig) -> KafkaResult<BaseProducer<Reports>> {
    BaseProducer::from_config_and_context(config, Reports::default())
}

fn headers(record: &Record<'_>) -> Option<OwnedHeaders> {
    let headers = OwnedHeaders::new_with_capacity(record.headers.len());
    let all = record.headers.iter().fold(headers, |headers, header| {
        headers.insert(Header { key: &key(header.name), value: header.value })
    });
    (!record.headers.is_empty()).then_some(all)
}

/// librdkafka ends a name at its first NUL when it is read: a device cannot cut one short.
fn key(name: &str) -> Cow<'_, str> {
    if name.contains('\0') { name.replace('\0', "\u{fffd}").into() } else { name.into() }
}
