//! `EventLog` in segment files, for a hub of one process. Groups are kept in SQLite.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use crate::sqlite::Sqlite;

mod disk;
mod file;
mod format;
mod groups;
mod index;
mod pending;
mod port;
mod reader;
mod recover;
mod retention;
#[cfg(test)]
mod tests;
mod topic;
mod writer;

use disk::{Disk, RealDisk, sync_folder};
use recover::Recovered;
use topic::{Shared, Topic};

/// Keeps the partition count of a log.
const SHAPE: &str = "shape";
/// A block's length is 32 bits wide.
const PENDING_LIMIT: usize = 1 << 30;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentLogConfig {
    /// Of each topic. Fixed when the log is created: keys would change their partition.
    pub partitions: u32,
    /// A segment file that has grown to this is followed by another.
    pub segment_bytes: u64,
    /// Records go when they are older (`Duration::MAX`: they never are),
    pub retention_age: Duration,
    /// or when their topic is bigger.
    pub retention_bytes: u64,
    /// What may be accepted and not durable yet, before `append` refuses more. 1 GiB at most.
    pub pending_bytes: usize,
}

impl Default for SegmentLogConfig {
    fn default() -> Self {
        Self {
            partitions: 4,
            segment_bytes: 64 << 20,
            retention_age: Duration::from_secs(24 * 60 * 60),
            retention_bytes: 10 << 30,
            pending_bytes: 64 << 20,
        }
    }
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SegmentLogError {
    #[error("cannot open the event log at {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the event log at {} has {found} partitions, not {asked}: their number is fixed when a \
         log is created, so ask for {found} or start on another folder",
        path.display()
    )]
    Partitions { path: PathBuf, found: u32, asked: u32 },
    #[error("{} does not say how many partitions the event log has", path.display())]
    Shape { path: PathBuf },
    #[error("an event log needs 1 partition at the least")]
    NoPartitions,
    #[error(
        "{} was written by a newer version of dunlin (format {version}): run that version, or \
         start on another folder",
        path.display()
    )]
    Newer { path: PathBuf, version: u32 },
}

/// The embedded event log: see [`crate::EventLog`].
pub struct SegmentLog {
    folder: PathBuf,
    sqlite: Sqlite,
    shared: Arc<Shared>,
    topics: RwLock<Vec<Arc<Topic>>>,
    closed: AtomicBool,
}

impl SegmentLog {
    /// Opens or creates the log in a folder that only this process uses: the lock of the data
    /// folder that `sqlite` belongs to guards it. Blocks: it is for the start of a process.
    pub fn open(
        folder: &Path,
        sqlite: Sqlite,
        config: SegmentLogConfig,
    ) -> Result<Self, SegmentLogError> {
        let now = || {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
        };
        Self::open_with(folder, sqlite, config, Box::new(RealDisk), Box::new(now))
    }

    fn open_with(
        folder: &Path,
        sqlite: Sqlite,
        mut config: SegmentLogConfig,
        disk: Box<dyn Disk>,
        clock: Box<dyn Fn() -> i64 + Send + Sync>,
    ) -> Result<Self, SegmentLogError> {
        config.pending_bytes = config.pending_bytes.min(PENDING_LIMIT);
        check_shape(folder, config.partitions)?;
        let shared =
            Shared { config, disk, clock, pending: AtomicUsize::new(0), writable: Notify::new() };
        let log = Self {
            folder: folder.to_owned(),
            sqlite,
            shared: Arc::new(shared),
            topics: RwLock::default(),
            closed: AtomicBool::new(false),
        };
        let failed = |source| SegmentLogError::Io { path: folder.to_owned(), source };
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() {
                let recovered = recover::recover(&entry.path(), log.shared.config.partitions)?;
                let name = entry.file_name();
                log.start(&name.to_string_lossy(), recovered).map_err(failed)?;
            }
        }
        Ok(log)
    }

    fn start(&self, name: &str, recovered: Recovered) -> io::Result<Arc<Topic>> {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = topics.iter().find(|topic| topic.name == name) {
            return Ok(Arc::clone(topic));
        }
        let folder = self.folder.join(name);
        let topic = Topic::start(name, folder, recovered, Arc::clone(&self.shared))?;
        if self.closed.load(Ordering::SeqCst) {
            topic.close();
        }
        topics.push(Arc::clone(&topic));
        Ok(topic)
    }

    /// A topic that has a folder was opened with the log: any other begins empty.
    fn start_empty(&self, name: &str) -> io::Result<Arc<Topic>> {
        let next = vec![0; self.shared.config.partitions as usize];
        self.start(name, Recovered { next, ..Recovered::default() })
    }

    fn begin_close(&self) -> Vec<Arc<Topic>> {
        // Under the lock of the list: a topic that starts later sees it.
        let topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::SeqCst);
        topics.iter().for_each(|topic| topic.close());
        topics.clone()
    }
}

impl Drop for SegmentLog {
    /// The writers end by themselves, after what they have accepted; whoever opens the folder
    /// next must not find them at work.
    fn drop(&mut self) {
        for topic in self.begin_close() {
            topic.join();
        }
    }
}

fn check_shape(folder: &Path, asked: u32) -> Result<(), SegmentLogError> {
    if asked == 0 {
        return Err(SegmentLogError::NoPartitions);
    }
    let path = folder.join(SHAPE);
    let failed = |source| SegmentLogError::Io { path: folder.to_owned(), source };
    match fs::read_to_string(&path) {
        Ok(shape) => {
            let found = shape.strip_prefix("partitions ").and_then(|n| n.trim().parse().ok());
            let Some(found) = found else { return Err(SegmentLogError::Shape { path }) };
            if found != asked {
                return Err(SegmentLogError::Partitions { path: folder.to_owned(), found, asked });
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_shape(folder, &path, asked).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Whole or not at all: it is renamed into place.
fn create_shape(folder: &Path, path: &Path, partitions: u32) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let draft = path.with_extension("new");
    fs::write(&draft, format!("partitions {partitions}\n"))?;
    fs::File::open(&draft)?.sync_all()?;
    fs::rename(&draft, path)?;
    sync_folder(folder)?;
    folder.parent().filter(|parent| parent.is_dir()).map_or(Ok(()), sync_folder)
}
