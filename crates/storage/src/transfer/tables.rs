//! The tables that move, column by column. A test compares them with the schemas of both sides: a
//! column that is made later is listed here, or there as one that stays.

use dunlin_model::command::{Ack, Outcome};
use dunlin_model::{Identity, Status, json};

/// What a column holds. Both sides have a type for each.
#[derive(Clone, Copy)]
pub enum Kind {
    /// What it may be: a reader trusts what is stored.
    Text(fn(&str) -> bool),
    Bytes,
    Number,
    Flag,
}

pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
    pub optional: bool,
    /// What is read in its place, in the SQL of both sides; `:now` is the time.
    pub(super) read: Option<&'static str>,
}

pub struct Table {
    pub name: &'static str,
    pub columns: &'static [Column],
    /// Which rows say more than that they are there.
    pub(super) only: &'static str,
    pub(super) order: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    Text(String),
    Bytes(Vec<u8>),
    Number(i64),
    Flag(bool),
}

/// A row of one of the tables, its values in the order of the columns.
#[derive(Clone)]
pub struct Row {
    table: &'static Table,
    values: Vec<Value>,
}

/// No hub of this version has written such a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{table}.{column} cannot hold that")]
pub struct BadRow {
    table: &'static str,
    column: &'static str,
}

impl Table {
    pub fn named(name: &str) -> Option<&'static Self> {
        TABLES.iter().find(|table| table.name == name)
    }

    pub(super) fn select(&self, from: &str, now: i64) -> String {
        let columns: Vec<_> =
            self.columns.iter().map(|column| column.read.unwrap_or(column.name)).collect();
        let (columns, Self { only, order, .. }) = (columns.join(", "), self);
        format!("SELECT {columns} FROM {from} WHERE {only} ORDER BY {order}")
            .replace(":now", &now.to_string())
    }

    pub(super) fn column_names(&self) -> Vec<&'static str> {
        self.columns.iter().map(|column| column.name).collect()
    }
}

impl Row {
    /// A value for each column.
    pub fn new(table: &'static Table, values: Vec<Value>) -> Result<Self, BadRow> {
        assert_eq!(table.columns.len(), values.len(), "a value for each column of {}", table.name);
        for (column, value) in table.columns.iter().zip(&values) {
            let fits = match (column.kind, value) {
                (_, Value::Null) => column.optional,
                (Kind::Text(may_be), Value::Text(text)) => may_be(text),
                (Kind::Bytes, Value::Bytes(_))
                | (Kind::Number, Value::Number(_))
                | (Kind::Flag, Value::Flag(_)) => true,
                _ => false,
            };
            if !fits {
                return Err(BadRow { table: table.name, column: column.name });
            }
        }
        Ok(Self { table, values })
    }

    pub fn table(&self) -> &'static Table {
        self.table
    }

    pub fn values(&self) -> &[Value] {
        &self.values
    }

    pub fn get(&self, column: &str) -> Option<&Value> {
        let at = self.table.columns.iter().position(|known| known.name == column)?;
        self.values.get(at)
    }

    /// Empty, if it holds no text.
    pub fn text(&self, column: &str) -> &str {
        match self.get(column) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    /// Empty, if it holds no bytes.
    pub fn blob(&self, column: &str) -> &[u8] {
        match self.get(column) {
            Some(Value::Bytes(bytes)) => bytes,
            _ => &[],
        }
    }

    /// What it takes in memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        let long = |value: &Value| match value {
            Value::Text(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            _ => 0,
        };
        self.values.iter().map(|value| size_of::<Value>() + long(value)).sum()
    }
}

/// Without keys, though they are ciphertext.
impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct(self.table.name);
        for (column, value) in self.table.columns.iter().zip(&self.values) {
            match value {
                Value::Bytes(bytes) => shown.field(column.name, &bytes.len()),
                other => shown.field(column.name, other),
            };
        }
        shown.finish()
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.table.name == other.table.name && self.values == other.values
    }
}

impl Eq for Row {}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, optional: false, read: None }
}

const fn text(name: &'static str) -> Column {
    column(name, Kind::Text(|_| true))
}

const fn one_of(name: &'static str, may_be: fn(&str) -> bool) -> Column {
    column(name, Kind::Text(may_be))
}

const fn bytes(name: &'static str) -> Column {
    column(name, Kind::Bytes)
}

const fn number(name: &'static str) -> Column {
    column(name, Kind::Number)
}

const fn flag(name: &'static str) -> Column {
    column(name, Kind::Flag)
}

const fn document(name: &'static str) -> Column {
    one_of(name, |text| json::stored(text).is_ok())
}

const fn optional(column: Column) -> Column {
    Column { optional: true, ..column }
}

const fn read(column: Column, sql: &'static str) -> Column {
    Column { read: Some(sql), ..column }
}

const DEVICE: Column = one_of("device_id", |id| Identity::device(id).is_ok());
const MODULE: Column = one_of("module_id", |id| id.is_empty() || Identity::module("d", id).is_ok());

/// Settings first: who has the wrong master key finds out at once. Identities come before what is
/// theirs.
pub static TABLES: [Table; 9] = [
    Table {
        name: "setting",
        columns: &[text("name"), bytes("value")],
        only: "true",
        order: "name",
    },
    Table {
        name: "sequence",
        columns: &[text("name"), number("value")],
        only: "value <> 0",
        order: "name",
    },
    Table {
        name: "identity",
        columns: &[
            DEVICE,
            MODULE,
            text("generation_id"),
            text("etag"),
            one_of("status", |status| Status::parse(status).is_some()),
            optional(text("status_reason")),
            number("status_updated"),
            text("auth_type"),
            bytes("credentials"),
            number("auth_version"),
            flag("iot_edge"),
            optional(text("device_scope")),
            text("parent_scopes"),
            optional(text("managed_by")),
            optional(text("thumbprints")),
        ],
        only: "true",
        order: "device_id, module_id",
    },
    Table {
        name: "twin",
        columns: &[
            DEVICE,
            MODULE,
            number("etag"),
            number("version"),
            document("tags"),
            document("desired"),
            document("desired_metadata"),
            number("desired_version"),
            document("reported"),
            document("reported_metadata"),
            number("reported_version"),
            read(
                number("reported_epoch"),
                "CASE WHEN reported_epoch > 1 THEN 1 ELSE reported_epoch END",
            ),
        ],
        only: "true",
        order: "device_id, module_id",
    },
    Table {
        name: "device_state",
        columns: &[
            DEVICE,
            MODULE,
            read(number("epoch"), "CASE WHEN epoch > 1 THEN 1 ELSE epoch END"),
            read(
                number("connection_updated"),
                "CASE WHEN connected THEN :now ELSE connection_updated END",
            ),
            number("last_activity"),
            read(
                number("session_epoch"),
                "CASE WHEN session_epoch > 1 THEN 1 ELSE session_epoch END",
            ),
            number("subscriptions"),
            optional(text("model_id")),
        ],
        only: "(epoch <> 0 OR connection_updated <> 0 OR last_activity <> 0 OR session_epoch <> 0
            OR subscriptions <> 0 OR model_id IS NOT NULL)",
        order: "device_id, module_id",
    },
    Table {
        name: "command_queue",
        columns: &[
            DEVICE,
            number("sequence"),
            read(number("epoch"), "CASE WHEN epoch > 1 THEN 1 ELSE epoch END"),
        ],
        only: "(sequence <> 0 OR epoch <> 0)",
        order: "device_id",
    },
    Table {
        name: "command",
        columns: &[
            DEVICE,
            number("sequence"),
            optional(text("message_id")),
            optional(text("correlation_id")),
            optional(text("user_id")),
            optional(text("content_type")),
            optional(text("content_encoding")),
            one_of("ack", |ack| Ack::parse(ack).is_some()),
            one_of("properties", |text| properties(text).is_some()),
            number("enqueued"),
            number("expires"),
            number("due"),
            number("delivery_count"),
            optional(bytes("lock_token")),
            optional(read(
                number("lock_epoch"),
                "CASE WHEN lock_epoch > 1 THEN 1 ELSE lock_epoch END",
            )),
            bytes("body"),
        ],
        only: "true",
        order: "device_id, sequence",
    },
    Table {
        name: "feedback_batch",
        columns: &[
            number("id"),
            number("enqueued"),
            number("delivery_count"),
            optional(bytes("lock_token")),
            number("lock_until"),
        ],
        only: "true",
        order: "id",
    },
    // Numbered anew, in the same order.
    Table {
        name: "feedback",
        columns: &[
            DEVICE,
            text("generation_id"),
            text("message_id"),
            one_of("outcome", |outcome| Outcome::parse(outcome).is_some()),
            number("enqueued"),
            optional(number("batch")),
        ],
        only: "true",
        order: "id",
    },
];

/// Of a C2D message, as they are stored.
pub(super) fn properties(text: &str) -> Option<Vec<(String, String)>> {
    serde_json::from_str(text).ok()
}
