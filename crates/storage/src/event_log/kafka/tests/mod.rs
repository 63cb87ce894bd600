//! The conformance suite on Kafka, and what only it can be asked.

use std::sync::Arc;
use std::time::Duration;

use super::{KafkaLog, KafkaLogConfig};
use crate::error::chain;
use crate::event_log::conformance::{self, Collector, append_durably, read_all, record, token};
use crate::event_log::{
    Completions, EventLog, Header, Position, ReadLimit, Record, TOPIC_D2C, TOPIC_EVENTS,
    partition_of,
};

mod differential;
mod faults;
pub(super) mod kit;

use kit::{config, of_the_run, open};

async fn on_kafka(test: impl AsyncFnOnce(Arc<dyn EventLog>)) {
    test(Arc::new(open(&of_the_run()).await)).await;
}

conforms!([on_kafka] {
    an_unused_topic_is_empty,
    records_come_back_byte_for_byte,
    a_key_keeps_its_partition_and_order,
    completions_come_once_and_in_order,
    concurrent_appenders_keep_their_own_order,
    seek_finds_offsets_and_times,
    read_respects_its_limits,
    a_waiting_read_wakes,
    groups_have_a_limit,
    groups_keep_their_positions,
    topics_are_apart,
    close_finishes_what_was_accepted,
});

const ALL: ReadLimit = ReadLimit { records: usize::MAX, bytes: usize::MAX };

/// Bodies of one partition, as text.
async fn bodies(log: &KafkaLog, partition: u32) -> Vec<String> {
    let events = read_all(log, partition).await;
    events.into_iter().map(|e| String::from_utf8(e.body).expect("text")).collect()
}

#[tokio::test]
async fn a_topic_is_made_once_however_many_ask() {
    let url = of_the_run();
    let opening = (0..6).map(|_| {
        let url = url.clone();
        tokio::spawn(async move { open(&url).await })
    });
    let mut logs = Vec::new();
    for opening in opening.collect::<Vec<_>>() {
        logs.push(opening.await.expect("join"));
    }
    append_durably(&logs[0], &[record("device", "x")]).await;
    let partition = partition_of(b"device", 4);
    for log in &logs {
        assert_eq!(bodies(log, partition).await, ["x"]);
    }
    let other = open(&of_the_run()).await;
    assert!(read_all(&other, partition).await.is_empty(), "under another prefix");
}

#[tokio::test]
async fn another_number_of_partitions_is_refused() {
    let url = of_the_run();
    open(&url).await;
    let config = KafkaLogConfig { partitions: 5, ..config() };
    let error = chain(&KafkaLog::open(&url, config).await.err().expect("refused"));
    assert!(error.contains("has 4 partitions, not 5"), "{error}");
    assert!(error.contains("event_partitions = 4"), "{error}");
}

#[tokio::test]
async fn a_topic_that_nobody_read_is_made_by_appending() {
    let log = open(&of_the_run()).await;
    let collector = Collector::new();
    let sink: Arc<dyn Completions> = collector.clone();
    while log.append("other", record("device", "x"), token(0, 0), Some(&sink)).is_err() {
        log.writable().await;
    }
    assert!(collector.wait(1).await[0].durable);
}

#[tokio::test]
async fn the_built_in_endpoint_is_what_devices_send() {
    let log = open(&of_the_run()).await;
    append_durably(&log, &[record("device", "x")]).await;
    let partition = partition_of(b"device", 4);
    let events = log.read(TOPIC_EVENTS, partition, 0, ALL, Duration::ZERO).await.expect("read");
    assert_eq!(events.len(), 1);
}

/// A client of somebody else's finds a device's partition where the hub puts it.
#[tokio::test]
async fn partitions_are_those_that_other_clients_choose() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let url = of_the_run();
    let log = open(&url).await;
    let place = super::url::Place::parse(&url).expect("a place");
    let mut client = place.client.clone();
    let producer: BaseProducer =
        client.set("partitioner", "murmur2_random").create().expect("a producer");
    let topic = place.name(TOPIC_D2C);
    for n in 0..200 {
        let key = format!("device-{n}");
        producer.send(BaseRecord::to(&topic).key(&key).payload("")).expect("room");
    }
    producer.flush(Duration::from_secs(30)).expect("flushed");
    let mut found = 0;
    for partition in 0..4 {
        for event in read_all(&log, partition).await {
            assert_eq!(partition_of(&event.key, 4), partition);
            found += 1;
        }
    }
    assert_eq!(found, 200);
}

#[tokio::test]
async fn readers_of_one_partition_do_not_disturb_each_other() {
    let log = Arc::new(open(&of_the_run()).await);
    let texts: Vec<_> = (0..300).map(|n| n.to_string()).collect();
    let records: Vec<_> = texts.iter().map(|text| record("device", text)).collect();
    append_durably(&*log, &records).await;
    let partition = partition_of(b"device", 4);
    let readers = (0..6_u64).map(|start| {
        let (log, texts) = (Arc::clone(&log), texts.clone());
        tokio::spawn(async move {
            let limit = ReadLimit { records: 7, bytes: usize::MAX };
            let mut next = start * 40;
            while next < 300 {
                let wait = Duration::from_secs(60);
                let events = log.read(TOPIC_D2C, partition, next, limit, wait).await;
                for event in events.expect("read") {
                    assert_eq!(event.offset, next);
                    assert_eq!(event.body, texts[next as usize].as_bytes());
                    next += 1;
                }
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.expect("join");
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_while_it_waits_takes_nothing_along() {
    let log = open(&of_the_run()).await;
    let partition = partition_of(b"device", 4);
    for n in 0..5 {
        {
            let read = log.read(TOPIC_D2C, partition, n, ALL, Duration::from_secs(600));
            let records = [record("device", "x")];
            let appended = append_durably(&log, &records);
            // Whichever comes first: in the end the record is there.
            tokio::select! {
                events = read => assert_eq!(events.expect("read").len(), 1),
                () = appended => {}
            }
        }
        let events = log.read(TOPIC_D2C, partition, n, ALL, Duration::from_secs(600)).await;
        assert_eq!(events.expect("read")[0].offset, n);
    }
}

#[tokio::test]
async fn a_name_with_a_nul_stays_one_name() {
    let log = open(&of_the_run()).await;
    let headers = [Header { name: "a\0b", value: Some("\0") }, Header { name: "c", value: None }];
    append_durably(&log, &[Record { headers: &headers, ..record("device", "") }]).await;
    let events = read_all(&log, partition_of(b"device", 4)).await;
    let names: Vec<_> = events[0].headers.iter().map(|h| h.name.as_str()).collect();
    assert_eq!(names, ["a\u{fffd}b", "c"]);
}

/// One that no broker would take does not hold up the others.
#[tokio::test]
async fn a_record_that_is_too_big_fails_in_its_turn() {
    let log = open(&of_the_run()).await;
    let collector = Collector::new();
    let sink: Arc<dyn Completions> = collector.clone();
    let huge = "x".repeat(2 << 20);
    for (n, body) in (0..).zip(["before", &huge, "after"]) {
        log.append(TOPIC_D2C, record("device", body), token(0, n), Some(&sink)).expect("room");
    }
    let told: Vec<_> =
        collector.wait(3).await.iter().map(|c| (c.token.sequence, c.durable)).collect();
    assert_eq!(told, [(0, true), (1, false), (2, true)]);
    assert_eq!(bodies(&log, partition_of(b"device", 4)).await, ["before", "after"]);
    // Alone, nothing else ends its wait.
    log.append(TOPIC_D2C, record("device", &huge), token(0, 3), Some(&sink)).expect("room");
    assert!(!collector.wait(4).await[3].durable);
    log.close().await;
}

#[tokio::test]
async fn groups_are_seen_by_every_process() {
    let url = of_the_run();
    let (one, two) = (open(&url).await, open(&url).await);
    one.group_commit(TOPIC_D2C, "a", &[(1, 11)]).await.expect("commit");
    assert_eq!(two.group_positions(TOPIC_D2C, "a").await.expect("positions"), [(1, 11)]);
    two.group_commit(TOPIC_EVENTS, "a", &[(1, 12)]).await.expect("commit");
    assert_eq!(one.group_positions(TOPIC_D2C, "a").await.expect("positions"), [(1, 12)]);
}

#[tokio::test]
async fn retention_is_the_topics() {
    use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
    use rdkafka::client::DefaultClientContext;
    let url = of_the_run();
    let config = KafkaLogConfig {
        retention_age: Duration::from_secs(3_600),
        retention_bytes: 4 << 20,
        ..config()
    };
    KafkaLog::open(&url, config).await.expect("open");
    let place = super::url::Place::parse(&url).expect("a place");
    let admin: AdminClient<DefaultClientContext> = place.client.create().expect("an admin client");
    let topic = place.name(TOPIC_D2C);
    let asked = [ResourceSpecifier::Topic(&topic)];
    let found = admin.describe_configs(&asked, &AdminOptions::new()).await.expect("asked");
    let settings = found[0].as_ref().expect("described").entry_map();
    for (name, want) in [
        ("retention.ms", "3600000"),
        ("retention.bytes", "1048576"),
        ("segment.ms", "900000"),
        ("cleanup.policy", "delete"),
    ] {
        assert_eq!(settings[name].value.as_deref(), Some(want), "{name}");
    }
}

/// Nobody waits for what is under way: it fails, and is told.
#[tokio::test]
async fn dropped_without_a_word_it_completes_what_it_accepted() {
    let log = open(&of_the_run()).await;
    let collector = Collector::new();
    let sink: Arc<dyn Completions> = collector.clone();
    for n in 0..100 {
        log.append(TOPIC_D2C, record("device", "x"), token(0, n), Some(&sink)).expect("room");
    }
    drop(log);
    let told = collector.wait(0).await;
    assert!(told.iter().map(|c| c.token.sequence).eq(0..100));
}
