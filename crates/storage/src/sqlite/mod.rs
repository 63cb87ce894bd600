//! The embedded database: one writer that groups commits, and readers beside it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Semaphore, oneshot};

use crate::StoreError;
use crate::lock;

mod folder;
mod migrations;
#[cfg(test)]
mod tests;
mod writer;

pub use folder::{DataFolder, FolderError};
use writer::{Job, Operation};

/// Connections that read at the same time; further readers wait their turn.
const READERS: usize = 4;

/// A handle on the database of a data folder. The last one dropped ends the writer, after what
/// waits is done, and only then lets go of the folder.
#[derive(Clone)]
pub struct Sqlite(Arc<Shared>);

struct Shared {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    writer: Option<JoinHandle<()>>,
    path: PathBuf,
    idle_readers: Mutex<Vec<Connection>>,
    reader_slots: Arc<Semaphore>,
    /// Last field: the folder is given up after every connection is closed.
    _lock: File,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.jobs.take();
        // An operation may hold the last handle: the writer cannot wait for itself.
        if let Some(writer) = self.writer.take()
            && writer.thread().id() != thread::current().id()
        {
            let _ = writer.join();
        }
    }
}

impl Sqlite {
    /// `writer` is open and migrated; `lock` keeps other processes out while a handle lives.
    fn start(path: &Path, writer: Connection, lock: File) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || writer::run(writer, queue))?;
        Ok(Self(Arc::new(Shared {
            jobs: Some(jobs),
            writer: Some(thread),
            path: path.to_owned(),
            idle_readers: Mutex::new(Vec::new()),
            reader_slots: Arc::new(Semaphore::new(READERS)),
            _lock: lock,
        })))
    }

    /// Runs `operation` in a transaction and returns what it returned once that is durable. What
    /// it wrote is undone if it fails. It shares the transaction with others that wait, unseen by
    /// them but through what they read. It runs even if the caller stops waiting.
    pub async fn write<T, F>(&self, operation: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Operation::new(operation, reply));
        let sent = self.0.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        match answer.await {
            Ok(outcome) if sent => outcome,
            _ => Err(unavailable("the operation or the writer panicked")),
        }
    }

    /// Runs `query` on one snapshot that holds every write that returned before.
    pub async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let slots = Arc::clone(&self.0.reader_slots);
        let slot = slots.acquire_owned().await.map_err(unavailable)?;
        let shared = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let idle = lock(&shared.idle_readers).pop();
            let connection = match idle {
                Some(connection) => connection,
                None => open_reader(&shared.path)?,
            };
            // One transaction, so that several statements see one state.
            let snapshot = connection.unchecked_transaction()?;
            let outcome = query(&snapshot);
            snapshot.finish()?;
            lock(&shared.idle_readers).push(connection);
            outcome
        })
        .await
        .map_err(unavailable)?
    }
}

fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
}

fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::unavailable("sqlite", source)
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        unavailable(error)
    }
}
