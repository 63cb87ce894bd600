//! The conformance suite on segment files, and what only they can be asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dunlin_model::event::Event;
use tempfile::{TempDir, tempdir};

use super::{SegmentLog, SegmentLogConfig, SegmentLogError};
use crate::event_log::conformance::{self, append_durably, read_all, record};
use crate::event_log::{EventLog, Position, Record, TOPIC_D2C, TOPIC_EVENTS};
use crate::sqlite::DataFolder;

mod crash;
mod faults;
mod retention;

/// A place for a log, its database and copies of it.
struct Place {
    temp: TempDir,
    folder: DataFolder,
}

impl Place {
    fn new() -> Self {
        let temp = tempdir().expect("temp");
        let folder = DataFolder::open(temp.path().join("data")).expect("open");
        Self { temp, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// The clock is the real one, the records' times are not: none is too old.
    fn try_open(
        &self,
        name: &str,
        mut config: SegmentLogConfig,
    ) -> Result<SegmentLog, SegmentLogError> {
        config.retention_age = Duration::MAX;
        SegmentLog::open(&self.path(name), self.folder.sqlite(), config)
    }

    fn open(&self, name: &str, config: SegmentLogConfig) -> SegmentLog {
        self.try_open(name, config).expect("open")
    }

    /// What a crash leaves behind: the files as they are.
    fn copy(&self, from: &str, to: &str) {
        copy(&self.path(from), &self.path(to));
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folder");
    for entry in fs::read_dir(from).expect("folder") {
        let entry = entry.expect("entry");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copy");
        }
    }
}

/// The files of the topic with that ending, in order.
fn files(log: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(log.join(TOPIC_D2C)).expect("folder");
    let paths = entries.map(|entry| entry.expect("entry").path());
    let mut paths: Vec<_> = paths.filter(|p| p.extension().is_some_and(|e| e == ending)).collect();
    paths.sort();
    paths
}

fn small() -> SegmentLogConfig {
    SegmentLogConfig { partitions: 2, segment_bytes: 4_096, ..SegmentLogConfig::default() }
}

async fn everything(log: &SegmentLog) -> Vec<Event> {
    let mut events = Vec::new();
    for partition in 0..log.partitions() {
        events.extend(read_all(log, partition).await);
    }
    events
}

/// Appends each in a batch of its own.
async fn append_each(log: &SegmentLog, count: usize) {
    for n in 0..count {
        let (key, body) = (format!("device-{}", n % 11), format!("body {n:080}"));
        append_durably(log, &[Record { enqueued: n as i64, ..record(&key, &body) }]).await;
    }
}

async fn on_segments(test: impl AsyncFnOnce(Arc<dyn EventLog>)) {
    let place = Place::new();
    test(Arc::new(place.open("log", SegmentLogConfig::default()))).await;
}

conforms!([on_segments] {
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

/// The same with segments so small that most parts meet several.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_segments_conform_too() {
    let place = Place::new();
    let config = SegmentLogConfig { segment_bytes: 500, ..SegmentLogConfig::default() };
    let open = |name| Arc::new(place.open(name, config.clone()));
    conformance::records_come_back_byte_for_byte(open("a")).await;
    conformance::seek_finds_offsets_and_times(open("b")).await;
    conformance::read_respects_its_limits(open("c")).await;
    conformance::concurrent_appenders_keep_their_own_order(open("d")).await;
}

#[tokio::test]
async fn it_works_on_any_runtime() {
    let place = Place::new();
    let log = Arc::new(place.open("log", SegmentLogConfig::default()));
    conformance::a_waiting_read_wakes(log).await;
}

#[tokio::test]
async fn what_was_completed_is_there_after_reopening() {
    let place = Place::new();
    let log = place.open("log", small());
    append_each(&log, 200).await;
    log.group_commit(TOPIC_EVENTS, "group", &[(1, 5)]).await.expect("commit");
    let written = everything(&log).await;
    assert_eq!(written.len(), 200);
    assert!(files(&place.path("log"), "segment").len() > 3);
    // Once as after a crash, once closed, once without the indexes.
    place.copy("log", "crashed");
    log.close().await;
    drop(log);
    place.copy("log", "unindexed");
    for index in files(&place.path("unindexed"), "index") {
        fs::remove_file(index).expect("remove");
    }
    for name in ["log", "crashed", "unindexed"] {
        let log = place.open(name, small());
        assert_eq!(everything(&log).await, written, "{name}");
        for (time, want) in [(0, 0), (150, 30)] {
            let partition = log.seek(TOPIC_D2C, 0, Position::Time(time)).await.expect("seek");
            let first = written.iter().find(|e| e.partition == 0 && e.enqueued >= time);
            assert_eq!(Some(partition), first.map(|e| e.offset), "{name} {want}");
        }
        let positions = log.group_positions(TOPIC_D2C, "group").await.expect("positions");
        assert_eq!(positions, [(1, 5)]);
        // It goes on where it was.
        append_each(&log, 10).await;
        let events = everything(&log).await;
        assert_eq!(events.len(), 210);
        for partition in 0..2 {
            let offsets = events.iter().filter(|e| e.partition == partition).map(|e| e.offset);
            assert!(offsets.enumerate().all(|(n, offset)| n as u64 == offset), "dense");
        }
    }
}

#[tokio::test]
async fn another_number_of_partitions_is_refused() {
    let place = Place::new();
    drop(place.open("log", small()));
    let error = place.try_open("log", SegmentLogConfig { partitions: 3, ..small() }).err();
    let text = error.expect("refused").to_string();
    assert!(text.contains("2 partitions, not 3"), "{text}");
    let none = place.try_open("new", SegmentLogConfig { partitions: 0, ..small() });
    assert!(matches!(none, Err(SegmentLogError::NoPartitions)));
    drop(place.open("log", small()));
}

#[tokio::test]
async fn readers_of_events_read_what_devices_send() {
    let place = Place::new();
    let log = place.open("log", small());
    append_each(&log, 20).await;
    for partition in 0..2 {
        let range = log.range(TOPIC_EVENTS, partition).await.expect("range");
        assert_eq!(range, log.range(TOPIC_D2C, partition).await.expect("range"));
        assert!(range.end > 0);
    }
}
