//! HOT PATH: what was given to Kafka and is not told to its owner yet.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::Notify;

use crate::event_log::{Completion, Completions, Full, Record, Token};
use crate::lock;

/// What librdkafka keeps of a record beside its bytes, about.
const OVERHEAD: usize = 256;
/// The topic stands above it in what librdkafka gives back with a record.
const SEQUENCE_BITS: u32 = 56;
const SEQUENCE_MASK: usize = (1 << SEQUENCE_BITS) - 1;
/// So many topics can be told apart.
pub(super) const TOPICS: usize = 1 << (usize::BITS - SEQUENCE_BITS);

/// A topic that exists.
pub(super) struct Topic {
    /// The hub's name of it, and the cluster's.
    pub name: &'static str,
    pub kafka: String,
    number: usize,
    partitions: Box<[Mutex<Waiters>]>,
}

/// Of one partition, in the order in which the records went to librdkafka. It reports failures in
/// another order than deliveries; they are told in this one.
#[derive(Default)]
struct Waiters {
    /// The sequence number of the first.
    first: usize,
    queue: VecDeque<Waiter>,
    /// The few sinks that `queue` points into.
    sinks: Vec<Arc<dyn Completions>>,
}

struct Waiter {
    token: Token,
    sink: Option<usize>,
    bytes: usize,
    /// Once it is known.
    durable: Option<bool>,
}

/// What is to be told to one sink.
struct Told {
    sink: Arc<dyn Completions>,
    batch: Vec<Completion>,
}

/// Shared by those who append and the thread that hears what came of it.
pub(super) struct Pending {
    topics: RwLock<Vec<Arc<Topic>>>,
    /// Of all accepted records that are not told yet.
    bytes: AtomicUsize,
    limit: usize,
    pub closed: AtomicBool,
    /// A record has failed before librdkafka took it.
    refused: AtomicBool,
    /// Room, a new topic or the end may have come.
    pub changed: Notify,
    outbox: Mutex<Vec<Told>>,
}

/// What came of a record, by what was handed on with it.
pub(super) struct Report {
    pub partition: i32,
    pub opaque: usize,
    pub durable: bool,
}

/// What became of handing a record to librdkafka.
pub(super) enum Handed {
    Taken,
    /// It will never be taken.
    Refused,
    /// Not now.
    Full,
}

impl Pending {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            topics: RwLock::default(),
            bytes: AtomicUsize::new(0),
            limit,
            closed: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            changed: Notify::new(),
            outbox: Mutex::default(),
        }
    }

    pub(super) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.iter().find(|topic| topic.name == name).cloned()
    }

    /// None: there are too many.
    pub(super) fn add_topic(
        &self,
        name: &'static str,
        kafka: String,
        partitions: u32,
    ) -> Option<Arc<Topic>> {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = topics.iter().find(|topic| topic.name == name) {
            return Some(Arc::clone(known));
        }
        let number = topics.len();
        let partitions = (0..partitions).map(|_| Mutex::default()).collect();
        let topic = Arc::new(Topic { name, kafka, number, partitions });
        (number < TOPICS).then(|| {
            topics.push(Arc::clone(&topic));
            topic
        })
    }

    /// Hands a record on, under its partition's lock: the order of those who append is the log's.
    /// Whether it is the only one that waits.
    pub(super) fn push(
        &self,
        topic: &str,
        partition: impl FnOnce(usize) -> usize,
        record: &Record<'_>,
        (token, sink): (Token, Option<&Arc<dyn Completions>>),
        hand: impl FnOnce(&Topic, usize, usize) -> Handed,
    ) -> Result<bool, Full> {
        if self.bytes.load(Ordering::Relaxed) >= self.limit {
            return Err(Full);
        }
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let topic = topics.iter().find(|known| known.name == topic).ok_or(Full)?;
        let partition = partition(topic.partitions.len());
        let mut waiters = lock(&topic.partitions[partition]);
        if self.closed.load(Ordering::SeqCst) {
            return Err(Full);
        }
        let sequence = waiters.first.wrapping_add(waiters.queue.len()) & SEQUENCE_MASK;
        let durable = match hand(topic, partition, topic.number << SEQUENCE_BITS | sequence) {
            Handed::Taken => None,
            Handed::Refused => Some(false),
            Handed::Full => return Err(Full),
        };
        let sink = sink.map(|sink| waiters.sink(sink));
        let bytes = cost(record);
        waiters.queue.push_back(Waiter { token, sink, bytes, durable });
        if durable.is_some() {
            self.refused.store(true, Ordering::SeqCst);
        }
        // Under the lock: it is added before it can be taken off.
        Ok(self.bytes.fetch_add(bytes, Ordering::SeqCst) == 0)
    }

    /// Takes note of reports, and gathers what can be told then. librdkafka reports a partition's
    /// records one after the other: its lock is taken once for all of them.
    pub(super) fn settle(&self, reports: &mut Vec<Report>) {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let of = |report: &Report| (report.opaque >> SEQUENCE_BITS, report.partition);
        for reports in reports.chunk_by(|one, next| of(one) == of(next)) {
            let topic = topics.get(reports[0].opaque >> SEQUENCE_BITS);
            let partition = usize::try_from(reports[0].partition).ok();
            let Some(waiters) = topic.zip(partition).and_then(|(t, p)| t.partitions.get(p)) else {
                tracing::error!(
                    opaque = reports[0].opaque,
                    "kafka has reported records that nobody appended"
                );
                continue;
            };
            let mut waiters = lock(waiters);
            for report in reports {
                let place = (report.opaque & SEQUENCE_MASK).wrapping_sub(waiters.first);
                if let Some(waiter) = waiters.queue.get_mut(place & SEQUENCE_MASK) {
                    waiter.durable = Some(report.durable);
                }
            }
            self.gather(&mut waiters);
        }
        reports.clear();
    }

    /// Takes off what is known, up to the first that is not.
    fn gather(&self, waiters: &mut Waiters) {
        let mut outbox = lock(&self.outbox);
        while let Some(Waiter { durable: Some(durable), .. }) = waiters.queue.front() {
            let durable = *durable;
            let Some(Waiter { token, sink, bytes, .. }) = waiters.queue.pop_front() else { break };
            waiters.first = (waiters.first + 1) & SEQUENCE_MASK;
            if let Some(sink) = sink {
                let sink = &waiters.sinks[sink];
                let completion = Completion { token, durable };
                match outbox.iter_mut().find(|told| Arc::ptr_eq(&told.sink, sink)) {
                    Some(told) => told.batch.push(completion),
                    None => {
                        let sink = Arc::clone(sink);
                        outbox.push(Told { sink, batch: vec![completion] });
                    }
                }
            }
            self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        }
        if waiters.queue.is_empty() {
            waiters.sinks.clear();
        }
    }

    /// Tells the sinks what was gathered since: a batch each. Whether nothing waits any more.
    pub(super) fn tell(&self) -> bool {
        if self.refused.swap(false, Ordering::SeqCst) {
            let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
            for partition in topics.iter().flat_map(|topic| &topic.partitions) {
                self.gather(&mut lock(partition));
            }
        }
        // Only this thread gathers. The batches keep their room; a sink that got nothing is gone.
        let mut outbox = lock(&self.outbox);
        let any = outbox.iter().any(|told| !told.batch.is_empty());
        outbox.retain_mut(|told| {
            let used = !told.batch.is_empty();
            if used {
                told.sink.complete(&told.batch);
                told.batch.clear();
            }
            used || !any
        });
        drop(outbox);
        let empty = self.bytes.load(Ordering::SeqCst) == 0;
        if any || empty {
            self.changed.notify_waiters();
        }
        empty
    }

    pub(super) fn has_room(&self) -> bool {
        self.bytes() < self.limit
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether everything that was accepted has been told.
    pub(super) fn is_empty(&self) -> bool {
        // What is taken off goes into the outbox under its lock, and is told under it.
        let outbox = lock(&self.outbox);
        let told = outbox.iter().all(|told| told.batch.is_empty());
        told && self.bytes.load(Ordering::SeqCst) == 0
    }

    /// Nothing is taken any more once it returns.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        for partition in topics.iter().flat_map(|topic| &topic.partitions) {
            drop(lock(partition));
        }
    }
}

impl Waiters {
    fn sink(&mut self, sink: &Arc<dyn Completions>) -> usize {
        // One per gateway worker: a handful.
        match self.sinks.iter().position(|known| Arc::ptr_eq(known, sink)) {
            Some(index) => index,
            None => {
                self.sinks.push(Arc::clone(sink));
                self.sinks.len() - 1
            }
        }
    }
}

fn cost(record: &Record<'_>) -> usize {
    let header = |h: &crate::event_log::Header<'_>| h.name.len() + h.value.map_or(0, str::len);
    let headers: usize = record.headers.iter().map(header).sum();
    OVERHEAD + record.key.len() + record.body.len() + headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(AtomicUsize);

    impl Completions for Heard {
        fn complete(&self, batch: &[Completion]) {
            self.0.fetch_add(batch.len(), Ordering::SeqCst);
        }
    }

    #[test]
    fn it_is_not_empty_before_all_is_told() {
        let (pending, heard) = (Pending::new(1_000_000), Arc::new(Heard::default()));
        pending.add_topic("d2c", "test.d2c".to_owned(), 1).expect("a topic");
        let sink = heard.clone() as Arc<dyn Completions>;
        let record = Record { key: b"d", headers: &[], body: b"1", enqueued: 1 };
        let mut number = None;
        let waiter = (Token { connection: 1, sequence: 1 }, Some(&sink));
        let pushed = pending.push(
            "d2c",
            |_| 0,
            &record,
            waiter,
            |_, _, opaque| {
                number = Some(opaque);
                Handed::Taken
            },
        );
        assert!(pushed.is_ok_and(|first| first) && !pending.is_empty());
        let opaque = number.expect("handed on");
        pending.settle(&mut vec![Report { partition: 0, opaque, durable: true }]);
        assert!(!pending.is_empty(), "known, and not told yet");
        assert!(pending.tell() && pending.is_empty());
        assert_eq!(heard.0.load(Ordering::SeqCst), 1);
    }
}
