//! Segment files: whatever a file holds, the log opens, and what is read of it stays the same
//! when it is opened again. The first byte says whether the rest is the file as it is, or blocks
//! whose checksums are made to hold, for no fuzzer finds those.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use dunlin_model::event::Event;
use dunlin_storage::EventLog;
use dunlin_storage::event_log::{Position, ReadLimit, SegmentLog, SegmentLogConfig};
use dunlin_storage::sqlite::{DataFolder, Sqlite};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

const PARTITIONS: u32 = 2;
const SALT: u64 = 7;
const BLOCK_HEADER: usize = 44;

struct Place {
    folder: TempDir,
    sqlite: Sqlite,
    _data: DataFolder,
    runtime: Runtime,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    // Memory, where there is such a folder: an fsync a run would be all this measures.
    let shm = Path::new("/dev/shm");
    let folder = if shm.is_dir() { TempDir::new_in(shm) } else { TempDir::new() };
    let folder = folder.expect("a folder");
    let data = DataFolder::open(folder.path().join("data")).expect("a data folder");
    let sqlite = data.sqlite();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    Place { folder, sqlite, _data: data, runtime }
});

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let file = if kind % 2 == 0 { rest.to_vec() } else { sound(rest) };
    let place = &*PLACE;
    let folder = TempDir::new_in(place.folder.path()).expect("a folder");
    let topic = folder.path().join("d2c");
    std::fs::create_dir(&topic).expect("made");
    std::fs::write(topic.join(format!("{:020}.segment", 0)), &file).expect("written");
    let Some(first) = everything(place, folder.path()) else { return };
    let again = everything(place, folder.path()).expect("what was opened once opens again");
    assert_eq!(first, again);
});

/// Opens the log and reads all it can; `None`: it says that it cannot be opened.
fn everything(place: &Place, folder: &Path) -> Option<Vec<Event>> {
    let config = SegmentLogConfig {
        partitions: PARTITIONS,
        retention_age: Duration::MAX,
        ..SegmentLogConfig::default()
    };
    let log = SegmentLog::open(folder, place.sqlite.clone(), config).ok()?;
    let mut events = Vec::new();
    for partition in 0..PARTITIONS {
        let limit = ReadLimit { records: 10, bytes: 1_000 };
        let (mut from, mut last) = (0, None);
        loop {
            let read = log.read("d2c", partition, from, limit, Duration::ZERO);
            let read = place.runtime.block_on(read).expect("it reads");
            let Some(end) = read.last() else { break };
            from = end.offset + 1;
            for event in &read {
                assert!(last.is_none_or(|last| last < event.offset), "offsets rise");
                last = Some(event.offset);
            }
            events.extend(read);
        }
        for position in [Position::Earliest, Position::Latest, Position::Time(1)] {
            let _ = place.runtime.block_on(log.seek("d2c", partition, position));
        }
    }
    Some(events)
}

/// A sound file header, and `bytes` as blocks and records with checksums that hold.
fn sound(bytes: &[u8]) -> Vec<u8> {
    let mut out = b"dunlinEL\x01\0\0\0".to_vec();
    out.extend(crc32fast::hash(&out).to_le_bytes());
    out.extend(PARTITIONS.to_le_bytes());
    for number in [0, SALT, 1, 0, 0] {
        out.extend(u64::to_le_bytes(number));
    }
    out.extend(crc32fast::hash(&out).to_le_bytes());
    let mut rest = bytes;
    while let Some((header, after)) = rest.split_first_chunk::<BLOCK_HEADER>() {
        let mut header = *header;
        header[..4].copy_from_slice(b"\xd0\x71\xbe\x0c");
        // Small numbers: offsets near 2^64 are nothing the writer writes.
        header[5..8].fill(0);
        header[12..16].fill(0);
        let length = usize::from(u16::from_le_bytes([header[20], header[21]])).min(after.len());
        let (body, after) = after.split_at(length);
        header[20..24].copy_from_slice(&(length as u32).to_le_bytes());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&SALT.to_le_bytes());
        hasher.update(&header[..40]);
        header[40..].copy_from_slice(&hasher.finalize().to_le_bytes());
        out.extend(header);
        let mut body = body.to_vec();
        checked_records(&mut body);
        out.extend(body);
        rest = after;
    }
    out.extend(rest);
    out
}

fn checked_records(body: &mut [u8]) {
    let mut at = 0;
    while body.len() >= at + 8 {
        let length = usize::from(body[at]) | usize::from(body[at + 1]) << 8;
        let length = length.min(body.len() - at - 8);
        body[at..at + 4].copy_from_slice(&(length as u32).to_le_bytes());
        let crc = crc32fast::hash(&body[at + 8..at + 8 + length]);
        body[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        at += 8 + length;
    }
}
