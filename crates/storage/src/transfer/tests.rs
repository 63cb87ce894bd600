//! The conformance suite on both sides, and that the tables are all there are.

use std::collections::BTreeSet;
use std::sync::Arc;

use tempfile::tempdir;

use super::conformance::{self, read, sample, try_read, write};
use super::{PostgresTransfer, Row, SqliteTransfer, TABLES, Table, Transfer, Value};
use crate::postgres::testing::{Place, administrator};
use crate::sqlite::DataFolder;

async fn embedded(test: impl AsyncFnOnce(Arc<dyn Transfer>)) {
    let temp = tempdir().expect("temp");
    let folder = DataFolder::open(temp.path()).expect("open");
    test(Arc::new(SqliteTransfer::new(folder.sqlite()))).await;
}

async fn postgres(test: impl AsyncFnOnce(Arc<dyn Transfer>)) {
    let postgres = Place::create().await.open().await;
    test(Arc::new(PostgresTransfer::new(postgres))).await;
}

conforms!([embedded, postgres] {
    what_is_written_is_read,
    many_rows_go_piece_by_piece,
    nobody_has_to_take_all,
    a_store_with_a_device_is_left_alone,
    what_breaks_off_is_not_written,
    one_bad_row_undoes_all,
    what_the_hub_counts_never_goes_back,
    settings_are_replaced,
    what_nobody_owns_goes,
});

type Columns = BTreeSet<(String, String)>;

/// What moves, and `more`: what a side has that stays, or is made anew there.
fn known(more: &[(&str, &str)]) -> Columns {
    let own = |(table, column): (&str, &str)| (table.to_owned(), column.to_owned());
    let moves = TABLES
        .iter()
        .flat_map(|table| table.columns.iter().map(|column| (table.name, column.name)));
    moves.chain(more.iter().copied()).map(own).collect()
}

#[test]
fn every_column_of_the_data_folder_is_known() {
    let temp = tempdir().expect("temp");
    drop(DataFolder::open(temp.path()).expect("open"));
    let db = rusqlite::Connection::open(temp.path().join("hub.sqlite")).expect("open");
    let sql = "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c
               WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'";
    let mut found = db.prepare(sql).expect("prepared");
    let found = found.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("found");
    let found: Columns = found.collect::<Result<_, _>>().expect("columns");
    // How far readers of the event log are, which stays.
    let positions = ["topic", "consumer_group", "partition", "next"];
    let mut more = positions.map(|column| ("group_position", column)).to_vec();
    more.extend([("device_state", "connected"), ("device_state", "node"), ("feedback", "id")]);
    assert_eq!(found, known(&more));
}

#[tokio::test]
async fn every_column_of_the_database_is_known() {
    let place = Place::create().await;
    drop(place.open().await);
    let sql = "SELECT table_name::text, column_name::text FROM information_schema.columns
               WHERE table_schema = $1";
    let found = administrator().await.query(sql, &[&place.schema]).await.expect("columns");
    let found: Columns = found.iter().map(|row| (row.get(0), row.get(1))).collect();
    let more = [
        ("schema_version", "version"),
        ("schema_version", "made"),
        ("device_state", "connected"),
        ("device_state", "node"),
        ("device_state", "generation_id"),
        ("command_queue", "generation_id"),
        ("command", "size"),
        ("feedback", "id"),
    ];
    assert_eq!(found, known(&more));
}

#[test]
fn a_row_holds_what_a_hub_may_have_written() {
    for row in sample(1) {
        for (at, column) in row.table().columns.iter().enumerate() {
            let with = |value: Value| {
                let mut values = row.values().to_vec();
                values[at] = value;
                Row::new(row.table(), values)
            };
            let kinds = [
                Value::Text("1".into()),
                Value::Bytes(vec![1]),
                Value::Number(1),
                Value::Flag(true),
            ];
            let fit = kinds.into_iter().filter(|value| with(value.clone()).is_ok()).count();
            assert!(fit <= 1, "{}: a value of one kind at the most", column.name);
            assert_eq!(with(Value::Null).is_ok(), column.optional, "{}", column.name);
        }
    }
    for (table, column, text) in [
        ("identity", "device_id", "a b"),
        ("identity", "device_id", ""),
        ("identity", "module_id", "a/b"),
        ("identity", "status", "Enabled?"),
        ("twin", "desired", "{\"a\":"),
        ("twin", "tags", "[]"),
        ("command", "ack", "some"),
        ("command", "properties", "{}"),
        ("feedback", "outcome", ""),
    ] {
        let table = Table::named(table).expect("a table");
        let rows = sample(1);
        let good = rows.iter().find(|row| row.table().name == table.name).expect("a row");
        let at = table.columns.iter().position(|known| known.name == column).expect("a column");
        let mut values = good.values().to_vec();
        values[at] = Value::Text(text.into());
        let bad = Row::new(table, values).expect_err("refused").to_string();
        assert!(bad.contains(&format!("{}.{column}", table.name)), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_a_hub_works_on_is_left_alone() {
    let place = Place::create().await;
    let transfer: Arc<dyn Transfer> = Arc::new(PostgresTransfer::new(place.open().await));
    let hub = place.open().await;
    // Its connection is there from now on, and idle.
    let store = crate::device_store::PostgresDeviceStore::new(&hub);
    crate::DeviceStore::setting_get(&store, "x").await.expect("read");
    let rows = sample(1);
    let (read_refused, write_refused) =
        tokio::join!(try_read(&transfer), write(&transfer, &rows, true));
    for refused in [read_refused.err(), write_refused.err()] {
        let source = std::error::Error::source(refused.as_ref().expect("refused")).expect("why");
        let why = source.to_string();
        assert!(why.contains(&place.schema) && why.contains("stop all its processes"), "{why}");
    }
    drop((hub, store));
    assert_eq!(read(&transfer).await, [], "when it has ended");
}

#[test]
fn keys_are_not_printed() {
    let rows = sample(1);
    let identity = rows.iter().find(|row| row.table().name == "identity").expect("one");
    let Some(Value::Bytes(secret)) = identity.get("credentials") else { panic!("no bytes") };
    assert!(!format!("{identity:?}").contains(&format!("{secret:?}")));
}
