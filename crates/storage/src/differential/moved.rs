//! What random operations have left moves from the data folder to Postgres and back: each time the
//! same rows, on which the same operations go on.

use std::sync::Arc;

use tempfile::tempdir;
use tokio::sync::mpsc;

use super::steps::Client;
use super::{on_sqlite, postgres, same, seeds};
use crate::Transfer;
use crate::postgres::testing::Place;
use crate::sqlite::DataFolder;
use crate::transfer::conformance::{NOW, read};
use crate::transfer::{Piece, PostgresTransfer, SqliteTransfer};

/// From one store to the other, as the command line does it.
async fn move_all(from: &Arc<dyn Transfer>, to: &Arc<dyn Transfer>) {
    let (rows, mut read) = mpsc::channel(2);
    let (pieces, written) = mpsc::channel(2);
    let hand_on = async {
        while let Some(rows) = read.recv().await {
            pieces.send(Piece::Rows(rows)).await.expect("taken");
        }
        pieces.send(Piece::Last).await.expect("taken");
    };
    let (read, written, ()) =
        tokio::join!(from.rows_read(NOW, rows), to.rows_write(written), hand_on);
    read.expect("read");
    written.expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_moves_there_and_back() {
    for seed in seeds(3) {
        eprintln!("DUNLIN_DIFFERENTIAL_SEED={seed}");
        let (here, back) = (tempdir().expect("a folder"), tempdir().expect("a folder"));
        let here = DataFolder::open(here.path()).expect("open").sqlite();
        let back = DataFolder::open(back.path()).expect("open").sqlite();
        let place = Place::create().await;
        Client::alone(on_sqlite(&here), seed).run(500).await;

        let here: Arc<dyn Transfer> = Arc::new(SqliteTransfer::new(here));
        let there: Arc<dyn Transfer> = Arc::new(PostgresTransfer::new(place.open().await));
        move_all(&here, &there).await;
        let rows = read(&here).await;
        assert!(rows.len() > 10, "something to move: {rows:?}");
        assert_eq!(read(&there).await, rows);
        let again: Arc<dyn Transfer> = Arc::new(SqliteTransfer::new(back.clone()));
        move_all(&there, &again).await;
        assert_eq!(read(&again).await, rows);

        let seed = seed.wrapping_add(1);
        let one = Client::alone(on_sqlite(&back), seed).run(300).await;
        let other = Client::alone(postgres(&place).await, seed).run(300).await;
        same(seed, &one, &other);
    }
}
