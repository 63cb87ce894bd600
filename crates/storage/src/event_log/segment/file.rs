//! One segment file, and walking its blocks.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::format::{BLOCK_HEADER, BLOCK_MAGIC, BlockHeader, SegmentHeader};
use super::index::SegmentIndex;
use crate::lock;

/// Bytes read at a time.
const WINDOW: u64 = 64 * 1024;

/// A segment as readers share it. The open file outlives its name, and so do they.
pub(super) struct Segment {
    pub header: SegmentHeader,
    pub path: PathBuf,
    pub file: File,
    pub index: Mutex<SegmentIndex>,
    /// Readers look no further.
    durable: AtomicU64,
    /// Damaged places that were logged.
    reported: Mutex<HashSet<u64>>,
}

impl Segment {
    pub(super) fn new(
        header: SegmentHeader,
        path: PathBuf,
        file: File,
        index: SegmentIndex,
        durable: u64,
    ) -> Self {
        Self {
            header,
            path,
            file,
            index: Mutex::new(index),
            durable: AtomicU64::new(durable),
            reported: Mutex::default(),
        }
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(super) fn set_durable(&self, end: u64) {
        self.durable.store(end, Ordering::Release);
    }

    pub(super) fn data_start(&self) -> u64 {
        SegmentHeader::bytes(self.header.next.len() as u32)
    }

    pub(super) fn report_damage(&self, at: u64) {
        if lock(&self.reported).insert(at) {
            tracing::error!(
                file = %self.path.display(),
                at,
                "the event log is damaged, its readers skip records"
            );
        }
    }
}

/// Reads a file piece by piece, in rising order.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// `None` if it would reach beyond `end`.
    fn get(&mut self, file: &File, at: u64, length: u64, end: u64) -> io::Result<Option<&[u8]>> {
        let bytes = self.at_least(file, at, length, end)?;
        Ok(bytes.and_then(|bytes| bytes.get(..length as usize)))
    }

    /// What is at hand from there on, `length` bytes or more.
    fn at_least(
        &mut self,
        file: &File,
        at: u64,
        length: u64,
        end: u64,
    ) -> io::Result<Option<&[u8]>> {
        if at.checked_add(length).is_none_or(|to| to > end) {
            return Ok(None);
        }
        if at < self.start || at + length > self.start + self.bytes.len() as u64 {
            let wanted = length.max(WINDOW).min(end - at) as usize;
            self.bytes.resize(wanted, 0);
            self.start = at;
            file.read_exact_at(&mut self.bytes, at).inspect_err(|_| self.bytes.clear())?;
        }
        Ok(self.bytes.get((at - self.start) as usize..))
    }
}

/// The blocks of a file from a position to an end, one after the other.
pub(super) struct Blocks<'a> {
    file: &'a File,
    header: &'a SegmentHeader,
    pub position: u64,
    end: u64,
    window: Window,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(file: &'a File, header: &'a SegmentHeader, position: u64, end: u64) -> Self {
        Self { file, header, position, end, window: Window::default() }
    }

    /// The block at the position, if a whole one is there. Does not move.
    pub(super) fn peek(&mut self) -> io::Result<Option<BlockHeader>> {
        let bytes = self.window.get(self.file, self.position, BLOCK_HEADER as u64, self.end)?;
        let block = bytes.and_then(|bytes| self.header.block(bytes));
        Ok(block.filter(|block| block.bytes() <= self.end - self.position))
    }

    /// The body of the block that `peek` found.
    pub(super) fn body(&mut self, block: &BlockHeader) -> io::Result<&[u8]> {
        let at = self.position + BLOCK_HEADER as u64;
        let body = self.window.get(self.file, at, u64::from(block.body), self.end)?;
        Ok(body.unwrap_or_default())
    }

    /// Goes to the first block behind the position that begins nowhere a block should: the way
    /// on after damage. `None`, and the end, if there is none.
    pub(super) fn resume(&mut self) -> io::Result<Option<BlockHeader>> {
        while let Some(next) = self.next_magic()? {
            self.position = next;
            if let Some(block) = self.peek()? {
                return Ok(Some(block));
            }
        }
        self.position = self.end;
        Ok(None)
    }

    fn next_magic(&mut self) -> io::Result<Option<u64>> {
        let mut from = self.position + 1;
        let width = BLOCK_MAGIC.len() as u64;
        while let Some(bytes) = self.window.at_least(self.file, from, width, self.end)? {
            let found = bytes.windows(BLOCK_MAGIC.len()).position(|bytes| bytes == BLOCK_MAGIC);
            if let Some(place) = found {
                return Ok(Some(from + place as u64));
            }
            from += bytes.len() as u64 - width + 1;
        }
        Ok(None)
    }
}

impl SegmentHeader {
    fn block(&self, bytes: &[u8]) -> Option<BlockHeader> {
        BlockHeader::decode(bytes, self.salt)
            .filter(|block| (block.partition as usize) < self.next.len())
    }
}
