//! HOT PATH: a topic's writer thread: one write and one sync for all that waits, then the answers.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use super::disk::sync_folder;
use super::file::Segment;
use super::format::SegmentHeader;
use super::index::SegmentIndex;
use super::pending::Batch;
use super::recover::{index_path, segment_path};
use super::retention::UPKEEP;
use super::topic::Topic;
use crate::event_log::{Completion, Completions};
use crate::lock;

/// Bytes that are written as zeros ahead of the records. A sync after overwriting them need not
/// wait for the file system's journal, as one after growing a file must: it costs half or less.
const AHEAD: u64 = 1 << 20;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

pub(super) struct Writer {
    pub(super) topic: Arc<Topic>,
    /// The segment that is written to: the last one of the topic's list.
    pub(super) active: Option<Arc<Segment>>,
    number: u64,
    /// How far the active segment's file has been written, zeros included.
    written: u64,
    /// By partition: taken from the queue, or empty.
    batches: Vec<Batch>,
    /// By partition: above every offset that was ever taken, failed ones too.
    next: Vec<u64>,
    failing: bool,
    /// No new segment could be started at the last try.
    growing_on: bool,
    answers: Vec<Answer>,
    /// The answer of each sink of the batch at hand.
    places: Vec<usize>,
    pub(super) upkeep_due: i64,
}

/// What one sink will be told.
#[derive(Default)]
struct Answer {
    sink: Option<Arc<dyn Completions>>,
    batch: Vec<Completion>,
}

impl Writer {
    pub(super) fn new(topic: Arc<Topic>, number: u64, next: Vec<u64>) -> Self {
        let batches = next.iter().map(|_| Batch::default()).collect();
        Self {
            topic,
            active: None,
            number,
            written: 0,
            batches,
            next,
            failing: false,
            growing_on: false,
            answers: Vec::new(),
            places: Vec::new(),
            upkeep_due: 0,
        }
    }

    pub(super) fn run(mut self) {
        // Whatever happens here, nobody waits for the end of a thread that is gone.
        let ended = Ended(Arc::clone(&self.topic));
        let topic = Arc::clone(&self.topic);
        loop {
            self.upkeep_if_due();
            let closing = topic.closing.load(Ordering::SeqCst);
            if topic.dirty.swap(false, Ordering::SeqCst) || closing {
                self.commit();
            } else {
                topic.sleeping.store(true, Ordering::SeqCst);
                if !topic.dirty.load(Ordering::SeqCst) && !topic.closing.load(Ordering::SeqCst) {
                    thread::park_timeout(UPKEEP);
                }
                topic.sleeping.store(false, Ordering::SeqCst);
            }
            if closing {
                break;
            }
        }
        self.seal();
        drop(ended);
    }

    /// Makes everything that waits durable, or says that it is not.
    fn commit(&mut self) {
        if !self.take() {
            return;
        }
        let outcome = self.write();
        if let Err(error) = &outcome {
            self.give_up_segment(error);
        } else if self.failing {
            self.failing = false;
            tracing::info!(topic = self.topic.name, "the event log can be written again");
        }
        self.answer(outcome.is_ok());
        if outcome.is_err() {
            // These follow records that failed: their callers have not heard of it yet.
            if self.take() {
                self.answer(false);
            }
        } else if self
            .active
            .as_ref()
            .is_some_and(|active| active.durable() >= self.topic.shared.config.segment_bytes)
        {
            self.roll();
            // What a full segment pushed out goes before the next batch.
            self.upkeep_due = 0;
        }
    }

    fn take(&mut self) -> bool {
        let mut any = false;
        for (n, batch) in self.batches.iter_mut().enumerate() {
            let mut pending = lock(&self.topic.partitions[n].pending);
            std::mem::swap(&mut pending.batch, batch);
            self.next[n] = pending.next;
            any |= batch.records > 0;
        }
        any
    }

    fn write(&mut self) -> io::Result<()> {
        let segment = match &self.active {
            Some(active) => Arc::clone(active),
            None => self.start_segment()?,
        };
        let shared = Arc::clone(&self.topic.shared);
        let disk = &*shared.disk;
        let before = segment.durable();
        let mut blocks = Vec::new();
        let mut at = before;
        for (n, batch) in (0u32..).zip(&mut self.batches).filter(|(_, batch)| batch.records > 0) {
            let block = batch.seal(n, segment.header.salt, before);
            disk.write(&segment.file, &batch.buffer, at)?;
            blocks.push((block, at));
            at += block.bytes();
        }
        if at > self.written {
            self.written = at;
            self.write_ahead(&segment, at);
        }
        disk.sync(&segment.file)?;
        let mut index = lock(&segment.index);
        for (block, at) in &blocks {
            index.add(block, *at);
        }
        drop(index);
        segment.set_durable(at);
        for (block, _) in &blocks {
            self.topic.partitions[block.partition as usize].end.send_replace(block.next());
        }
        Ok(())
    }

    /// No further than the segment will go. If there is no space for it, records need none either.
    fn write_ahead(&mut self, segment: &Segment, from: u64) {
        let shared = &*self.topic.shared;
        let to = (from + AHEAD).min(shared.config.segment_bytes);
        while self.written < to {
            let part = (to - self.written).min(ZEROS.len() as u64);
            if shared.disk.write(&segment.file, &ZEROS[..part as usize], self.written).is_err() {
                break;
            }
            self.written += part;
        }
    }

    /// Tells each sink once, in the order of appending.
    fn answer(&mut self, durable: bool) {
        let mut bytes = 0;
        let mut used = 0;
        for batch in &mut self.batches {
            bytes += batch.bytes();
            self.places.clear();
            for sink in batch.sinks.drain(..) {
                let is_it = |answer: &Answer| {
                    answer.sink.as_ref().is_some_and(|known| Arc::ptr_eq(known, &sink))
                };
                let known = self.answers[..used].iter().position(is_it);
                self.places.push(known.unwrap_or(used));
                if known.is_none() {
                    if self.answers.len() == used {
                        self.answers.push(Answer::default());
                    }
                    self.answers[used].sink = Some(sink);
                    used += 1;
                }
            }
            for waiting in batch.waiting.drain(..) {
                let answer = &mut self.answers[self.places[waiting.sink]];
                answer.batch.push(Completion { token: waiting.token, durable });
            }
            batch.reset();
        }
        for answer in &mut self.answers[..used] {
            if let Some(sink) = answer.sink.take() {
                // A caller's fault must not end the thread that every caller depends on.
                let told = catch_unwind(AssertUnwindSafe(|| sink.complete(&answer.batch)));
                if told.is_err() {
                    tracing::error!(topic = self.topic.name, "a receiver of completions panicked");
                }
            }
            answer.batch.clear();
        }
        self.topic.shared.pending.fetch_sub(bytes, Ordering::Relaxed);
        self.topic.shared.writable.notify_waiters();
    }

    /// After a failed write or sync nothing is known about the file beyond what was durable: it
    /// ends there, and the next batch goes into a new one. Until one can be created, every batch
    /// tries, and fails.
    fn give_up_segment(&mut self, error: &io::Error) {
        if !self.failing {
            self.failing = true;
            let (topic, error) = (&self.topic.name, error as &dyn std::error::Error);
            tracing::error!(topic, error, "cannot write the event log, nothing is acknowledged");
        }
        self.seal();
    }

    /// Goes on in a new segment; if none can be created (no space, no descriptors) in the old one,
    /// which is nothing worse than long.
    pub(super) fn roll(&mut self) {
        let full = self.active.take();
        match self.start_segment() {
            Ok(_) => {
                full.iter().for_each(|full| self.cut_and_index(full));
                self.growing_on = false;
            }
            Err(error) => {
                self.active = full;
                if !std::mem::replace(&mut self.growing_on, true) {
                    let (topic, error) = (&self.topic.name, &error as &dyn std::error::Error);
                    tracing::warn!(
                        topic,
                        error,
                        "cannot start a new segment, the old one grows on"
                    );
                }
            }
        }
    }

    fn seal(&mut self) {
        if let Some(active) = self.active.take() {
            self.cut_and_index(&active);
        }
    }

    fn cut_and_index(&self, segment: &Segment) {
        // Readers go by the durable end in any case, and so does the next start by the index.
        if let Err(error) = self.topic.shared.disk.truncate(&segment.file, segment.durable()) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(file = %segment.path.display(), error, "cannot cut a segment to its end");
        }
        let index = lock(&segment.index);
        let path = index_path(&segment.path);
        if let Err(error) = index.save(&path, segment.header.salt, segment.durable()) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(file = %path.display(), error, "cannot keep a segment's index");
        }
    }

    pub(super) fn start_segment(&mut self) -> io::Result<Arc<Segment>> {
        let topic = &self.topic;
        let disk = &*topic.shared.disk;
        let created = (topic.shared.clock)();
        let header = SegmentHeader::new(self.number, created, self.next.clone());
        if !topic.folder.exists() {
            fs::create_dir_all(&topic.folder)?;
            topic.folder.parent().map_or(Ok(()), sync_folder)?;
        }
        let path = segment_path(&topic.folder, self.number);
        // Its number is not used again, whatever becomes of it.
        self.number += 1;
        let bytes = header.encode();
        let file = disk.create(&path)?;
        let written = disk
            .write(&file, &bytes, 0)
            .and_then(|()| disk.sync(&file))
            .and_then(|()| sync_folder(&topic.folder));
        if let Err(error) = written {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        let index = SegmentIndex::new(&header);
        let segment = Arc::new(Segment::new(header, path, file, index, bytes.len() as u64));
        lock(&topic.segments).push_back(Arc::clone(&segment));
        self.written = bytes.len() as u64;
        self.active = Some(Arc::clone(&segment));
        Ok(segment)
    }
}

struct Ended(Arc<Topic>);

impl Drop for Ended {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!(topic = self.0.name, "the event log's writer ended, restart the hub");
        }
        self.0.closed.send_replace(true);
    }
}
