//! The conformance suite on both sides, and what outlives a process.

use std::sync::Arc;

use dunlin_model::twin::Limits;
use serde_json::json;
use tempfile::tempdir;

use super::conformance::{self, Stores, update};
use super::{PostgresTwinStore, SqliteTwinStore, StoredTwin};
use crate::device_store::conformance::sample;
use crate::device_store::{PostgresDeviceStore, SqliteDeviceStore};
use crate::postgres::Postgres;
use crate::postgres::testing::{self, Place};
use crate::sqlite::DataFolder;

fn open(folder: &std::path::Path) -> Stores {
    let sqlite = DataFolder::open(folder).expect("open").sqlite();
    Stores {
        devices: Arc::new(SqliteDeviceStore::new(sqlite.clone())),
        twins: Arc::new(SqliteTwinStore::new(sqlite)),
    }
}

fn on(postgres: &Postgres) -> Stores {
    Stores {
        devices: Arc::new(PostgresDeviceStore::new(postgres)),
        twins: Arc::new(PostgresTwinStore::new(postgres)),
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
    a_twin_comes_and_goes_with_its_identity,
    what_does_not_exist_has_no_twin,
    an_update_is_stored_as_it_is_answered,
    numbers_and_strings_are_read_back_as_written,
    a_refused_change_changes_nothing,
    a_former_connection_does_not_report_after_a_newer_one,
    a_twin_is_read_beside_its_identity,
    concurrent_changes_lose_nothing,
    of_concurrent_updates_under_an_etag_one_wins,
    a_reader_sees_no_half_of_an_update,
});

#[tokio::test]
async fn twins_outlive_the_process() {
    let temp = tempdir().expect("temp");
    outlive_the_process(async || open(temp.path())).await;
    let place = Place::create().await;
    outlive_the_process(async || on(&place.open().await)).await;
}

async fn outlive_the_process(open: impl AsyncFn() -> Stores) {
    let id = sample("d").id;
    let stores = open().await;
    stores.devices.identity_create(sample("d")).await.expect("create");
    let change = update(json!({"a": 1}), json!({"b": [0.1]}));
    let updated = stores.twins.twin_update(&id, change, 5, &Limits::default()).await;
    let updated: StoredTwin = updated.expect("update").stored;
    drop(stores);
    assert_eq!(open().await.twins.twin_get(&id).await.expect("get"), Some(updated));
}
