//! The conformance suite on both sides, and what outlives a process.

use std::sync::Arc;

use tempfile::tempdir;

use super::conformance::{self, sample};
use super::{DeviceStore, PostgresDeviceStore, SqliteDeviceStore};
use crate::postgres::testing::{Place, open};
use crate::sqlite::DataFolder;

async fn embedded(test: impl AsyncFnOnce(Arc<dyn DeviceStore>)) {
    let temp = tempdir().expect("temp");
    let folder = DataFolder::open(temp.path()).expect("open");
    test(Arc::new(SqliteDeviceStore::new(folder.sqlite()))).await;
}

async fn postgres(test: impl AsyncFnOnce(Arc<dyn DeviceStore>)) {
    test(Arc::new(PostgresDeviceStore::new(&open().await))).await;
}

conforms!([embedded, postgres] {
    create_stores_every_field,
    create_refuses_a_taken_id,
    create_refuses_a_module_without_its_device,
    ids_are_compared_ordinally,
    of_concurrent_creates_one_wins,
    device_list_is_ordered_and_bounded,
    device_list_goes_on_after_an_id,
    module_list_is_ordered_and_of_one_device,
    replace_keeps_id_generation_and_version,
    replace_raises_the_version_with_status_and_credentials,
    replace_looks_for_the_id_before_the_etag,
    of_concurrent_replaces_under_an_etag_one_wins,
    concurrent_replaces_each_raise_the_version,
    delete_takes_the_modules_along,
    delete_tells_what_it_removed,
    delete_looks_for_the_id_before_the_etag,
    a_module_never_outlives_its_device,
    a_refused_group_changes_nothing_for_the_others,
    a_device_has_a_limited_number_of_modules,
    statistics_count_devices,
    the_newest_connection_is_on_record,
    a_connection_belongs_to_one_generation,
    writes_leave_the_connection_alone,
    the_newest_session_is_kept,
    a_dead_nodes_connections_are_ended,
    a_node_that_was_not_dead_has_its_connections_back,
    setting_init_keeps_the_first,
    setting_replace_wants_what_is_stored,
    of_concurrent_setting_replaces_one_wins,
    concurrent_setting_inits_agree,
    epoch_generations_never_repeat,
});

#[tokio::test]
async fn everything_outlives_the_process() {
    let temp = tempdir().expect("temp");
    let embedded = || -> Arc<dyn DeviceStore> {
        Arc::new(SqliteDeviceStore::new(DataFolder::open(temp.path()).expect("open").sqlite()))
    };
    outlives_the_process(async || embedded()).await;
    let place = Place::create().await;
    let postgres = async || {
        let store: Arc<dyn DeviceStore> = Arc::new(PostgresDeviceStore::new(&place.open().await));
        store
    };
    outlives_the_process(postgres).await;
}

async fn outlives_the_process(open: impl AsyncFn() -> Arc<dyn DeviceStore>) {
    let store = open().await;
    store.identity_create(sample("d")).await.expect("create");
    store.identity_create(sample("d/m")).await.expect("create");
    store.setting_init("key", b"value").await.expect("init");
    assert_eq!(store.epoch_generation_next().await.expect("next"), 1);
    drop(store);

    let store = open().await;
    assert_eq!(store.device_list("", 9).await.expect("list"), [sample("d")]);
    assert_eq!(store.module_list("d").await.expect("list"), [sample("d/m")]);
    assert_eq!(store.setting_init("key", b"other").await.expect("init"), b"value");
    assert_eq!(store.epoch_generation_next().await.expect("next"), 2);
}
