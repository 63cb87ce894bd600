//! `Transfer` on Postgres, over a connection of its own.

use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::ClientWrapper;
use dunlin_model::Command;
use dunlin_model::command::Ack;
use futures_util::TryStreamExt;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::{Instant, sleep};
use tokio_postgres::types::ToSql;

use super::tables::properties;
use super::{Filling, Kind, Piece, Row, TABLES, Table, Transfer, Value, broke_off};
use crate::StoreError;
use crate::postgres::session::Fault;
use crate::postgres::text::{escape, unescape};
use crate::postgres::{Postgres, unavailable};

/// How long a hub that is at work is waited for: a process that ends takes a moment.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

pub struct PostgresTransfer {
    postgres: Postgres,
}

impl PostgresTransfer {
    /// `postgres` is for this alone: any other connection under its application name is a hub's.
    pub fn new(postgres: Postgres) -> Self {
        Self { postgres }
    }

    /// What it holds is rolled back if it is dropped.
    async fn begin(&self, sql: &str) -> Result<ClientWrapper, Fault> {
        let client = self.postgres.apart().await?;
        nobody_else(&client).await?;
        client.batch_execute(sql).await?;
        Ok(client)
    }
}

#[async_trait]
impl Transfer for PostgresTransfer {
    async fn rows_read(&self, now: i64, to: Sender<Vec<Row>>) -> Result<(), StoreError> {
        let client = self.begin("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
        for table in &TABLES {
            if !table_read(&client, table, now, &to).await? {
                break;
            }
        }
        Ok(())
    }

    async fn rows_write(&self, mut from: Receiver<Piece>) -> Result<(), StoreError> {
        // A hub that is started meanwhile may read, and waits with what it writes.
        let tables = TABLES.each_ref().map(|table| table.name).join(", ");
        let client = self.begin(&format!("BEGIN; LOCK TABLE {tables} IN EXCLUSIVE MODE")).await?;
        make_room(&client).await?;
        loop {
            match from.recv().await {
                Some(Piece::Rows(rows)) => {
                    let same = |one: &Row, other: &Row| one.table().name == other.table().name;
                    for rows in rows.chunk_by(same) {
                        write(&client, rows).await?;
                    }
                }
                Some(Piece::Last) => return Ok(finish(&client).await?),
                None => return Err(unavailable(broke_off())),
            }
        }
    }
}

/// A hub goes by its application name.
async fn nobody_else(client: &ClientWrapper) -> Result<(), Fault> {
    let sql = "SELECT count(*), current_setting('application_name') FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()
                   AND application_name = current_setting('application_name')";
    let end = Instant::now() + PATIENCE;
    loop {
        let row = client.query_one(sql, &[]).await?;
        let others: i64 = row.get(0);
        if others == 0 {
            return Ok(());
        }
        if Instant::now() > end {
            let name: &str = row.get(1);
            let why = format!(
                "a hub is at work on this database ({others} connections of {name:?}): stop all \
                 its processes first"
            );
            return Err(unavailable(why).into());
        }
        sleep(LOOK).await;
    }
}

/// Whether somebody takes the rows.
async fn table_read(
    client: &ClientWrapper,
    table: &'static Table,
    now: i64,
    to: &Sender<Vec<Row>>,
) -> Result<bool, Fault> {
    let none: [&(dyn ToSql + Sync); 0] = [];
    let rows = client.query_raw(&table.select(table.name, now), none).await?;
    let mut rows = pin!(rows);
    let mut filling = Filling::default();
    while let Some(row) = rows.try_next().await? {
        if let Some(piece) = filling.push(read(table, &row)?)
            && to.send(piece).await.is_err()
        {
            return Ok(false);
        }
    }
    let rest = filling.take();
    Ok(rest.is_empty() || to.send(rest).await.is_ok())
}

fn read(table: &'static Table, row: &tokio_postgres::Row) -> Result<Row, Fault> {
    let value = |(at, column): (usize, &super::Column)| -> Result<Value, tokio_postgres::Error> {
        let value = match column.kind {
            Kind::Text(_) => {
                row.try_get::<_, Option<String>>(at)?.map(|text| Value::Text(unescape(text)))
            }
            Kind::Bytes => row.try_get::<_, Option<_>>(at)?.map(Value::Bytes),
            Kind::Number => row.try_get::<_, Option<_>>(at)?.map(Value::Number),
            Kind::Flag => row.try_get::<_, Option<_>>(at)?.map(Value::Flag),
        };
        Ok(value.unwrap_or(Value::Null))
    };
    let values = table.columns.iter().enumerate().map(value).collect::<Result<_, _>>()?;
    Ok(Row::new(table, values).map_err(unavailable)?)
}

/// Without devices there may be something that belonged to one.
async fn make_room(client: &ClientWrapper) -> Result<(), StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM identity)";
    if client.query_one(sql, &[]).await.map_err(Fault::from)?.get(0) {
        return Err(StoreError::AlreadyExists);
    }
    for table in TABLES.iter().filter(|table| !["setting", "sequence"].contains(&table.name)) {
        let sql = format!("DELETE FROM {}", table.name);
        client.batch_execute(&sql).await.map_err(Fault::from)?;
    }
    Ok(())
}

/// Writes rows of one table, in their order.
async fn write(client: &ClientWrapper, rows: &[Row]) -> Result<(), Fault> {
    let Some(table) = rows.first().map(Row::table) else { return Ok(()) };
    let mut names = table.column_names();
    let mut kinds: Vec<_> = table.columns.iter().map(|column| column.kind).collect();
    let mut arrays: Vec<_> =
        kinds.iter().enumerate().map(|(at, kind)| array(rows, at, *kind)).collect();
    if table.name == "command" {
        names.push("size");
        kinds.push(Kind::Number);
        arrays.push(Box::new(rows.iter().map(size).collect::<Vec<_>>()));
    }
    let types = (1..).zip(&kinds).map(|(number, kind)| {
        let name = match kind {
            Kind::Text(_) => "text",
            Kind::Bytes => "bytea",
            Kind::Number => "bigint",
            Kind::Flag => "boolean",
        };
        format!("${number}::{name}[]")
    });
    let types = types.collect::<Vec<_>>().join(", ");
    let values = names.join(", n.");
    let names = names.join(", ");
    // They repeat the generation of whom they belong to.
    let (more, owner) = match table.name {
        "device_state" => (", generation_id", "AND i.module_id = n.module_id"),
        "command_queue" => (", generation_id", "AND i.module_id = ''"),
        _ => ("", ""),
    };
    let generation = match owner {
        "" => String::new(),
        owner => format!(
            ", (SELECT i.generation_id FROM identity i WHERE i.device_id = n.device_id {owner})"
        ),
    };
    let conflict = match table.name {
        "setting" => "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        "sequence" => {
            "ON CONFLICT (name) DO UPDATE SET value = greatest(sequence.value, excluded.value)"
        }
        _ => "",
    };
    let name = table.name;
    let sql = format!(
        "INSERT INTO {name} ({names}{more}) SELECT n.{values}{generation}
         FROM unnest({types}) WITH ORDINALITY AS n ({names}, place) ORDER BY n.place {conflict}"
    );
    let statement = client.prepare_cached(&sql).await?;
    let params: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|array| &**array as _).collect();
    client.execute(&statement, &params).await?;
    Ok(())
}

fn array<'a>(rows: &'a [Row], at: usize, kind: Kind) -> Box<dyn ToSql + Sync + Send + 'a> {
    fn all<'a, T>(
        rows: &'a [Row],
        at: usize,
        of: impl Fn(&'a Value) -> Option<T>,
    ) -> Vec<Option<T>> {
        rows.iter().map(|row| row.values().get(at).and_then(&of)).collect()
    }
    match kind {
        Kind::Text(_) => Box::new(all(rows, at, |value| match value {
            Value::Text(text) => Some(escape(text)),
            _ => None,
        })),
        Kind::Bytes => Box::new(all(rows, at, |value| match value {
            Value::Bytes(bytes) => Some(&**bytes),
            _ => None,
        })),
        Kind::Number => Box::new(all(rows, at, |value| match value {
            Value::Number(number) => Some(*number),
            _ => None,
        })),
        Kind::Flag => Box::new(all(rows, at, |value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        })),
    }
}

/// What a C2D message weighs, which is stored beside it here.
fn size(row: &Row) -> i64 {
    let some = |column| Some(row.text(column).to_owned());
    let command = Command {
        message_id: some("message_id"),
        correlation_id: some("correlation_id"),
        user_id: some("user_id"),
        content_type: some("content_type"),
        content_encoding: some("content_encoding"),
        expires: None,
        ack: Ack::None,
        properties: properties(row.text("properties")).unwrap_or_default(),
        body: row.blob("body").to_vec(),
    };
    i64::try_from(command.weight()).unwrap_or(i64::MAX)
}

/// Who had nothing to say in these tables has a row there all the same.
async fn finish(client: &ClientWrapper) -> Result<(), Fault> {
    let sql = "INSERT INTO device_state (device_id, module_id, generation_id)
                   SELECT device_id, module_id, generation_id FROM identity
                   ON CONFLICT DO NOTHING;
               INSERT INTO command_queue (device_id, generation_id)
                   SELECT device_id, generation_id FROM identity WHERE module_id = ''
                   ON CONFLICT DO NOTHING;
               COMMIT";
    Ok(client.batch_execute(sql).await?)
}
