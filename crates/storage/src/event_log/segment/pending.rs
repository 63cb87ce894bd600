//! HOT PATH: what a partition has accepted and the writer has not taken yet.

use std::sync::Arc;

use super::format::{self, BLOCK_HEADER, BlockHeader};
use crate::event_log::{Completions, Full, Record, Token};

/// Room beyond which a buffer that a burst blew up is given back.
const KEPT_CAPACITY: usize = 1 << 20;

/// Appended to under the partition's lock.
pub(super) struct Pending {
    pub batch: Batch,
    /// The offset of the next record.
    pub next: u64,
    pub closed: bool,
}

/// Records as they will be on disk, with who waits for them. Two of them take turns: one is
/// filled while the other is written. Nothing is allocated once they have grown.
pub(super) struct Batch {
    /// A block: room for its header, then the records.
    pub buffer: Vec<u8>,
    pub records: u32,
    base: u64,
    max_time: i64,
    pub waiting: Vec<Waiting>,
    /// The few sinks that `waiting` points into.
    pub sinks: Vec<Arc<dyn Completions>>,
}

pub(super) struct Waiting {
    pub token: Token,
    pub sink: usize,
}

impl Pending {
    pub(super) fn new(next: u64) -> Self {
        Self { batch: Batch::default(), next, closed: false }
    }

    /// Returns the bytes that were added.
    pub(super) fn push(
        &mut self,
        record: &Record<'_>,
        token: Token,
        sink: Option<&Arc<dyn Completions>>,
    ) -> Result<usize, Full> {
        if self.closed {
            return Err(Full);
        }
        let batch = &mut self.batch;
        if batch.records == 0 {
            batch.base = self.next;
            batch.max_time = i64::MIN;
        }
        let before = batch.buffer.len();
        format::encode_record(&mut batch.buffer, self.next, record);
        batch.max_time = batch.max_time.max(record.enqueued);
        batch.records += 1;
        self.next += 1;
        if let Some(sink) = sink {
            let sink = batch.sink(sink);
            batch.waiting.push(Waiting { token, sink });
        }
        Ok(batch.buffer.len() - before)
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            buffer: vec![0; BLOCK_HEADER],
            records: 0,
            base: 0,
            max_time: i64::MIN,
            waiting: Vec::new(),
            sinks: Vec::new(),
        }
    }
}

impl Batch {
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

    /// Bytes of records, as `push` counted them.
    pub(super) fn bytes(&self) -> usize {
        self.buffer.len() - BLOCK_HEADER
    }

    /// Fills in the block's header.
    pub(super) fn seal(&mut self, partition: u32, salt: u64, durable_before: u64) -> BlockHeader {
        let header = BlockHeader {
            partition,
            base: self.base,
            records: self.records,
            body: self.bytes() as u32,
            durable_before,
            max_time: self.max_time,
        };
        self.buffer[..BLOCK_HEADER].copy_from_slice(&header.encode(salt));
        header
    }

    /// For the next records, once `waiting` and `sinks` have been drained.
    pub(super) fn reset(&mut self) {
        let used = self.buffer.len();
        self.buffer.truncate(BLOCK_HEADER);
        if self.buffer.capacity() > KEPT_CAPACITY && used < self.buffer.capacity() / 4 {
            self.buffer.shrink_to(KEPT_CAPACITY);
            self.waiting.shrink_to(KEPT_CAPACITY / 64);
        }
        self.records = 0;
    }
}
