//! Torn tails and damaged files: nothing durable is lost, nothing wrong is ever read.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tokio::runtime::Builder;

use super::super::format::{BLOCK_HEADER, SegmentHeader};
use super::*;

/// A log of one segment as a crash leaves it, with the end of each batch and what it held.
struct Crashed {
    place: Place,
    segment: PathBuf,
    bytes: Vec<u8>,
    /// By batch: where it ends in the file, and every event up to there.
    durable: Vec<(usize, Vec<Event>)>,
}

/// Batches of so many records each.
async fn crashed(batches: &[usize]) -> Crashed {
    let place = Place::new();
    let config = SegmentLogConfig { partitions: 2, ..SegmentLogConfig::default() };
    let log = place.open("log", config);
    let mut durable = Vec::new();
    let mut count = 0;
    for records in batches {
        let texts: Vec<_> = (count..count + records)
            .map(|n| (format!("device-{}", n % 11), format!("{n}").repeat(n % 40)))
            .collect();
        count += records;
        let records: Vec<_> = texts.iter().map(|(key, body)| record(key, body)).collect();
        append_durably(&log, &records).await;
        durable.push((durable_end(&log), everything(&log).await));
    }
    place.copy("log", "template");
    let end = durable_end(&log);
    drop(log);
    let segment = files(&place.path("template"), "segment").remove(0);
    // Without the zeros ahead: they would hide what is cut off.
    let mut bytes = fs::read(&segment).expect("read");
    bytes.truncate(end);
    Crashed { place, segment, bytes, durable }
}

fn durable_end(log: &SegmentLog) -> usize {
    let topics = log.topics.read().expect("topics");
    let segments = topics[0].segments.lock().expect("segments");
    segments.back().expect("active").durable() as usize
}

impl Crashed {
    /// Opens the log with these bytes in its only file.
    async fn open_with(&self, name: &str, bytes: &[u8]) -> (SegmentLog, Vec<Event>) {
        self.place.copy("template", name);
        let file = self.segment.file_name().map(Path::new).expect("name");
        let path = self.place.path(name).join(TOPIC_D2C).join(file);
        fs::write(path, bytes).expect("write");
        let config = SegmentLogConfig { partitions: 2, ..SegmentLogConfig::default() };
        let log = self.place.open(name, config);
        let events = everything(&log).await;
        (log, events)
    }

    fn all(&self) -> &[Event] {
        self.durable.last().map_or(&[], |(_, events)| events)
    }

    /// Everything that was durable before that place is there; everything there was written.
    fn check(&self, events: &[Event], intact: usize) {
        let kept = self.durable.iter().rev().find(|(end, _)| *end <= intact);
        for event in kept.map_or(&[][..], |(_, events)| events) {
            assert!(events.contains(event), "lost {event:?}, intact up to {intact}");
        }
        for event in events {
            assert!(self.all().contains(event), "made up {event:?}");
        }
    }
}

/// Appends after what a crash left must neither be lost nor reuse an offset.
async fn goes_on(place: &Place, name: &str, log: SegmentLog, before: usize) {
    append_each(&log, 4).await;
    drop(log);
    let config = SegmentLogConfig { partitions: 2, ..SegmentLogConfig::default() };
    let events = everything(&place.open(name, config)).await;
    assert_eq!(events.len(), before + 4);
    for partition in 0..2 {
        let offsets = events.iter().filter(|e| e.partition == partition).map(|e| e.offset);
        assert!(offsets.is_sorted_by(|a, b| a < b));
    }
}

#[tokio::test]
async fn a_file_cut_anywhere_keeps_what_lies_before() {
    let crashed = crashed(&[1, 3, 2]).await;
    for length in 0..=crashed.bytes.len() {
        let (log, events) = crashed.open_with("cut", &crashed.bytes[..length]).await;
        crashed.check(&events, length);
        if length % 50 == 0 {
            goes_on(&crashed.place, "cut", log, events.len()).await;
        } else {
            drop(log);
        }
        fs::remove_dir_all(crashed.place.path("cut")).expect("remove");
    }
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_never_read() {
    let crashed = crashed(&[1, 3, 2]).await;
    let header = SegmentHeader::bytes(2) as usize;
    for place in 0..crashed.bytes.len() {
        let mut bytes = crashed.bytes.clone();
        bytes[place] ^= 1 << (place % 8);
        let (log, events) = crashed.open_with("flip", &bytes).await;
        // With its header, a file is unreadable as a whole.
        crashed.check(&events, if place < header { 0 } else { place });
        if place % 60 == 0 {
            goes_on(&crashed.place, "flip", log, events.len()).await;
        } else {
            drop(log);
        }
        fs::remove_dir_all(crashed.place.path("flip")).expect("remove");
    }
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let crashed = crashed(&[1]).await;
    let mut bytes = crashed.bytes.clone();
    bytes[8..12].copy_from_slice(&7u32.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&crashed.segment, bytes).expect("write");
    let config = SegmentLogConfig { partitions: 2, ..SegmentLogConfig::default() };
    let error = crashed.place.try_open("template", config).err().expect("refused");
    assert!(matches!(error, SegmentLogError::Newer { version: 7, .. }));
}

#[tokio::test]
async fn damage_in_the_middle_costs_only_what_it_hit() {
    let crashed = crashed(&[4, 4, 4, 4]).await;
    let (first_end, second_end) = (crashed.durable[0].0, crashed.durable[1].0);
    let before = &crashed.durable[0].1;
    let second = &crashed.durable[1].1;
    for hit in [first_end, first_end + BLOCK_HEADER + 2, second_end - 1] {
        let mut bytes = crashed.bytes.clone();
        bytes[hit] ^= 0xff;
        let (log, events) = crashed.open_with("damaged", &bytes).await;
        crashed.check(&events, hit);
        // Of what came after the damaged batch, everything is there.
        for event in crashed.all().iter().filter(|event| !second.contains(event)) {
            assert!(events.contains(event), "hit at {hit}: lost {event:?}");
        }
        assert!(before.iter().all(|event| events.contains(event)));
        assert!(events.len() < crashed.all().len());
        goes_on(&crashed.place, "damaged", log, events.len()).await;
        fs::remove_dir_all(crashed.place.path("damaged")).expect("remove");
    }
}

#[tokio::test]
async fn damage_in_a_running_log_is_skipped() {
    let place = Place::new();
    let log = place.open("log", small());
    append_each(&log, 100).await;
    let written = everything(&log).await;
    let sealed = files(&place.path("log"), "segment").remove(0);
    let mut bytes = fs::read(&sealed).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // In place, so that the open handle sees it.
    let file = fs::File::options().write(true).open(&sealed).expect("open");
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).expect("write");
    let events = everything(&log).await;
    assert_eq!(events.len(), 99);
    assert!(events.iter().all(|event| written.contains(event)));
}

/// A device that knows the format cannot make a crash turn its bytes into records of others.
#[tokio::test]
async fn a_body_does_not_pass_for_a_block() {
    let victim = crashed(&[3]).await;
    let start = SegmentHeader::bytes(2) as usize;
    // Whole blocks with sound checksums, of another file: another salt.
    let forged = victim.bytes[start..].to_vec();
    let place = Place::new();
    let config = SegmentLogConfig { partitions: 2, ..SegmentLogConfig::default() };
    let log = place.open("log", config.clone());
    append_durably(&log, &[record("device", "sound")]).await;
    append_durably(&log, &[Record { body: &forged, ..record("device", "") }]).await;
    place.copy("log", "torn");
    let end = durable_end(&log);
    drop(log);
    let path = files(&place.path("torn"), "segment").remove(0);
    let mut bytes = fs::read(&path).expect("read");
    bytes.truncate(end);
    // The header of the block with the forgery in it is torn.
    let torn = bytes.len() - forged.len() - 60;
    bytes[torn] ^= 1;
    fs::write(&path, bytes).expect("write");
    let events = everything(&place.open("torn", config)).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].body, b"sound");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn torn_and_garbled_tails_leave_the_durable_prefix(
        batches in prop::collection::vec(1usize..12, 1..5),
        cut in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 0..6),
        garbage in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let runtime = Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let crashed = crashed(&batches).await;
            let header = SegmentHeader::bytes(2) as usize;
            // What is not synced yet begins behind the last batch but one.
            let durable = batches.len().checked_sub(2).map_or(header, |n| crashed.durable[n].0);
            let mut bytes = crashed.bytes.clone();
            let tail = bytes.len() - durable;
            for (place, mask) in &flips {
                bytes[durable + place.index(tail)] ^= mask;
            }
            bytes.truncate(durable + cut.index(tail + 1));
            bytes.extend_from_slice(&garbage);
            let (log, events) = crashed.open_with("torn", &bytes).await;
            crashed.check(&events, durable);
            goes_on(&crashed.place, "torn", log, events.len()).await;
        });
    }
}
