//! Servers that are absent, refuse, hang, or end connections in the middle of work.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

async fn refused(config: &PostgresConfig) -> String {
    let error = Postgres::open(config).await.err().expect("refused").to_string();
    assert!(!error.contains("secret"), "{error}");
    error
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_named_and_its_password_is_not() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let absent = nobody.local_addr().expect("an address");
    drop(nobody);
    let refusing = proxy::refusing().await;
    for (address, why) in [(absent, "refused"), (refusing, "password authentication failed")] {
        let url = format!("postgres://me:secret@{address}/db");
        let error = refused(&PostgresConfig::new(url)).await;
        assert!(error.contains(&format!("{address}/db")) && error.contains(why), "{error}");
    }
    let mut config = Place::create().await.config();
    config.url += "&dbname=no_such_database";
    let error = refused(&config).await;
    assert!(error.contains("\"no_such_database\" does not exist"), "{error}");
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_refused() {
    let place = Place::create().await;
    drop(place.open().await);
    let mut config = place.config();
    config.url += "%20-c%20default_transaction_read_only%3Don";
    let error = refused(&config).await;
    assert!(error.contains("does not allow writes"), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_waited_for_long() {
    let address = proxy::silent().await;
    let url = format!("postgres://me:secret@{address}/db");
    let deadline = Duration::from_millis(100);
    let error = refused(&PostgresConfig { deadline, ..PostgresConfig::new(url) }).await;
    assert!(error.contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn what_hangs_is_unavailable_until_it_does_not() {
    let place = Place::create().await;
    let config = PostgresConfig { deadline: Duration::from_secs(2), ..place.config() };
    let stores = Stores::on(Postgres::open(&config).await.expect("open"));
    stores.create(&["d"]).await;
    let mut holder = administrator().await;
    let held = holder.transaction().await.expect("begin");
    let lock = format!("LOCK TABLE {0}.twin, {0}.command IN ACCESS EXCLUSIVE MODE", place.schema);
    held.batch_execute(&lock).await.expect("held");
    let (d, rules) = (id("d"), rules());
    let (reported, read, sent) = tokio::join!(
        stores.report("d", 1),
        stores.twins.twin_get(&d),
        stores.queue.command_send("d", command("1"), NOW, &rules),
    );
    for outcome in [reported.map(drop), read.map(drop), sent.map(drop)] {
        let error = outcome.expect_err("it hangs");
        assert!(error.retryable(), "{error:?}");
    }
    // What is locked hinders nobody else.
    stores.devices.identity_get(&id("d")).await.expect("get");
    held.commit().await.expect("released");
    assert_eq!(stores.report("d", 2).await.expect("report"), 2);
}

/// Ends every connection of the hub on these tables; returns how many there were.
async fn kill(place: &Place) -> usize {
    let sql = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
               WHERE application_name = $1";
    administrator().await.query(sql, &[&place.schema]).await.expect("killed").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_that_were_ended_are_not_noticed() {
    let place = Place::create().await;
    let stores = Stores::on(place.open().await);
    stores.create(&["d"]).await;
    for n in 1..20 {
        stores.report("d", n).await.expect("report");
        stores.devices.identity_get(&id("d")).await.expect("get");
        stores.queue.command_send("d", command("1"), NOW, &rules()).await.expect("send");
        assert_ne!(kill(&place).await, 0);
    }
    assert_eq!(stores.report("d", 20).await.expect("report"), 21);
}

/// Each round trip is one message, since a task is not interrupted here while it sends.
#[tokio::test]
async fn only_a_commit_without_an_answer_is_an_error() {
    let place = Place::create().await;
    let cut = Arc::new(proxy::Cut::default());
    let address = proxy::cutting(Arc::clone(&cut)).await;
    let config = by_way_of(&place, address, "sslmode=disable");
    let config = PostgresConfig { connections: 1, ..config };
    let stores = Stores::on(Postgres::open(&config).await.expect("open"));
    stores.create(&["d"]).await;
    let d = id("d");
    // Each of them is prepared, so that a round trip is what it is later.
    assert_eq!(stores.report("d", 1).await.expect("report"), 2);
    cut.at(1, false);
    assert_eq!(stores.report("d", 2).await.expect("tried again"), 3);
    let unanswered = async |committed| {
        cut.at(2, committed);
        let error = stores.report("d", 3).await.expect_err("nobody knows");
        assert!(error.retryable(), "{error:?}");
        stores.report("d", 4).await.expect("report")
    };
    assert_eq!(unanswered(false).await, 4, "it was not done");
    assert_eq!(unanswered(true).await, 6, "it was done");

    stores.devices.identity_get(&d).await.expect("get");
    cut.at(1, false);
    assert!(stores.devices.identity_get(&d).await.expect("tried again").is_some());
    stores.devices.epoch_generation_next().await.expect("next");
    cut.at(1, false);
    let error = stores.devices.epoch_generation_next().await.expect_err("nobody knows");
    assert!(error.retryable(), "{error:?}");
    assert_eq!(stores.devices.epoch_generation_next().await.expect("next"), 2);
}

/// Connections end at random moments while devices report and are sent to: who was told of success
/// has had it, each failure is one that says so, and nobody has to be started anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_connections_end() {
    const DEVICES: [&str; 4] = ["a", "b", "c", "d"];
    let place = Place::create().await;
    let stores = Arc::new(Stores::on(place.open().await));
    stores.create(&DEVICES).await;
    let rules = Arc::new(crate::command_queue::Rules { depth: 100_000, ..rules() });
    let over = Arc::new(AtomicBool::new(false));
    let devices = DEVICES.map(|device| {
        let (stores, over, rules) = (Arc::clone(&stores), Arc::clone(&over), Arc::clone(&rules));
        tokio::spawn(async move {
            let (mut reported, mut sent, mut failed) = (BTreeSet::new(), Vec::new(), 0);
            for n in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                // Few keys, or the twin would become too large.
                let outcome = stores.report(device, n % 100).await;
                match outcome {
                    Ok(version) => drop(reported.insert((n % 100, version))),
                    Err(error) => {
                        assert!(error.retryable(), "{error:?}");
                        failed += 1;
                    }
                }
                let id = command(&n.to_string());
                match stores.queue.command_send(device, id, NOW, &rules).await {
                    Ok(sequence) => sent.push((n.to_string(), sequence)),
                    Err(error) => assert!(error.retryable(), "{error:?}"),
                }
            }
            (device, reported, sent, failed)
        })
    });
    let mut killed = 0;
    while killed < 100 {
        killed += kill(&place).await;
        tokio::task::yield_now().await;
    }
    over.store(true, Ordering::Relaxed);
    let mut acknowledged = 0;
    for device in devices {
        let (device, reported, sent, failed) = device.await.expect("joined");
        let twin = stores.twins.twin_get(&id(device)).await.expect("get").expect("it exists").twin;
        let versions: BTreeSet<_> = reported.iter().map(|(_, version)| *version).collect();
        assert_eq!(versions.len(), reported.len(), "each had a version of its own");
        for (n, _) in &reported {
            assert!(twin.reported.properties.contains_key(&format!("k{n}")), "{device}: {n}");
        }
        assert!(versions.last().is_none_or(|last| *last <= twin.reported.version));
        assert!(twin.reported.version <= 1 + reported.len() as u64 + failed, "no more than asked");
        let tokens = (0..sent.len() as u128 * 2 + 100)
            .map(|n| dunlin_model::command::LockToken::from_bytes(n.to_be_bytes()));
        let queued = stores
            .queue
            .command_lease(device, 1, tokens.collect(), usize::MAX, NOW, &rules)
            .await
            .expect("lease");
        let queued: BTreeSet<_> = queued
            .messages
            .into_iter()
            .map(|one| (one.command.message_id.unwrap_or_default(), one.sequence))
            .collect();
        for message in &sent {
            assert!(queued.contains(message), "{device}: {message:?}");
        }
        acknowledged += reported.len() + sent.len();
    }
    assert_ne!(acknowledged, 0);
}
