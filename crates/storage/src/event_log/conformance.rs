//! What every `EventLog` must do: one function per part of its specification.
//! Each wants a log of its own, empty, that removes no record for its age: their times are made up.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dunlin_model::event::{Event, Property};
use dunlin_model::limits::{CONSUMER_GROUPS, DEFAULT_GROUP};
use tokio::sync::watch;

use super::{
    Completion, Completions, EventLog, Full, Header, Position, Range, ReadLimit, Record, TOPIC_D2C,
    Token, partition_of,
};
use crate::{StoreError, lock};

type Log = Arc<dyn EventLog>;

const ALL: ReadLimit = ReadLimit { records: usize::MAX, bytes: usize::MAX };
const LONG: Duration = Duration::from_secs(600);

/// Keeps what it is told, and lets a test wait for it.
pub struct Collector {
    told: Mutex<Vec<Completion>>,
    count: watch::Sender<usize>,
}

impl Collector {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { told: Mutex::default(), count: watch::Sender::new(0) })
    }

    /// Everything so far, once there are `count` or more.
    pub async fn wait(&self, count: usize) -> Vec<Completion> {
        let _ = self.count.subscribe().wait_for(|told| *told >= count).await;
        lock(&self.told).clone()
    }
}

impl Completions for Collector {
    fn complete(&self, batch: &[Completion]) {
        assert!(!batch.is_empty());
        let mut told = lock(&self.told);
        told.extend_from_slice(batch);
        self.count.send_replace(told.len());
    }
}

pub fn token(connection: u64, sequence: u64) -> Token {
    Token { connection, sequence }
}

pub fn record<'a>(key: &'a str, body: &'a str) -> Record<'a> {
    Record { key: key.as_bytes(), headers: &[], body: body.as_bytes(), enqueued: 1_000 }
}

/// Appends, and waits until all of it is durable.
pub async fn append_durably(log: &dyn EventLog, records: &[Record<'_>]) {
    let collector = Collector::new();
    let sink: Arc<dyn Completions> = collector.clone();
    for (n, record) in (0..).zip(records) {
        log.append(TOPIC_D2C, *record, token(0, n), Some(&sink)).expect("room");
    }
    let told = collector.wait(records.len()).await;
    assert!(told.iter().all(|completion| completion.durable));
}

/// What is kept of a partition.
pub async fn read_all(log: &dyn EventLog, partition: u32) -> Vec<Event> {
    log.read(TOPIC_D2C, partition, 0, ALL, Duration::ZERO).await.expect("read")
}

fn partition(log: &dyn EventLog, key: &str) -> u32 {
    partition_of(key.as_bytes(), log.partitions())
}

fn bodies(events: &[Event]) -> Vec<&str> {
    events.iter().map(|e| std::str::from_utf8(&e.body).expect("text")).collect()
}

pub async fn an_unused_topic_is_empty(log: Log) {
    for partition in 0..log.partitions() {
        let range = log.range(TOPIC_D2C, partition).await.expect("range");
        assert_eq!(range, Range { begin: 0, end: 0 });
        for position in
            [Position::Earliest, Position::Latest, Position::Offset(7), Position::Time(7)]
        {
            assert_eq!(log.seek(TOPIC_D2C, partition, position).await.expect("seek"), 0);
        }
        assert!(read_all(&*log, partition).await.is_empty());
    }
    let beyond = log.partitions();
    let range = log.range(TOPIC_D2C, beyond).await;
    assert!(matches!(range, Err(StoreError::NotFound)));
    let seek = log.seek(TOPIC_D2C, beyond, Position::Latest).await;
    assert!(matches!(seek, Err(StoreError::NotFound)));
    let read = log.read(TOPIC_D2C, beyond, 0, ALL, Duration::ZERO).await;
    assert!(matches!(read, Err(StoreError::NotFound)));
}

pub async fn records_come_back_byte_for_byte(log: Log) {
    let big = vec![0xa5; 256 * 1024];
    let headers = [
        Header { name: "$.message-id", value: Some("id") },
        Header { name: "no value", value: None },
        Header { name: "empty", value: Some("") },
        Header { name: "", value: Some("ünïcode\0") },
        Header { name: "no value", value: Some("twice") },
    ];
    let bodies: [&[u8]; 4] = [b"", b"\0\xff not utf-8 \xfe", b"text", &big];
    let record = |body, enqueued| Record { key: b"device", headers: &headers, body, enqueued };
    let mut records: Vec<_> = (0..).zip(bodies).map(|(n, b)| record(b, n + 1)).collect();
    records.push(Record { headers: &[], ..record(b"bare", i64::MAX) });
    append_durably(&*log, &records).await;

    let partition = partition(&*log, "device");
    let properties = |headers: &[Header<'_>]| {
        let property = |h: &Header<'_>| Property {
            name: h.name.to_owned(),
            value: h.value.map(str::to_owned),
        };
        headers.iter().map(property).collect::<Vec<_>>()
    };
    let want: Vec<_> = (0..)
        .zip(&records)
        .map(|(offset, record)| Event {
            partition,
            offset,
            enqueued: record.enqueued,
            key: record.key.to_vec(),
            headers: properties(record.headers),
            body: record.body.to_vec(),
        })
        .collect();
    assert!(read_all(&*log, partition).await == want);
}

pub async fn a_key_keeps_its_partition_and_order(log: Log) {
    let keys: Vec<_> = (0..20).map(|n| format!("device-{n}")).collect();
    let counts: Vec<_> = (0..10).map(|n| n.to_string()).collect();
    let each = counts.iter().flat_map(|n| keys.iter().map(move |key| record(key, n)));
    append_durably(&*log, &each.collect::<Vec<_>>()).await;
    let mut found = 0;
    for partition in 0..log.partitions() {
        let events = read_all(&*log, partition).await;
        found += events.len();
        let offsets: Vec<_> = events.iter().map(|event| event.offset).collect();
        assert!(offsets.is_sorted_by(|a, b| a < b));
        for key in keys.iter().filter(|key| self::partition(&*log, key) == partition) {
            let mine: Vec<_> = events.iter().filter(|e| e.key == key.as_bytes()).cloned().collect();
            assert_eq!(bodies(&mine), counts);
        }
        let range = log.range(TOPIC_D2C, partition).await.expect("range");
        assert_eq!(range.end, offsets.last().map_or(0, |last| last + 1));
    }
    assert_eq!(found, 200);
}

/// Of several sinks, each is told of its own, once, and of a partition's in order.
pub async fn completions_come_once_and_in_order(log: Log) {
    let collectors: Vec<_> = (0..3).map(|_| Collector::new()).collect();
    let sinks: Vec<Arc<dyn Completions>> = collectors.iter().map(|c| c.clone() as _).collect();
    for n in 0..300 {
        let key = format!("device-{}", n % 7);
        let sink = &sinks[(n % 3) as usize];
        log.append(TOPIC_D2C, record(&key, ""), token(n % 7, n), Some(sink)).expect("room");
    }
    // Nobody asks for this one; it is written all the same.
    log.append(TOPIC_D2C, record("unasked", "unasked"), token(0, 0), None).expect("room");
    log.close().await;
    for (of_sink, collector) in (0..).zip(&collectors) {
        let told = collector.wait(0).await;
        assert_eq!(told.len(), 100);
        assert!(told.iter().all(|c| c.durable && c.token.sequence % 3 == of_sink));
        for device in 0..7 {
            let of_device = told.iter().filter(|c| c.token.connection == device);
            assert!(of_device.map(|c| c.token.sequence).is_sorted_by(|a, b| a < b));
        }
    }
    let events = read_all(&*log, partition(&*log, "unasked")).await;
    assert!(events.iter().any(|event| event.body == b"unasked"));
}

pub async fn concurrent_appenders_keep_their_own_order(log: Log) {
    const APPENDERS: u64 = 8;
    const EACH: u64 = 250;
    let collector = Collector::new();
    std::thread::scope(|scope| {
        for appender in 0..APPENDERS {
            let (log, sink) = (&log, Arc::clone(&collector) as Arc<dyn Completions>);
            scope.spawn(move || {
                // Two threads to a key.
                let key = format!("device-{}", appender / 2);
                for n in 0..EACH {
                    let body = format!("{appender} {n}");
                    let token = token(appender, n);
                    log.append(TOPIC_D2C, record(&key, &body), token, Some(&sink)).expect("room");
                }
            });
        }
    });
    log.close().await;
    let told = collector.wait(0).await;
    let mut events = Vec::new();
    for partition in 0..log.partitions() {
        events.extend(read_all(&*log, partition).await);
    }
    for appender in 0..APPENDERS {
        let mine = told.iter().filter(|c| c.token.connection == appender && c.durable);
        assert!(mine.map(|c| c.token.sequence).eq(0..EACH));
        let prefix = format!("{appender} ");
        let read = bodies(&events).into_iter().filter_map(|b| b.strip_prefix(&prefix));
        assert!(read.eq((0..EACH).map(|n| n.to_string())));
    }
}

pub async fn seek_finds_offsets_and_times(log: Log) {
    // Out of order: sessions stamp their times by themselves.
    let times = [10, 30, 20, 40, 40, 35];
    let records = times.map(|enqueued| Record { enqueued, ..record("device", "") });
    append_durably(&*log, &records).await;
    let partition = partition(&*log, "device");
    let seek = async |position| log.seek(TOPIC_D2C, partition, position).await.expect("seek");
    assert_eq!(seek(Position::Earliest).await, 0);
    assert_eq!(seek(Position::Latest).await, 6);
    for (offset, want) in [(0, 0), (3, 3), (6, 6), (99, 6)] {
        assert_eq!(seek(Position::Offset(offset)).await, want);
    }
    for (time, want) in [(i64::MIN, 0), (10, 0), (11, 1), (30, 1), (31, 3), (40, 3), (41, 6)] {
        assert_eq!(seek(Position::Time(time)).await, want, "{time}");
    }
}

pub async fn read_respects_its_limits(log: Log) {
    let texts: Vec<_> = (0..20).map(|n| format!("{n:0100}")).collect();
    let records: Vec<_> = texts.iter().map(|text| record("device", text)).collect();
    append_durably(&*log, &records).await;
    let partition = partition(&*log, "device");
    let read = async |from, records, bytes| {
        let limit = ReadLimit { records, bytes };
        let events = log.read(TOPIC_D2C, partition, from, limit, Duration::ZERO).await;
        events.expect("read").iter().map(|event| event.offset).collect::<Vec<_>>()
    };
    assert_eq!(read(0, 3, usize::MAX).await, [0, 1, 2]);
    assert_eq!(read(17, 9, usize::MAX).await, [17, 18, 19]);
    assert_eq!(read(5, 9, 1).await, [5], "one at the least");
    let some = read(5, usize::MAX, 1_000).await.len();
    assert!((2..=12).contains(&some), "about a thousand bytes, not {some} records");
    assert!(read(20, 9, 9).await.is_empty());
    let mut next = 0;
    while next < 20 {
        let part = read(next, 3, usize::MAX).await;
        assert_eq!(part.first(), Some(&next));
        next = part.last().map_or(20, |last| last + 1);
    }
}

pub async fn a_waiting_read_wakes(log: Log) {
    let partition = partition(&*log, "device");
    let nothing = log.read(TOPIC_D2C, partition, 0, ALL, Duration::from_millis(1)).await;
    assert!(nothing.expect("read").is_empty());
    for n in 0..3 {
        let waiting = {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.read(TOPIC_D2C, partition, n, ALL, LONG).await })
        };
        append_durably(&*log, &[record("device", "wake")]).await;
        let events = waiting.await.expect("join").expect("read");
        assert_eq!(events.iter().map(|event| event.offset).collect::<Vec<_>>(), [n]);
    }
}

pub async fn groups_have_a_limit(log: Log) {
    let commit = async |group: &str| log.group_commit(TOPIC_D2C, group, &[(0, 1)]).await;
    for number in 1..CONSUMER_GROUPS {
        commit(&format!("g{number}")).await.expect("commit");
    }
    assert!(matches!(commit("one more").await, Err(StoreError::LimitReached)));
    assert!(log.group_positions(TOPIC_D2C, "one more").await.expect("positions").is_empty());
    for old in ["g1", DEFAULT_GROUP, "g2", DEFAULT_GROUP] {
        commit(old).await.expect("it is there, or always was");
    }
    assert!(matches!(commit("one more").await, Err(StoreError::LimitReached)));
}

pub async fn groups_keep_their_positions(log: Log) {
    let positions = async |group| log.group_positions(TOPIC_D2C, group).await.expect("positions");
    assert!(positions("unknown").await.is_empty());
    log.group_commit(TOPIC_D2C, "a", &[(2, 20), (0, 1)]).await.expect("commit");
    log.group_commit(TOPIC_D2C, "b", &[(0, 7)]).await.expect("commit");
    assert_eq!(positions("a").await, [(0, 1), (2, 20)]);
    log.group_commit(TOPIC_D2C, "a", &[(0, 2)]).await.expect("commit");
    log.group_commit(TOPIC_D2C, "a", &[(2, 3)]).await.expect("a group may go back");
    assert_eq!(positions("a").await, [(0, 2), (2, 3)]);
    assert_eq!(positions("b").await, [(0, 7)]);
    assert!(log.group_positions("other", "a").await.expect("positions").is_empty());
}

pub async fn topics_are_apart(log: Log) {
    append_durably(&*log, &[record("device", "d2c")]).await;
    let partition = partition(&*log, "device");
    let range = log.range("other", partition).await.expect("range");
    assert_eq!(range, Range { begin: 0, end: 0 });
    let collector = Collector::new();
    let sink: Arc<dyn Completions> = collector.clone();
    log.append("other", record("device", "other"), token(0, 0), Some(&sink)).expect("room");
    collector.wait(1).await;
    let events = log.read("other", partition, 0, ALL, LONG).await.expect("read");
    assert_eq!(bodies(&events), ["other"]);
    assert_eq!(bodies(&read_all(&*log, partition).await), ["d2c"]);
}

pub async fn close_finishes_what_was_accepted(log: Log) {
    let collector = Collector::new();
    let sink: Arc<dyn Completions> = collector.clone();
    for n in 0..100 {
        log.append(TOPIC_D2C, record("device", "x"), token(0, n), Some(&sink)).expect("room");
    }
    log.close().await;
    let told = collector.wait(0).await;
    assert!(told.iter().map(|c| c.token.sequence).eq(0..100));
    assert!(told.iter().all(|c| c.durable));
    assert_eq!(log.pending_bytes(), 0);
    for topic in [TOPIC_D2C, "never used"] {
        let refused = log.append(topic, record("device", "late"), token(0, 0), Some(&sink));
        assert_eq!(refused, Err(Full));
    }
    log.close().await;
    assert_eq!(read_all(&*log, partition(&*log, "device")).await.len(), 100);
    assert_eq!(collector.wait(0).await.len(), 100);
}
