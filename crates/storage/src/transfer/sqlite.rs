//! `Transfer` on the embedded database. The lock of its folder keeps hubs away.

use async_trait::async_trait;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, ToSql, params, params_from_iter};
use tokio::sync::mpsc::{Receiver, Sender};

use super::{Filling, Kind, Piece, Row, TABLES, Table, Transfer, Value, broke_off};
use crate::StoreError;
use crate::sqlite::Sqlite;

/// Here, SQLite itself counts the batches.
const SEQUENCES: &str = "(SELECT name, value FROM sequence
     UNION ALL SELECT name, seq FROM sqlite_sequence WHERE name = 'feedback_batch')";

pub struct SqliteTransfer {
    sqlite: Sqlite,
}

impl SqliteTransfer {
    pub fn new(sqlite: Sqlite) -> Self {
        Self { sqlite }
    }
}

#[async_trait]
impl Transfer for SqliteTransfer {
    async fn rows_read(&self, now: i64, to: Sender<Vec<Row>>) -> Result<(), StoreError> {
        let all = move |db: &Connection| {
            for table in &TABLES {
                if !table_read(db, table, now, &to)? {
                    break;
                }
            }
            Ok(())
        };
        self.sqlite.read(all).await
    }

    async fn rows_write(&self, mut from: Receiver<Piece>) -> Result<(), StoreError> {
        // Nobody else waits for the writer.
        let all = move |db: &Connection| {
            make_room(db)?;
            loop {
                match from.blocking_recv() {
                    Some(Piece::Rows(rows)) => rows.iter().try_for_each(|row| write(db, row))?,
                    Some(Piece::Last) => return Ok(()),
                    None => return Err(StoreError::unavailable("sqlite", broke_off())),
                }
            }
        };
        self.sqlite.write(all).await
    }
}

/// Whether somebody takes the rows.
fn table_read(
    db: &Connection,
    table: &'static Table,
    now: i64,
    to: &Sender<Vec<Row>>,
) -> Result<bool, StoreError> {
    let from = if table.name == "sequence" { SEQUENCES } else { table.name };
    let mut statement = db.prepare(&table.select(from, now))?;
    let mut rows = statement.query([])?;
    let mut filling = Filling::default();
    while let Some(row) = rows.next()? {
        if let Some(piece) = filling.push(read(table, row)?)
            && to.blocking_send(piece).is_err()
        {
            return Ok(false);
        }
    }
    let rest = filling.take();
    Ok(rest.is_empty() || to.blocking_send(rest).is_ok())
}

fn read(table: &'static Table, row: &rusqlite::Row<'_>) -> Result<Row, StoreError> {
    let value = |(at, column): (usize, &super::Column)| -> rusqlite::Result<Value> {
        let value = match column.kind {
            Kind::Text(_) => row.get::<_, Option<_>>(at)?.map(Value::Text),
            Kind::Bytes => row.get::<_, Option<_>>(at)?.map(Value::Bytes),
            Kind::Number => row.get::<_, Option<_>>(at)?.map(Value::Number),
            Kind::Flag => row.get::<_, Option<_>>(at)?.map(Value::Flag),
        };
        Ok(value.unwrap_or(Value::Null))
    };
    let values = table.columns.iter().enumerate().map(value).collect::<Result<_, _>>()?;
    Row::new(table, values).map_err(|bad| StoreError::unavailable("sqlite", bad))
}

/// Without devices there may be something that belonged to one.
fn make_room(db: &Connection) -> Result<(), StoreError> {
    if db.query_row("SELECT EXISTS (SELECT 1 FROM identity)", [], |row| row.get(0))? {
        return Err(StoreError::AlreadyExists);
    }
    for table in TABLES.iter().filter(|table| !of_the_hub(table)) {
        db.execute(&format!("DELETE FROM {}", table.name), [])?;
    }
    Ok(())
}

fn of_the_hub(table: &Table) -> bool {
    ["setting", "sequence"].contains(&table.name)
}

fn write(db: &Connection, row: &Row) -> Result<(), StoreError> {
    let table = row.table();
    if table.name == "sequence" && row.text("name") == "feedback_batch" {
        return count_batches(db, row);
    }
    let mut columns = table.column_names();
    let mut values: Vec<_> = (1..=columns.len()).map(|number| format!("?{number}")).collect();
    if table.name == "device_state" {
        columns.push("connected");
        values.push("0".to_owned());
    }
    let conflict = match table.name {
        "setting" => "ON CONFLICT DO UPDATE SET value = excluded.value",
        "sequence" => "ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
        _ => "",
    };
    let (name, columns, values) = (table.name, columns.join(", "), values.join(", "));
    let sql = format!("INSERT INTO {name} ({columns}) VALUES ({values}) {conflict}");
    db.prepare_cached(&sql)?.execute(params_from_iter(row.values()))?;
    Ok(())
}

fn count_batches(db: &Connection, row: &Row) -> Result<(), StoreError> {
    let last = row.get("value");
    let sql = "UPDATE sqlite_sequence SET seq = max(seq, ?1) WHERE name = 'feedback_batch'";
    if db.execute(sql, params![last])? == 0 {
        let sql = "INSERT INTO sqlite_sequence (name, seq) VALUES ('feedback_batch', ?1)";
        db.execute(sql, params![last])?;
    }
    Ok(())
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Self::Null => Ok(ToSqlOutput::Owned(rusqlite::types::Value::Null)),
            Self::Text(text) => text.to_sql(),
            Self::Bytes(bytes) => bytes.to_sql(),
            Self::Number(number) => number.to_sql(),
            Self::Flag(flag) => flag.to_sql(),
        }
    }
}
