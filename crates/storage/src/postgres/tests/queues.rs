//! Queues whose messages are in one row: how old ones come there, and who is overtaken.

use dunlin_model::command::{Disposition, LockToken, Outcome};

use super::*;
use crate::command_queue::{Leased, Swept};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

fn token(n: u8) -> LockToken {
    LockToken::from_bytes([n; 16])
}

async fn lease(stores: &Stores, epoch: u64, first: u8, now: i64) -> Vec<Leased> {
    let (tokens, rules) = ((first..first + 9).map(token).collect(), rules());
    let lease = stores.queue.command_lease("d", epoch, tokens, usize::MAX, now, &rules);
    lease.await.expect("lease").messages
}

async fn complete(stores: &Stores, epoch: u64, token: LockToken, now: i64) -> bool {
    let done = Disposition::Complete;
    let settled = stores.queue.command_settle("d", epoch, &[token], done, now, &rules()).await;
    settled.expect("settle").held == [true]
}

#[tokio::test]
async fn messages_of_an_older_schema_are_what_they_were() {
    let place = Place::create().await;
    let old = administrator().await;
    let steps = migrations::MIGRATIONS[..3].concat();
    // The first is locked, and its id has U+0000 in it; the second is to be had.
    let sql = format!(
        "SET search_path = {}; {steps}
         CREATE TABLE schema_version (version bigint PRIMARY KEY, made timestamptz);
         INSERT INTO schema_version VALUES (3);
         INSERT INTO command_queue VALUES ('d', 'g', 7, 4), ('e', 'g', 0, 0);
         INSERT INTO command VALUES
             ('d', 6, E'a\\x01\\x01', 'c', 'u', 't', 'e', 'full', '[[\"k\",\"v\"]]', 30, {NOW},
                 {expires}, {NOW} + 5, 1, '\\x09090909090909090909090909090909', 4, 'one'),
             ('d', 7, NULL, NULL, NULL, NULL, NULL, 'none', '[]', 3, {NOW}, {expires}, {expires}, 0,
                 NULL, NULL, 'two')",
        place.schema,
        expires = NOW + HOUR,
    );
    old.batch_execute(&sql).await.expect("schema 3");
    let stores = Stores::on(place.open().await);
    let second = lease(&stores, 4, 1, NOW).await;
    assert_eq!(second.iter().map(|one| one.sequence).collect::<Vec<_>>(), [7]);
    assert!(complete(&stores, 4, second[0].token, NOW).await);
    // Who has the newer connection takes back what the older one holds.
    let first = lease(&stores, 5, 1, NOW).await;
    let [Leased { command, sequence: 6, delivery_count: 2, enqueued: NOW, .. }] = &first[..] else {
        panic!("{first:?}")
    };
    assert_eq!(command.message_id.as_deref(), Some("a\0"));
    assert_eq!((command.expires, &*command.body), (Some(NOW + HOUR), &b"one"[..]));
    assert_eq!(command.properties, [("k".to_owned(), "v".to_owned())]);
    assert!(complete(&stores, 5, first[0].token, NOW).await);
    let rules = rules().feedback;
    let told = stores.queue.feedback_lease(token(1), NOW + MINUTE, &rules).await.expect("lease");
    let record = &told.expect("a batch").records[0];
    assert_eq!((&*record.message_id, record.outcome), ("a\0", Outcome::Success));
    assert_eq!(stores.queue.command_count("d", NOW, &super::rules()).await.expect("count"), 0);
    assert_eq!(stores.queue.command_count("e", NOW, &super::rules()).await.expect("count"), 0);
}

/// Somebody else writes between the read and the write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_overtaken_begins_anew_under_locks() {
    let place = Place::create().await;
    let stores = Stores::on(place.open().await);
    stores.create(&["d", "e"]).await;
    let mut other = administrator().await;
    let faster = other.transaction().await.expect("begin");
    let sql =
        format!("UPDATE {}.command_queue SET sequence = 5 WHERE device_id = 'd'", place.schema);
    faster.execute(&sql, &[]).await.expect("held");
    let before = stores.trips();
    let rules = rules();
    let sent = stores.queue.command_send("d", command("1"), NOW, &rules);
    let overtake = async {
        let waits = "SELECT 1 FROM pg_stat_activity WHERE application_name = $1
                         AND wait_event_type = 'Lock'";
        let watch = administrator().await;
        while watch.query(waits, &[&place.schema]).await.expect("looked").is_empty() {
            tokio::task::yield_now().await;
        }
        faster.commit().await.expect("committed");
    };
    let (sent, ()) = tokio::join!(sent, overtake);
    assert_eq!(sent.expect("sent"), 6);
    assert_eq!(stores.trips() - before, 4);
    assert_eq!(lease(&stores, 1, 1, NOW).await.len(), 1);
}

/// `due` is put off where somebody looks, and not before.
#[tokio::test]
async fn a_look_that_was_in_vain_is_not_taken_again() {
    let place = Place::create().await;
    let stores = Stores::on(place.open().await);
    stores.create(&["d", "e"]).await;
    for device in ["d", "e"] {
        stores.queue.command_send(device, command("1"), NOW, &rules()).await.expect("send");
    }
    let leased = lease(&stores, 1, 1, NOW).await;
    assert!(complete(&stores, 1, leased[0].token, NOW).await);
    let due = format!("SELECT due FROM {}.command_queue ORDER BY device_id", place.schema);
    let due = async || -> Vec<i64> {
        let rows = administrator().await.query(&due, &[]).await.expect("read");
        rows.iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(due().await, [NOW + MINUTE, NOW + HOUR]);
    let swept = stores.queue.command_sweep(9, NOW + MINUTE, &rules()).await.expect("sweep");
    assert_eq!(swept, Swept::default());
    assert_eq!(due().await, [i64::MAX, NOW + HOUR]);
}
