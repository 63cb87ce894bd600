//! Old records go, and readers are not disturbed by it. The clock is the test's.

use std::sync::atomic::{AtomicI64, Ordering};

use super::super::disk::RealDisk;
use super::*;
use crate::event_log::{Range, ReadLimit};

const HOUR: i64 = 3_600_000;

fn open_at(place: &Place, config: SegmentLogConfig, clock: &Arc<AtomicI64>) -> SegmentLog {
    let clock = Arc::clone(clock);
    let (path, sqlite) = (place.path("log"), place.folder.sqlite());
    let now = Box::new(move || clock.load(Ordering::SeqCst));
    SegmentLog::open_with(&path, sqlite, config, Box::new(RealDisk), now).expect("open")
}

async fn append_at(log: &SegmentLog, time: i64) {
    let body = "x".repeat(200);
    append_durably(log, &[Record { enqueued: time, ..record("device", &body) }]).await;
}

async fn range(log: &SegmentLog) -> Range {
    let partition = crate::event_log::partition_of(b"device", log.partitions());
    log.range(TOPIC_D2C, partition).await.expect("range")
}

#[tokio::test]
async fn big_topics_lose_their_oldest_segments() {
    let place = Place::new();
    let config = SegmentLogConfig { segment_bytes: 1_000, retention_bytes: 5_000, ..small() };
    let log = open_at(&place, config.clone(), &Arc::default());
    for _ in 0..100 {
        append_at(&log, 0).await;
    }
    // The last append may have filled a segment: its upkeep is done before the writer ends.
    log.close().await;
    let Range { begin, end } = range(&log).await;
    assert_eq!(end, 100);
    let kept = end - begin;
    assert!((10..25).contains(&kept), "{kept} records of some 280 bytes in 5,000 to 6,000");
    let events = everything(&log).await;
    assert_eq!(events.first().map(|event| event.offset), Some(begin));
    assert_eq!(events.len() as u64, kept);
    assert_eq!(
        log.seek(TOPIC_D2C, events[0].partition, Position::Offset(3)).await.ok(),
        Some(begin)
    );
    assert!(files(&place.path("log"), "segment").len() < 10);
    assert!(files(&place.path("log"), "index").len() < 10);
    drop(log);
    let log = open_at(&place, config, &Arc::default());
    let reopened = range(&log).await;
    assert!(reopened.begin >= begin && reopened.end == end, "{reopened:?}");
}

#[tokio::test]
async fn old_records_go_and_their_offsets_do_not_return() {
    let place = Place::new();
    let clock = Arc::new(AtomicI64::new(0));
    let log = open_at(&place, small(), &clock);
    for hour in 0..20 {
        clock.store(hour * HOUR, Ordering::SeqCst);
        append_at(&log, hour * HOUR).await;
    }
    assert_eq!(range(&log).await, Range { begin: 0, end: 20 });
    clock.store(30 * HOUR, Ordering::SeqCst);
    append_at(&log, 30 * HOUR).await;
    let Range { begin, end } = range(&log).await;
    assert_eq!(end, 21);
    // A segment goes as a whole, three hours after its oldest record could have.
    assert!((3..=6).contains(&begin), "{begin}");
    drop(log);

    clock.store(100 * HOUR, Ordering::SeqCst);
    let log = open_at(&place, small(), &clock);
    append_at(&log, 100 * HOUR).await;
    assert_eq!(range(&log).await, Range { begin: 21, end: 22 });
    drop(log);
    // Everything goes, and only a file's header remembers how far offsets were.
    clock.store(200 * HOUR, Ordering::SeqCst);
    let log = open_at(&place, small(), &clock);
    log.close().await;
    drop(log);
    let log = open_at(&place, small(), &clock);
    assert_eq!(range(&log).await, Range { begin: 22, end: 22 });
    append_at(&log, 200 * HOUR).await;
    assert_eq!(range(&log).await, Range { begin: 22, end: 23 });
}

#[tokio::test]
async fn a_reader_overtaken_by_retention_starts_at_the_oldest() {
    let place = Place::new();
    let config = SegmentLogConfig { segment_bytes: 1_000, retention_bytes: 3_000, ..small() };
    let log = open_at(&place, config, &Arc::default());
    append_at(&log, 0).await;
    let partition = everything(&log).await[0].partition;
    let topic = log.topics.read().expect("topics")[0].clone();
    let held = topic.segments.lock().expect("segments")[0].clone();
    for _ in 0..50 {
        append_at(&log, 0).await;
    }
    log.close().await;
    assert!(!held.path.exists(), "its name is gone");
    let limit = ReadLimit { records: 1, bytes: 1 };
    let events = log.read(TOPIC_D2C, partition, 1, limit, Duration::ZERO).await.expect("read");
    assert_eq!(events[0].offset, range(&log).await.begin);
    // Whoever has it open reads on.
    let mut header = [0; 8];
    std::os::unix::fs::FileExt::read_exact_at(&held.file, &mut header, 0).expect("read");
}

/// An age without end is no age: a record's time is whatever a file says, down to the first there
/// is.
#[tokio::test]
async fn no_record_is_too_old_where_they_stay_for_ever() {
    let place = Place::new();
    let clock = Arc::new(AtomicI64::new(100 * HOUR));
    let config = SegmentLogConfig { retention_age: Duration::MAX, ..small() };
    let log = open_at(&place, config.clone(), &clock);
    append_at(&log, i64::MIN).await;
    drop(log);
    for opened in 1..=2 {
        let log = open_at(&place, config.clone(), &clock);
        // Behind this the writer has looked for old segments.
        append_at(&log, 0).await;
        assert_eq!(range(&log).await, Range { begin: 0, end: 1 + opened });
    }
}
