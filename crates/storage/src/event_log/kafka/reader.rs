//! Reading partitions. One client reads many of them at once, but each at one place only: there
//! are as many clients as a partition had readers at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dunlin_model::event::{Event, Property};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::context::Logged;
use super::url::{ANSWER, Place};
use super::{blocking, unavailable};
use crate::event_log::{Range, ReadLimit};
use crate::{StoreError, lock};

/// The longest a reader sleeps, so that `Duration::MAX` means no end.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

pub(super) struct Readers {
    config: ClientConfig,
    clients: Mutex<Vec<Reader>>,
}

/// A client, and the partitions that it reads.
struct Reader {
    consumer: Arc<BaseConsumer<Logged>>,
    /// By topic and partition; None while somebody reads.
    places: HashMap<(String, u32), Option<Assigned>>,
}

/// A partition with a client.
struct Assigned {
    queue: PartitionQueue<Logged>,
    /// The offset of the next record that comes.
    next: u64,
    filled: Arc<Notify>,
}

/// A place in use; it is given back when this is dropped.
struct Reading {
    readers: Arc<Readers>,
    consumer: Arc<BaseConsumer<Logged>>,
    client: usize,
    key: (String, u32),
    /// None: it must be made anew.
    place: Option<Assigned>,
}

impl Readers {
    pub(super) fn new(place: &Place) -> Arc<Self> {
        let mut config = place.client.clone();
        config
            // It never joins nor commits; without one there is no consumer.
            .set("group.id", place.name("readers"))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            // A partition that a client is newly given waits for the one fetch that is under way.
            .set("fetch.wait.max.ms", "100")
            .set("fetch.queue.backoff.ms", "20")
            .set("fetch.error.backoff.ms", "100")
            // Of each partition, read or not.
            .set("queued.min.messages", "10000")
            .set("queued.max.messages.kbytes", "1024");
        Arc::new(Self { config, clients: Mutex::default() })
    }

    /// `range` is what the partition has now: all of it can be waited for.
    pub(super) async fn read(
        self: &Arc<Self>,
        topic: &str,
        partition: u32,
        (from, range): (u64, Range),
        limit: ReadLimit,
        wait: Duration,
    ) -> Result<Vec<Event>, StoreError> {
        let start = from.clamp(range.begin, range.end);
        let (readers, key) = (Arc::clone(self), (topic.to_owned(), partition));
        let mut reading =
            blocking(move || readers.reading(key, start)).await.map_err(unavailable)?;
        let behind = start < range.end;
        let wait = if behind { ANSWER } else { wait.min(FOREVER) };
        let deadline = Instant::now() + wait;
        let mut events = Vec::new();
        let mut bytes = 0;
        loop {
            let full = reading.drain(from, limit, &mut events, &mut bytes).map_err(unavailable)?;
            let next = reading.place.as_ref().map_or(range.end, |place| place.next);
            if full || (next >= range.end && !events.is_empty()) {
                return Ok(events);
            }
            let Some(filled) = reading.place.as_ref().map(|place| Arc::clone(&place.filled)) else {
                return Ok(events);
            };
            if timeout_at(deadline, filled.notified()).await.is_err() {
                // What is there should have come; a gap at the very end cannot.
                if behind && events.is_empty() {
                    reading.place = None;
                    return Err(unavailable(format!(
                        "Kafka sends no records of {topic}, partition {partition}, from {start} on"
                    )));
                }
                return Ok(events);
            }
        }
    }

    /// A place that reads `key` from `start` on. Blocks.
    fn reading(self: Arc<Self>, key: (String, u32), start: u64) -> KafkaResult<Reading> {
        let mut reading = self.take(key, start)?;
        let (topic, partition) = (reading.key.0.clone(), reading.key.1.cast_signed());
        let offset = Offset::Offset(start.cast_signed());
        match reading.place.take() {
            Some(place) if place.next == start => reading.place = Some(place),
            Some(mut place) => {
                reading.consumer.seek(&topic, partition, offset, ANSWER)?;
                place.next = start;
                reading.place = Some(place);
            }
            None => {
                let mut list = TopicPartitionList::with_capacity(1);
                list.add_partition_offset(&topic, partition, offset)?;
                let filled = Arc::new(Notify::new());
                // Before anything can come: what has come already would be on another queue.
                let queue = reading.consumer.split_partition_queue(&topic, partition);
                let Some(mut queue) = queue else {
                    return Err(rdkafka::error::KafkaError::Subscription(topic));
                };
                let wake = Arc::clone(&filled);
                queue.set_nonempty_callback(move || wake.notify_one());
                reading.consumer.incremental_assign(&list)?;
                reading.place = Some(Assigned { queue, next: start, filled });
            }
        }
        Ok(reading)
    }

    /// The place that is there already, or else one that can be made so, or else a new client.
    fn take(self: Arc<Self>, key: (String, u32), start: u64) -> KafkaResult<Reading> {
        let mut clients = lock(&self.clients);
        let there = |reader: &Reader| {
            let place = reader.places.get(&key);
            place.is_some_and(|p| p.as_ref().is_some_and(|place| place.next == start))
        };
        let idle = |reader: &Reader| !matches!(reader.places.get(&key), Some(None));
        let known = clients.iter().position(there).or_else(|| clients.iter().position(idle));
        let client = match known {
            Some(client) => client,
            None => {
                let consumer = BaseConsumer::from_config_and_context(&self.config, Logged)?;
                let consumer = Arc::new(consumer);
                clients.push(Reader { consumer, places: HashMap::new() });
                clients.len() - 1
            }
        };
        let reader = &mut clients[client];
        let place = reader.places.insert(key.clone(), None).flatten();
        let consumer = Arc::clone(&reader.consumer);
        drop(clients);
        Ok(Reading { readers: self, consumer, client, key, place })
    }
}

impl Reading {
    /// Takes what has come. Whether that is all that may be returned.
    fn drain(
        &mut self,
        from: u64,
        limit: ReadLimit,
        events: &mut Vec<Event>,
        bytes: &mut usize,
    ) -> KafkaResult<bool> {
        // Of the client, not of a partition: they are logged, and it goes on by itself.
        while self.consumer.poll(Duration::ZERO).is_some() {}
        let Some(place) = &mut self.place else { return Ok(true) };
        while events.len() < limit.records.max(1) && (*bytes < limit.bytes || events.is_empty()) {
            match place.queue.poll(Duration::ZERO) {
                None => return Ok(false),
                Some(Ok(message)) => {
                    let event = event(&message);
                    place.next = event.offset + 1;
                    if event.offset >= from {
                        *bytes += event.key.len() + event.body.len();
                        events.push(event);
                    }
                }
                Some(Err(error)) => {
                    self.place = None;
                    return Err(error);
                }
            }
        }
        Ok(true)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let place = self.place.take();
        if place.is_none() {
            let mut list = TopicPartitionList::with_capacity(1);
            list.add_partition(&self.key.0, self.key.1.cast_signed());
            // It may not have come to be assigned.
            let _ = self.consumer.incremental_unassign(&list);
        }
        let mut clients = lock(&self.readers.clients);
        let places = &mut clients[self.client].places;
        match place {
            Some(place) => places.insert(self.key.clone(), Some(place)),
            None => places.remove(&self.key),
        };
    }
}

fn event(message: &BorrowedMessage<'_>) -> Event {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        let headers = headers.iter();
        let property =
            headers.map(|h| Property { name: h.key.to_owned(), value: h.value.map(text) });
        property.collect()
    });
    Event {
        partition: message.partition().cast_unsigned(),
        offset: message.offset().cast_unsigned(),
        enqueued: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key().unwrap_or_default().to_owned(),
        headers,
        body: message.payload().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::kit::{of_the_run, open};
    use super::*;
    use crate::event_log::conformance::{append_durably, read_all, record};
    use crate::event_log::partition_of;

    /// As after an error of the partition.
    #[tokio::test]
    async fn a_place_that_was_given_up_is_made_anew() {
        let log = open(&of_the_run()).await;
        append_durably(&log, &[record("device", "one"), record("device", "two")]).await;
        let partition = partition_of(b"device", 4);
        for _ in 0..3 {
            assert_eq!(read_all(&log, partition).await.len(), 2);
            let (readers, key) =
                (Arc::clone(&log.readers), (log.shared.place.name("d2c"), partition));
            let mut reading = blocking(move || readers.reading(key, 1)).await.expect("a place");
            reading.place = None;
        }
        assert_eq!(lock(&log.readers.clients).len(), 1);
    }
}
