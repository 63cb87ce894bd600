//! Where in a segment an offset or a time is to be looked for. Sparse: an entry now and then.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::format::{BlockHeader, Fields, SegmentHeader};

/// Bytes of a partition between two entries.
const SPACING: u64 = 64 * 1024;
const MAGIC: &[u8; 8] = b"dunlinE1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Of the first record of the block at `position`.
    pub offset: u64,
    pub position: u64,
    /// Newest record from here to the next entry.
    pub max_time: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartitionIndex {
    /// Above every offset in the segment.
    pub next: u64,
    pub entries: Vec<Entry>,
    /// Bytes since the last entry.
    since: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentIndex {
    pub partitions: Vec<PartitionIndex>,
}

impl SegmentIndex {
    pub(super) fn new(header: &SegmentHeader) -> Self {
        let empty = |next: &u64| PartitionIndex { next: *next, entries: Vec::new(), since: 0 };
        Self { partitions: header.next.iter().map(empty).collect() }
    }

    /// Blocks come in the order of their positions.
    pub(super) fn add(&mut self, block: &BlockHeader, position: u64) {
        let Some(partition) = self.partitions.get_mut(block.partition as usize) else { return };
        partition.next = partition.next.max(block.next());
        match partition.entries.last_mut() {
            Some(last) if partition.since < SPACING => {
                last.max_time = last.max_time.max(block.max_time);
            }
            _ => {
                let (offset, max_time) = (block.base, block.max_time);
                partition.entries.push(Entry { offset, position, max_time });
                partition.since = 0;
            }
        }
        partition.since += block.bytes();
    }

    /// `None` if there are no records.
    pub(super) fn max_time(&self) -> Option<i64> {
        self.partitions.iter().filter_map(PartitionIndex::max_time).max()
    }

    /// Keeps it beside a sealed segment, so that no start reads the segment itself.
    pub(super) fn save(&self, path: &Path, salt: u64, end: u64) -> io::Result<()> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        let mut put = |number: u64| out.extend_from_slice(&number.to_le_bytes());
        put(salt);
        put(end);
        for partition in &self.partitions {
            put(partition.next);
            put(partition.entries.len() as u64);
            for entry in &partition.entries {
                put(entry.offset);
                put(entry.position);
                put(entry.max_time.cast_unsigned());
            }
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        let mut file = File::create(path)?;
        file.write_all(&out)?;
        file.sync_data()
    }

    /// The index and the end of a sealed segment, if there is a sound one for it.
    pub(super) fn load(path: &Path, header: &SegmentHeader) -> Option<(Self, u64)> {
        let bytes = fs::read(path).ok()?;
        let (sum, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(sum) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut fields = Fields(sum);
        if fields.take(8)? != MAGIC || fields.u64()? != header.salt {
            return None;
        }
        let end = fields.u64()?;
        let mut index = Self::new(header);
        for partition in &mut index.partitions {
            partition.next = fields.u64()?;
            for _ in 0..fields.u64()? {
                partition.entries.push(Entry {
                    offset: fields.u64()?,
                    position: fields.u64()?,
                    max_time: fields.u64()?.cast_signed(),
                });
            }
        }
        Some((index, end))
    }
}

impl PartitionIndex {
    pub(super) fn max_time(&self) -> Option<i64> {
        self.entries.iter().map(|entry| entry.max_time).max()
    }

    /// Where to begin for the first record of that offset or a greater one.
    pub(super) fn by_offset(&self, offset: u64) -> Option<u64> {
        let behind = self.entries.partition_point(|entry| entry.offset <= offset);
        self.entries.get(behind.saturating_sub(1)).map(|entry| entry.position)
    }

    /// Where to begin for the first record of that time or a later one, if there is one. Times
    /// come from many sessions and need not be in order.
    pub(super) fn by_time(&self, time: i64) -> Option<u64> {
        self.entries.iter().find(|entry| entry.max_time >= time).map(|entry| entry.position)
    }
}
