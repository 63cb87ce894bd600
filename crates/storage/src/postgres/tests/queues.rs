//! Queues that somebody else changes between a batch's read and its write.

use dunlin_model::Command;
use dunlin_model::command::{Ack, Disposition, LockToken, Outcome};
use tokio::join;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::*;

/// Waits until somebody waits for what `holder` has locked.
async fn until_one_waits_for(holder: &Client) {
    let row = holder.query_one("SELECT pg_backend_pid()", &[]).await.expect("an answer");
    let pid: i32 = row.get(0);
    let waits = "SELECT 1 FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))";
    let watch = administrator().await;
    let waited = async {
        while watch.query(waits, &[&pid]).await.expect("looked").is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, waited).await.expect("somebody waits");
}

/// Longer than anything takes here: who waits for it has failed.
const DEADLINE: Duration = Duration::from_secs(10);

/// Of a batch nothing is done twice, and nothing of it is left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_overtaken_begins_anew_under_locks() {
    let place = Place::create().await;
    let stores = Stores::on(place.open().await);
    stores.create(&["d", "e", "first"]).await;
    let (queue, rules) = (&stores.queue, rules());
    let told = Command { ack: Ack::Full, ..command("told") };
    queue.command_send("d", told, NOW, &rules).await.expect("sent");
    let token = LockToken::from_bytes([1; 16]);
    let lease = queue.command_lease("d", 1, vec![token], usize::MAX, NOW, &rules).await;
    assert_eq!(lease.expect("leased").messages.len(), 1);

    // Somebody is at two queues: of one he changes nothing, of the other the version.
    let table = format!("{}.command_queue WHERE device_id", place.schema);
    let (at_first, at_d) = (administrator().await, administrator().await);
    let sql = format!("BEGIN; SELECT FROM {table} = 'first' FOR UPDATE");
    at_first.batch_execute(&sql).await.expect("held");
    let table = table.replace(" WHERE", " SET epoch = epoch WHERE");
    at_d.batch_execute(&format!("BEGIN; UPDATE {table} = 'd'")).await.expect("held");

    let alone = queue.command_send("first", command("1"), NOW, &rules);
    let together = async {
        until_one_waits_for(&at_first).await;
        let before = stores.trips();
        let tokens = [token];
        let settled = queue.command_settle("d", 1, &tokens, Disposition::Complete, NOW, &rules);
        let sent = queue.command_send("e", command("2"), NOW, &rules);
        let overtake = async {
            // Both wait for the batch before them, and then make up one.
            at_first.batch_execute("COMMIT").await.expect("committed");
            until_one_waits_for(&at_d).await;
            at_d.batch_execute("COMMIT").await.expect("committed");
        };
        let (settled, sent, ()) = join!(settled, sent, overtake);
        assert_eq!(settled.expect("settled").held, [true]);
        assert_eq!(sent.expect("sent"), 1);
        stores.trips() - before
    };
    let (alone, trips) = join!(alone, together);
    assert_eq!(alone.expect("sent"), 1);
    // Read and written in vain, then again.
    assert_eq!(trips, 4);

    // The next batch is careful: it waits for the lock before it reads.
    at_d.batch_execute(&format!("BEGIN; UPDATE {table} = 'd'")).await.expect("held");
    let before = stores.trips();
    let careful = async {
        until_one_waits_for(&at_d).await;
        assert_eq!(stores.trips() - before, 1);
        at_d.batch_execute("COMMIT").await.expect("committed");
    };
    let (count, ()) = join!(queue.command_purge("d", NOW, &rules), careful);
    assert_eq!(count.expect("purged"), 0);

    for (device, messages) in [("d", 0), ("e", 1), ("first", 1)] {
        assert_eq!(queue.command_count(device, NOW, &rules).await.expect("count"), messages);
    }
    let bodies = format!("SELECT device_id FROM {}.command ORDER BY device_id", place.schema);
    let bodies = administrator().await.query(&bodies, &[]).await.expect("read");
    let bodies: Vec<String> = bodies.iter().map(|row| row.get(0)).collect();
    assert_eq!(bodies, ["e", "first"]);
    let feedback = queue.feedback_lease(token, NOW + rules.feedback.batch_age, &rules.feedback);
    let records = feedback.await.expect("lease").expect("a batch").records;
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!((&*record.message_id, record.outcome), ("told", Outcome::Success));
}
