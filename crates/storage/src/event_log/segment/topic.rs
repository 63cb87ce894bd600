//! HOT PATH: one topic: a queue per partition in front of one writer thread and one file.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle, Thread};

use tokio::sync::{Notify, watch};

use super::SegmentLogConfig;
use super::disk::Disk;
use super::file::Segment;
use super::pending::Pending;
use super::reader::Cursor;
use super::recover::Recovered;
use super::writer::Writer;
use crate::event_log::{Completions, Full, Range, Record, Token, partition_of};
use crate::lock;

/// What all topics of a log share.
pub(super) struct Shared {
    pub config: SegmentLogConfig,
    pub disk: Box<dyn Disk>,
    /// Unix milliseconds.
    pub clock: Box<dyn Fn() -> i64 + Send + Sync>,
    /// Bytes that were accepted and not completed.
    pub pending: AtomicUsize,
    pub writable: Notify,
}

pub(super) struct Topic {
    pub name: String,
    pub folder: PathBuf,
    pub shared: Arc<Shared>,
    pub partitions: Vec<Partition>,
    /// Oldest first.
    pub segments: Mutex<VecDeque<Arc<Segment>>>,
    /// Something was appended that the writer has not looked for yet.
    pub dirty: AtomicBool,
    /// The writer sleeps, or is about to.
    pub sleeping: AtomicBool,
    pub closing: AtomicBool,
    pub closed: watch::Sender<bool>,
    writer: OnceLock<Thread>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

pub(super) struct Partition {
    pub pending: Mutex<Pending>,
    /// Readers may see what is below. They wait for it to rise.
    pub end: watch::Sender<u64>,
    /// Where the last reader stopped: the next one mostly goes on there.
    pub cursor: Mutex<Option<Cursor>>,
}

impl Topic {
    /// Touches no file: the folder is the writer's to create.
    pub(super) fn start(
        name: &str,
        folder: PathBuf,
        recovered: Recovered,
        shared: Arc<Shared>,
    ) -> io::Result<Arc<Self>> {
        let partition = |next: &u64| Partition {
            pending: Mutex::new(Pending::new(*next)),
            end: watch::Sender::new(*next),
            cursor: Mutex::default(),
        };
        let topic = Arc::new(Self {
            name: name.to_owned(),
            folder,
            shared,
            partitions: recovered.next.iter().map(partition).collect(),
            segments: Mutex::new(recovered.segments),
            dirty: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            closed: watch::Sender::new(false),
            writer: OnceLock::new(),
            handle: Mutex::default(),
        });
        let writer = Writer::new(Arc::clone(&topic), recovered.number, recovered.next);
        let thread =
            thread::Builder::new().name(format!("log-{name}")).spawn(move || writer.run())?;
        // Nobody can have appended yet.
        let _ = topic.writer.set(thread.thread().clone());
        *lock(&topic.handle) = Some(thread);
        Ok(topic)
    }

    pub(super) fn append(
        &self,
        record: &Record<'_>,
        token: Token,
        sink: Option<&Arc<dyn Completions>>,
    ) -> Result<(), Full> {
        let shared = &*self.shared;
        if shared.pending.load(Ordering::Relaxed) >= shared.config.pending_bytes {
            return Err(Full);
        }
        let partition = partition_of(record.key, self.partitions.len() as u32);
        {
            let mut pending = lock(&self.partitions[partition as usize].pending);
            let bytes = pending.push(record, token, sink)?;
            // Under the lock: the writer, which takes it off, must not come first.
            shared.pending.fetch_add(bytes, Ordering::Relaxed);
        }
        if !self.dirty.load(Ordering::SeqCst) {
            self.dirty.store(true, Ordering::SeqCst);
        }
        self.wake();
        Ok(())
    }

    /// Together with the writer's order (announce the sleep, then look once more) no wake-up is
    /// lost; a busy writer costs its callers one load.
    fn wake(&self) {
        if self.sleeping.load(Ordering::SeqCst)
            && self.sleeping.swap(false, Ordering::SeqCst)
            && let Some(writer) = self.writer.get()
        {
            writer.unpark();
        }
    }

    /// Takes nothing more, and lets the writer end after what it has accepted.
    pub(super) fn close(&self) {
        for partition in &self.partitions {
            lock(&partition.pending).closed = true;
        }
        self.closing.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Waits for the writer to end.
    pub(super) fn join(&self) {
        if let Some(handle) = lock(&self.handle).take()
            && handle.thread().id() != thread::current().id()
        {
            let _ = handle.join();
        }
    }

    pub(super) fn range(&self, partition: u32) -> Range {
        let end = *self.partitions[partition as usize].end.borrow();
        let segments = lock(&self.segments);
        let first = segments.iter().find_map(|segment| {
            let index = &lock(&segment.index).partitions[partition as usize];
            index.entries.first().map(|entry| entry.offset)
        });
        Range { begin: first.unwrap_or(end).min(end), end }
    }
}
