//! The data folder: who has it open, and which version wrote it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::{Sqlite, migrations};

const LOCK: &str = "lock";
const DATABASE: &str = "hub.sqlite";

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("the data folder {} is in use by process {pid}", path.display())]
    InUse { path: PathBuf, pid: String },
    #[error(
        "the data folder {} was written by a newer version of dunlin (schema {found}, this one \
         knows {known}): run that version, or start on another or a restored folder",
        path.display()
    )]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("cannot use the data folder {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot open the database of the data folder {}", path.display())]
    Database { path: PathBuf, source: rusqlite::Error },
}

/// A folder of this process alone, with its database at the current schema.
pub struct DataFolder {
    path: PathBuf,
    sqlite: Sqlite,
}

impl DataFolder {
    /// Creates what is missing, migrates what is old. Blocks: it is for the start of a process.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FolderError> {
        let path = path.as_ref();
        let io = |source| FolderError::Io { path: path.to_owned(), source };
        // Owner only: key files and ciphertext live here.
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        let lock = take(path)?;
        let database = path.join(DATABASE);
        let writer = open_writer(path, &database)?;
        let sqlite = Sqlite::start(&database, writer, lock).map_err(io)?;
        Ok(Self { path: path.to_owned(), sqlite })
    }

    /// Whether a hub was ever there.
    pub fn exists(path: &Path) -> bool {
        path.join(DATABASE).exists()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn sqlite(&self) -> Sqlite {
        self.sqlite.clone()
    }
}

/// How long a folder that is in use is waited for: a process that ends takes a moment.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(10);

/// Taken until the file is closed, which the end of the process does in any case.
fn take(path: &Path) -> Result<File, FolderError> {
    let io = |source| FolderError::Io { path: path.to_owned(), source };
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path.join(LOCK))
        .map_err(io)?;
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(source)) => return Err(io(source)),
            // Its holder may be ending, or be starting a child that has the file open until it runs.
            Err(TryLockError::WouldBlock) if since.elapsed() < PATIENCE => thread::sleep(LOOK),
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(io)?;
                // Its holder may be between locking and writing.
                let pid = if pid.is_empty() { "(unknown)" } else { pid.trim() };
                return Err(FolderError::InUse { path: path.to_owned(), pid: pid.to_owned() });
            }
        }
    }
    file.set_len(0).map_err(io)?;
    writeln!(file, "{}", std::process::id()).map_err(io)?;
    Ok(file)
}

fn open_writer(path: &Path, database: &Path) -> Result<Connection, FolderError> {
    let failed = |source| FolderError::Database { path: path.to_owned(), source };
    let mut connection = Connection::open(database).map_err(failed)?;
    let found = migrations::version(&connection).map_err(failed)?;
    let known = migrations::known();
    if found > known {
        return Err(FolderError::Newer { path: path.to_owned(), found, known });
    }
    // FULL: in WAL mode, NORMAL would lose the last commits with the power.
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;",
        )
        .map_err(failed)?;
    migrations::migrate(&mut connection).map_err(failed)?;
    Ok(connection)
}
