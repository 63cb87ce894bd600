//! The candidates: each makes a group of records durable at once.

use std::path::Path;

use dunlin_storage::sqlite::{DataFolder, Sqlite};
use tokio::runtime::{Builder, Runtime};

use crate::BODY;

pub trait Engine: Send {
    /// Returns when one record of each of these writers is durable.
    fn commit(&mut self, writers: &[u64]);
}

type Open = fn(&Path) -> Box<dyn Engine>;

pub const ALL: &[(&str, Open)] = &[
    ("writeahead", |path| Box::new(WriteAhead::open(path))),
    ("wal-db", |path| Box::new(wal_db::Wal::open_segmented(path, 64 << 20).unwrap())),
    ("okaywal", |path| Box::new(okaywal::WriteAheadLog::recover(path, okaywal::LogVoid).unwrap())),
    ("raft-engine", |path| Box::new(RaftEngine::open(path))),
    ("fjall", |path| Box::new(Fjall::open(path))),
    ("redb", |path| Box::new(Redb::open(path))),
    ("SQLite", |path| Box::new(SqliteTable::open(path))),
];

struct WriteAhead {
    _wal: writeahead::WriteAhead<writeahead::SimpleFile>,
    writer: writeahead::WriteHandle,
    runtime: Runtime,
}

impl WriteAhead {
    fn open(path: &Path) -> Self {
        let options = writeahead::WriteAheadOptions {
            log_dir: path.to_owned(),
            max_file_size: 64 << 20,
            ..Default::default()
        };
        let mut wal = writeahead::WriteAhead::with_options(options);
        wal.start().unwrap();
        let writer = wal.writer().unwrap();
        Self { _wal: wal, writer, runtime: Builder::new_current_thread().build().unwrap() }
    }
}

impl Engine for WriteAhead {
    fn commit(&mut self, writers: &[u64]) {
        let records = writers.iter().map(|_| BODY.to_vec()).collect();
        self.runtime.block_on(self.writer.write_batch(records)).unwrap();
    }
}

impl<S: wal_db::WalStore + Send + Sync> Engine for wal_db::Wal<S> {
    fn commit(&mut self, writers: &[u64]) {
        for _ in writers {
            let _ = self.append(&BODY).unwrap();
        }
        self.sync().unwrap();
    }
}

impl Engine for okaywal::WriteAheadLog {
    fn commit(&mut self, writers: &[u64]) {
        let mut entry = self.begin_entry().unwrap();
        for _ in writers {
            entry.write_chunk(&BODY).unwrap();
        }
        entry.commit().unwrap();
    }
}

struct RaftEngine {
    engine: raft_engine::Engine,
    next: [u64; 4],
}

/// An entry whose index is in its type, for want of Raft's own.
struct Entries;

impl raft_engine::MessageExt for Entries {
    type Entry = protobuf::well_known_types::Any;

    fn index(entry: &Self::Entry) -> u64 {
        entry.type_url.parse().unwrap()
    }
}

impl RaftEngine {
    fn open(path: &Path) -> Self {
        let dir = path.to_str().unwrap().to_owned();
        let config = raft_engine::Config { dir, ..Default::default() };
        Self { engine: raft_engine::Engine::open(config).unwrap(), next: [1; 4] }
    }
}

impl Engine for RaftEngine {
    fn commit(&mut self, writers: &[u64]) {
        let mut batch = raft_engine::LogBatch::default();
        for partition in 0..4 {
            let next = &mut self.next[partition as usize];
            let mine = writers.iter().filter(|writer| *writer % 4 == partition);
            let entries: Vec<_> = mine
                .map(|_| {
                    let mut entry = protobuf::well_known_types::Any::new();
                    entry.type_url = next.to_string();
                    entry.value = BODY.to_vec();
                    *next += 1;
                    entry
                })
                .collect();
            batch.add_entries::<Entries>(partition + 1, &entries).unwrap();
        }
        self.engine.write(&mut batch, true).unwrap();
    }
}

/// Partition, then offset: what reading a partition from an offset needs.
fn key(writer: u64, offset: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&((writer % 4) as u32).to_be_bytes());
    key[4..].copy_from_slice(&offset.to_be_bytes());
    key
}

struct Fjall {
    database: fjall::Database,
    events: fjall::Keyspace,
    next: u64,
}

impl Fjall {
    fn open(path: &Path) -> Self {
        let database = fjall::Database::builder(path).open().unwrap();
        let events = database.keyspace("events", fjall::KeyspaceCreateOptions::default).unwrap();
        Self { database, events, next: 0 }
    }
}

impl Engine for Fjall {
    fn commit(&mut self, writers: &[u64]) {
        let mut batch = self.database.batch().durability(Some(fjall::PersistMode::SyncData));
        for writer in writers {
            batch.insert(&self.events, key(*writer, self.next), BODY);
            self.next += 1;
        }
        batch.commit().unwrap();
    }
}

struct Redb {
    database: redb::Database,
    next: u64,
}

const EVENTS: redb::TableDefinition<(u32, u64), &[u8]> = redb::TableDefinition::new("events");

impl Redb {
    fn open(path: &Path) -> Self {
        Self { database: redb::Database::create(path.join("events.redb")).unwrap(), next: 0 }
    }
}

impl Engine for Redb {
    fn commit(&mut self, writers: &[u64]) {
        let write = self.database.begin_write().unwrap();
        {
            let mut events = write.open_table(EVENTS).unwrap();
            for writer in writers {
                events.insert(((writer % 4) as u32, self.next), BODY.as_slice()).unwrap();
                self.next += 1;
            }
        }
        write.commit().unwrap();
    }
}

struct SqliteTable {
    sqlite: Sqlite,
    runtime: Runtime,
    next: u64,
}

impl SqliteTable {
    fn open(path: &Path) -> Self {
        let sqlite = DataFolder::open(path).unwrap().sqlite();
        let runtime = Builder::new_current_thread().build().unwrap();
        let schema = sqlite.write(|db| {
            Ok(db.execute_batch(
                "CREATE TABLE event (partition INTEGER, offset INTEGER, body BLOB,
                 PRIMARY KEY (partition, offset)) WITHOUT ROWID;",
            )?)
        });
        runtime.block_on(schema).unwrap();
        Self { sqlite, runtime, next: 0 }
    }
}

impl Engine for SqliteTable {
    fn commit(&mut self, writers: &[u64]) {
        let first = self.next;
        self.next += writers.len() as u64;
        let writers = writers.to_vec();
        let insert = self.sqlite.write(move |db| {
            let mut insert = db.prepare_cached("INSERT INTO event VALUES (?1, ?2, ?3)")?;
            for (offset, writer) in (first as i64..).zip(writers) {
                insert.execute(((writer % 4) as i64, offset, BODY.as_slice()))?;
            }
            Ok(())
        });
        self.runtime.block_on(insert).unwrap();
    }
}
