//! `Transfer`: all that a hub keeps of its devices, as rows that go from one kind of store to the
//! other.

use async_trait::async_trait;
use tokio::sync::mpsc::{Receiver, Sender};

use crate::StoreError;

pub mod conformance;
mod postgres;
mod sqlite;
mod tables;
#[cfg(test)]
mod tests;

pub use postgres::PostgresTransfer;
pub use sqlite::SqliteTransfer;
pub use tables::{BadRow, Column, Kind, Row, TABLES, Table, Value};

/// What is on its way at once: so many rows, or fewer of so many bytes.
const PIECE_ROWS: usize = 256;
const PIECE_BYTES: usize = 1 << 20;

/// A part of what is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Rows(Vec<Row>),
    /// All was sent.
    Last,
}

/// Moves what a stopped hub keeps of its devices: identities with keys (ciphertext), twins,
/// sessions, queues, feedback, settings. The event log is not among it, nor is presence.
///
/// * Rows are those of [`TABLES`], in that order, whichever side they come from: what one side reads
///   after a write is what was written.
/// * Nobody is connected any more: a connection ends when its row is read (`now`, Unix
///   milliseconds), and its epoch is read as 1, which is older than any that a hub gives, whatever
///   generation its presence is in. A lock that a connection held is taken back by the next one.
/// * Epoch generations and the numbers of feedback batches never go back: of what is there and what
///   is written, the higher one stays.
/// * It works at any size: no more than a few pieces are in memory.
/// * `Unavailable` if a hub is at work on the store, as far as that can be told.
#[async_trait]
pub trait Transfer: Send + Sync + 'static {
    /// Sends every row, all of one moment. Ends early if nobody takes them.
    async fn rows_read(&self, now: i64, to: Sender<Vec<Row>>) -> Result<(), StoreError>;

    /// Writes all that comes, in one transaction, which ends well only after [`Piece::Last`].
    /// Settings of the same name are replaced, others stay. `AlreadyExists` if there is a device.
    async fn rows_write(&self, from: Receiver<Piece>) -> Result<(), StoreError>;
}

/// Rows that wait for others to go with.
#[derive(Default)]
pub struct Filling {
    rows: Vec<Row>,
    bytes: usize,
}

impl Filling {
    /// A piece, once it is full.
    pub fn push(&mut self, row: Row) -> Option<Vec<Row>> {
        self.bytes += row.bytes();
        self.rows.push(row);
        (self.rows.len() >= PIECE_ROWS || self.bytes >= PIECE_BYTES).then(|| self.take())
    }

    pub fn take(&mut self) -> Vec<Row> {
        self.bytes = 0;
        std::mem::take(&mut self.rows)
    }
}

fn broke_off() -> &'static str {
    "what was to be written broke off: nothing is written"
}
