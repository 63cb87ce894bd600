//! What every side of `Transfer` must do. Each function wants a store without a row.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Kind, Piece, Row, TABLES, Table, Transfer, Value};
use crate::StoreError;

type Store = Arc<dyn Transfer>;

/// When rows are read.
pub const NOW: i64 = 1_700_000_000_000;

/// Every row of a store, or why it cannot be read.
pub async fn try_read(store: &Store) -> Result<Vec<Row>, StoreError> {
    let (to, mut pieces) = mpsc::channel(1);
    let reading = tokio::spawn({
        let store = Arc::clone(store);
        async move { store.rows_read(NOW, to).await }
    });
    let mut rows = Vec::new();
    while let Some(piece) = pieces.recv().await {
        assert!(!piece.is_empty(), "no piece is empty");
        rows.extend(piece);
    }
    reading.await.expect("no panic").map(|()| rows)
}

pub async fn read(store: &Store) -> Vec<Row> {
    try_read(store).await.expect("read")
}

/// Writes these, and that they are all if they are `whole`.
pub async fn write(store: &Store, rows: &[Row], whole: bool) -> Result<(), StoreError> {
    let (to, from) = mpsc::channel(1);
    let writing = tokio::spawn({
        let store = Arc::clone(store);
        async move { store.rows_write(from).await }
    });
    for rows in rows.chunks(100) {
        // A store that has failed takes no more.
        let _ = to.send(Piece::Rows(rows.to_vec())).await;
    }
    if whole {
        let _ = to.send(Piece::Last).await;
    }
    drop(to);
    writing.await.expect("no panic")
}

fn table(name: &str) -> &'static Table {
    Table::named(name).expect("a table")
}

/// A row in which each value is another; `set` says what it must be.
fn row(name: &str, set: &[(&str, Value)]) -> Row {
    let columns = table(name).columns.iter().zip(10..);
    let value = columns.map(|(column, number)| {
        let given = set.iter().find(|(name, _)| *name == column.name);
        given.map(|(_, value)| value.clone()).unwrap_or_else(|| match column.kind {
            Kind::Text(may_be) => {
                let texts = [&format!("{number} \0\u{1}ä'"), "enabled", "full", "Success", "[]"];
                let json = r#"{"a\u0000":1e16}"#;
                let fits = texts.into_iter().chain([json, "m"]).find(|text| may_be(text));
                Value::Text(fits.expect("a text that fits").to_owned())
            }
            Kind::Bytes => Value::Bytes(vec![number as u8, 0, 0xff]),
            Kind::Number => Value::Number(number),
            Kind::Flag => Value::Flag(true),
        })
    });
    Row::new(table(name), value.collect()).expect("a good row")
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// Who reads finds no other epoch.
const PAST: Value = Value::Number(1);

/// A hub of `devices` devices, of which the first has a bit of everything.
pub fn sample(devices: usize) -> Vec<Row> {
    let mut rows = vec![
        row("setting", &[("name", text("a"))]),
        row("setting", &[("name", text("b\0"))]),
        row("sequence", &[("name", text("epoch_generation")), ("value", Value::Number(7))]),
        row("sequence", &[("name", text("feedback_batch")), ("value", Value::Number(40))]),
    ];
    let ids = |n: usize| [("device_id", text(&format!("d{n:05}"))), ("module_id", text(""))];
    let first = &ids(0)[0];
    let module = [first.clone(), ("module_id", text("m"))];
    let all = |name: &str, set: &[(&str, Value)]| {
        let mut all = Vec::new();
        for n in 0..devices {
            all.push(row(name, &[&ids(n), set].concat()));
            if n == 0 {
                all.push(row(name, &[&module, set].concat()));
            }
        }
        all
    };
    let nothing = ["status_reason", "device_scope", "managed_by", "thumbprints"];
    rows.extend(all("identity", &nothing.map(|name| (name, Value::Null))));
    rows.extend(all("twin", &[("reported_epoch", PAST)]));
    let past = [("epoch", PAST), ("session_epoch", Value::Number(0))];
    rows.push(row("device_state", &[&module[..], &past].concat()));
    rows.push(row("command_queue", &[first.clone(), ("epoch", PAST)]));
    for n in 0..3 {
        let lock = [("lock_token", Value::Null), ("lock_epoch", Value::Null)];
        let lock = if n == 0 { &[("lock_epoch", PAST)][..] } else { &lock };
        let key = [first.clone(), ("sequence", Value::Number(n))];
        rows.push(row("command", &[&key, lock].concat()));
    }
    rows.push(row("feedback_batch", &[("id", Value::Number(39))]));
    rows.push(row("feedback", &[first.clone(), ("batch", Value::Number(39))]));
    rows.push(row("feedback", &[first.clone(), ("batch", Value::Null)]));
    rows
}

pub async fn what_is_written_is_read(store: Store) {
    assert_eq!(read(&store).await.len(), 0);
    let rows = sample(3);
    let written: Vec<_> = rows.iter().map(|row| row.table().name).collect();
    assert!(TABLES.iter().all(|table| written.contains(&table.name)), "{written:?}");
    write(&store, &rows, true).await.expect("written");
    assert_eq!(read(&store).await, rows);
}

pub async fn many_rows_go_piece_by_piece(store: Store) {
    let rows = sample(1_000);
    write(&store, &rows, true).await.expect("written");
    assert_eq!(read(&store).await, rows);
}

pub async fn nobody_has_to_take_all(store: Store) {
    write(&store, &sample(2_000), true).await.expect("written");
    let (to, mut pieces) = mpsc::channel(1);
    let reading = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.rows_read(NOW, to).await }
    });
    pieces.recv().await.expect("a piece");
    drop(pieces);
    reading.await.expect("no panic").expect("no failure of the store");
}

pub async fn a_store_with_a_device_is_left_alone(store: Store) {
    let rows = sample(1);
    write(&store, &rows, true).await.expect("written");
    let other = [row("setting", &[("name", text("a")), ("value", Value::Bytes(vec![]))])];
    let refused = write(&store, &other, true).await;
    assert!(matches!(refused, Err(StoreError::AlreadyExists)), "{refused:?}");
    assert_eq!(read(&store).await, rows);
}

pub async fn what_breaks_off_is_not_written(store: Store) {
    let broken = write(&store, &sample(300), false).await;
    assert!(matches!(broken, Err(StoreError::Unavailable { .. })), "{broken:?}");
    assert_eq!(read(&store).await, []);
}

pub async fn one_bad_row_undoes_all(store: Store) {
    let good = sample(150);
    // The last is there already; a second of what there can be one of.
    for bad in ["identity", "twin", "device_state", "command", "feedback_batch"] {
        let mut rows = good.clone();
        let again = rows.iter().rfind(|row| row.table().name == bad).expect("one").clone();
        rows.push(again);
        let broken = write(&store, &rows, true).await;
        assert!(matches!(broken, Err(StoreError::Unavailable { .. })), "{bad}: {broken:?}");
        assert_eq!(read(&store).await, [], "{bad}");
    }
    write(&store, &good, true).await.expect("the same store, when the rows are good");
}

pub async fn what_the_hub_counts_never_goes_back(store: Store) {
    let counted = |generation, batch| {
        let one =
            |name, last| row("sequence", &[("name", text(name)), ("value", Value::Number(last))]);
        [one("epoch_generation", generation), one("feedback_batch", batch)]
    };
    for (written, is) in [((5, 9), (5, 9)), ((3, 10), (5, 10)), ((6, 1), (6, 10))] {
        write(&store, &counted(written.0, written.1), true).await.expect("written");
        assert_eq!(read(&store).await, counted(is.0, is.1));
    }
}

pub async fn settings_are_replaced(store: Store) {
    let setting =
        |name, value| row("setting", &[("name", text(name)), ("value", Value::Bytes(vec![value]))]);
    write(&store, &[setting("a", 1), setting("b", 2)], true).await.expect("written");
    write(&store, &[setting("b", 3), setting("c", 4)], true).await.expect("written again");
    assert_eq!(read(&store).await, [setting("a", 1), setting("b", 3), setting("c", 4)]);
}

/// A batch of feedback whose devices are gone may be under a number that comes again.
pub async fn what_nobody_owns_goes(store: Store) {
    let batch =
        |enqueued| row("feedback_batch", &[("id", PAST), ("enqueued", Value::Number(enqueued))]);
    write(&store, &[batch(1)], true).await.expect("written");
    write(&store, &[batch(2)], true).await.expect("written again");
    let rows = read(&store).await;
    let batches: Vec<_> = rows.iter().filter(|row| row.table().name == "feedback_batch").collect();
    assert_eq!(batches, [&batch(2)]);
}
