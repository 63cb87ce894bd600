//! The same random operations on the embedded side and on Postgres: there is no difference in what
//! is answered, nor in what is there afterwards. `DUNLIN_DIFFERENTIAL_SEED=N` repeats what failed.

use std::sync::Arc;

use tempfile::{TempDir, tempdir};

use crate::command_queue::{CommandQueue, PostgresCommandQueue, SqliteCommandQueue};
use crate::device_store::{DeviceStore, PostgresDeviceStore, SqliteDeviceStore};
use crate::postgres::testing::Place;
use crate::sqlite::{DataFolder, Sqlite};
use crate::twin_store::{PostgresTwinStore, SqliteTwinStore, TwinStore};

mod draw;
mod moved;
mod steps;

use steps::Client;

#[derive(Clone)]
struct Stores {
    devices: Arc<dyn DeviceStore>,
    twins: Arc<dyn TwinStore>,
    queue: Arc<dyn CommandQueue>,
}

fn embedded() -> (TempDir, Stores) {
    let folder = tempdir().expect("a folder");
    let sqlite = DataFolder::open(folder.path()).expect("open").sqlite();
    (folder, on_sqlite(&sqlite))
}

fn on_sqlite(sqlite: &Sqlite) -> Stores {
    Stores {
        devices: Arc::new(SqliteDeviceStore::new(sqlite.clone())),
        twins: Arc::new(SqliteTwinStore::new(sqlite.clone())),
        queue: Arc::new(SqliteCommandQueue::new(sqlite.clone())),
    }
}

async fn postgres(place: &Place) -> Stores {
    let postgres = place.open().await;
    Stores {
        devices: Arc::new(PostgresDeviceStore::new(&postgres)),
        twins: Arc::new(PostgresTwinStore::new(&postgres)),
        queue: Arc::new(PostgresCommandQueue::new(&postgres)),
    }
}

fn seeds(runs: usize) -> Vec<u64> {
    let given = std::env::var("DUNLIN_DIFFERENTIAL_SEED").ok();
    match given.map(|seed| seed.parse().expect("DUNLIN_DIFFERENTIAL_SEED is a number")) {
        Some(seed) => vec![seed],
        None => (0..runs).map(|_| fastrand::u64(..)).collect(),
    }
}

#[track_caller]
fn same(seed: u64, embedded: &[String], postgres: &[String]) {
    for (step, (embedded, postgres)) in embedded.iter().zip(postgres).enumerate() {
        assert_eq!(embedded, postgres, "DUNLIN_DIFFERENTIAL_SEED={seed} step {step}");
    }
    assert_eq!(embedded.len(), postgres.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_caller_finds_no_difference() {
    for seed in seeds(4) {
        eprintln!("DUNLIN_DIFFERENTIAL_SEED={seed}");
        let (_folder, stores) = embedded();
        let one = Client::alone(stores, seed).run(500).await;
        let other = Client::alone(postgres(&Place::create().await).await, seed).run(500).await;
        same(seed, &one, &other);
    }
}

/// Callers with devices of their own, at one time and by two processes: each is answered as if it
/// were alone, though their operations share transactions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_callers_find_no_difference() {
    const CALLERS: u64 = 24;
    for seed in seeds(2) {
        eprintln!("DUNLIN_DIFFERENTIAL_SEED={seed}");
        let (_folder, stores) = embedded();
        let place = Place::create().await;
        let processes = [postgres(&place).await, postgres(&place).await];
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let stores = processes[caller as usize % processes.len()].clone();
                tokio::spawn(Client::among(stores, seed, caller).run(100))
            })
            .collect();
        for (caller, other) in (0..CALLERS).zip(callers) {
            let one = Client::among(stores.clone(), seed, caller).run(100).await;
            same(seed, &one, &other.await.expect("joined"));
        }
    }
}
