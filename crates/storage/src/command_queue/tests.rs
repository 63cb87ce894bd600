//! The conformance suite on both sides, and what outlives a process.

use std::path::Path;
use std::sync::Arc;

use tempfile::tempdir;

use super::conformance::{self, Stores};
use super::{PostgresCommandQueue, SqliteCommandQueue};
use crate::device_store::conformance::sample;
use crate::device_store::{PostgresDeviceStore, SqliteDeviceStore};
use crate::postgres::Postgres;
use crate::postgres::testing::{self, Place};
use crate::sqlite::DataFolder;

fn open(folder: &Path) -> Stores {
    let sqlite = DataFolder::open(folder).expect("open").sqlite();
    Stores {
        devices: Arc::new(SqliteDeviceStore::new(sqlite.clone())),
        queue: Arc::new(SqliteCommandQueue::new(sqlite)),
    }
}

fn on(postgres: &Postgres) -> Stores {
    Stores {
        devices: Arc::new(PostgresDeviceStore::new(postgres)),
        queue: Arc::new(PostgresCommandQueue::new(postgres)),
    }
}

async fn embedded(test: impl AsyncFnOnce(Stores)) {
    let temp = tempdir().expect("temp");
    test(open(temp.path())).await;
}

async fn postgres(test: impl AsyncFnOnce(Stores)) {
    test(on(&testing::open().await)).await;
}

conforms!([embedded, postgres] {
    a_message_is_handed_out_as_it_was_sent,
    only_devices_have_queues,
    a_full_queue_takes_no_more,
    a_device_takes_its_queue_along,
    a_purge_ends_all,
    concurrent_sends_each_have_a_place,
    concurrent_leases_share_nothing,
    a_hand_out_has_the_first_that_are_free,
    a_hand_out_is_bounded_in_bytes,
    a_lock_ends_with_its_time,
    who_is_swept_is_told_of,
    who_brings_a_message_back_is_told_so,
    each_way_in_vain_ends_at_the_maximum,
    a_newer_connection_takes_over,
    a_request_without_a_connection_stands_apart,
    what_is_locked_expires_with_its_lock,
    feedback_is_what_the_message_asked_for,
    a_record_has_every_field,
    a_batch_is_full_or_ripe,
    a_batch_is_read_under_a_lock,
    a_sweep_ends_no_lock_of_feedback,
    old_feedback_goes,
    feedback_goes_with_its_device,
});

/// `DUNLIN_C2D_SEED=N` repeats what failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_every_message_ends_once() {
    let given = std::env::var("DUNLIN_C2D_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds =
        given.map_or_else(|| (0..5).map(|_| fastrand::u64(..)).collect(), |seed| vec![seed]);
    for seed in seeds {
        eprintln!("DUNLIN_C2D_SEED={seed}");
        let temp = tempdir().expect("temp");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut draw = |below| random.u64(..below);
        conformance::every_message_ends_once(async || open(temp.path()), &mut draw, 400).await;
        let place = Place::create().await;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut draw = |below| random.u64(..below);
        let on = async || on(&place.open().await);
        conformance::every_message_ends_once(on, &mut draw, 400).await;
    }
}

#[tokio::test]
async fn the_queue_outlives_the_process() {
    let temp = tempdir().expect("temp");
    outlives_the_process(async || open(temp.path())).await;
    let place = Place::create().await;
    outlives_the_process(async || on(&place.open().await)).await;
}

async fn outlives_the_process(open: impl AsyncFn() -> Stores) {
    let stores = open().await;
    stores.devices.identity_create(sample("d")).await.expect("create");
    let rules = conformance::rules();
    let sent = stores.queue.command_send("d", conformance::command("1"), conformance::NOW, &rules);
    sent.await.expect("send");
    drop(stores);
    let count = open().await.queue.command_count("d", conformance::NOW, &rules).await;
    assert_eq!(count.expect("count"), 1);
}
