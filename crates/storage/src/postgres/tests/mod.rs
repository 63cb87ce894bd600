//! Tests of opening a database, of what a batch costs, and of faults.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dunlin_model::Identity;
use dunlin_model::twin::{Limits, Report};
use futures_util::future::join_all;
use tokio_postgres::config::Host;

use super::testing::{self, Place, administrator, server};
use super::{Postgres, PostgresConfig, PostgresError, migrations};
use crate::StoreError;
use crate::command_queue::conformance::{NOW, command, rules};
use crate::command_queue::{CommandQueue, PostgresCommandQueue};
use crate::device_store::conformance::sample;
use crate::device_store::{ConnectionReport, DeviceStore, PostgresDeviceStore};
use crate::twin_store::{PostgresTwinStore, TwinStore};

mod faults;
mod processes;
mod proxy;
mod queues;
mod tls;

fn id(joined: &str) -> Identity {
    Identity::parse(joined).expect("an id")
}

/// The tables of `place`, reached at another address.
fn by_way_of(place: &Place, address: SocketAddr, mode: &str) -> PostgresConfig {
    let config = place.config();
    let server: tokio_postgres::Config = server().parse().expect("a URL");
    let Some(Host::Tcp(host)) = server.get_hosts().first() else {
        panic!("a TCP server is needed")
    };
    let there = format!("{host}:{}", server.get_ports().first().expect("its port"));
    assert!(config.url.contains(&there), "{there}");
    let url = format!("{}&{mode}", config.url.replacen(&there, &address.to_string(), 1));
    PostgresConfig { url, ..config }
}

fn report(n: u64) -> Report {
    let patch = format!("{{\"k{n}\":{n}}}");
    Report::read(patch.as_bytes(), None, &Limits::default()).expect("sound")
}

/// The ports on one database.
struct Stores {
    postgres: Postgres,
    devices: Arc<dyn DeviceStore>,
    twins: PostgresTwinStore,
    queue: PostgresCommandQueue,
}

impl Stores {
    fn on(postgres: Postgres) -> Self {
        let devices = Arc::new(PostgresDeviceStore::new(&postgres));
        let twins = PostgresTwinStore::new(&postgres);
        let queue = PostgresCommandQueue::new(&postgres);
        Self { postgres, devices, twins, queue }
    }

    async fn create(&self, ids: &[&str]) {
        for id in ids {
            self.devices.identity_create(sample(id)).await.expect("create");
        }
    }

    /// Version of the reported properties after it.
    async fn report(&self, device: &str, n: u64) -> Result<u64, StoreError> {
        self.twins.twin_report(&id(device), report(n), NOW, &Limits::default()).await
    }

    fn trips(&self) -> u64 {
        self.postgres.round_trips().values().sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_opens_first_migrates_for_all() {
    let place = Place::create().await;
    let openers = join_all((0..8).map(|_| tokio::spawn(open_by(place.config()))));
    for opened in openers.await {
        opened.expect("joined").expect("open");
    }
    let sql = format!("SELECT version FROM {}.schema_version ORDER BY version", place.schema);
    let steps = administrator().await.query(&sql, &[]).await.expect("steps");
    let steps: Vec<i64> = steps.iter().map(|row| row.get(0)).collect();
    assert_eq!(steps, (1..=migrations::known() as i64).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_older_schema_is_migrated_with_what_it_holds() {
    let place = Place::create().await;
    let old = administrator().await;
    let first = migrations::MIGRATIONS[0];
    let sql = format!(
        "SET search_path = {}; {first}
         CREATE TABLE schema_version (version bigint PRIMARY KEY, made timestamptz);
         INSERT INTO schema_version VALUES (1);
         INSERT INTO identity VALUES ('d', '', 'g', 'e', 'enabled', NULL, 5, 'sas', '', NULL, 7,
             false, NULL, '', NULL);
         INSERT INTO device_state VALUES ('d', '', 'g', 5, true, 1, 1)",
        place.schema
    );
    old.batch_execute(&sql).await.expect("schema 1");
    let stores = Stores::on(place.open().await);
    let device = stores.devices.identity_get(&id("d")).await.expect("get").expect("it is there");
    assert_eq!((device.generation_id.as_str(), device.auth_version), ("g", 7));
    // Step 3 knows nobody who held a connection: it is ended as a dead node's would be.
    assert_eq!(stores.devices.node_list().await.expect("list"), [""]);
    assert_eq!(stores.devices.node_end("", 9, 9).await.expect("end"), 1);
    // Step 2 gives a queue to who was there before.
    stores.queue.command_send("d", command("1"), NOW, &rules()).await.expect("send");
}

#[tokio::test]
async fn a_newer_schema_is_refused_untouched() {
    let place = Place::create().await;
    drop(place.open().await);
    let sql = format!("INSERT INTO {}.schema_version VALUES (99)", place.schema);
    administrator().await.batch_execute(&sql).await.expect("a newer version");
    let error = Postgres::open(&place.config()).await.err().expect("refused");
    assert!(matches!(error, PostgresError::Newer { found: 99, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("schema 99") && text.contains("run that version"), "{text}");
}

/// What a caller who is alone waits for.
#[tokio::test]
async fn an_operation_takes_as_many_round_trips_as_it_says() {
    let stores = Stores::on(testing::open().await);
    stores.create(&["d"]).await;
    let d = id("d");
    let connected = || ConnectionReport::State {
        id: id("d"),
        generation_id: "generation of d".into(),
        epoch: 5,
        state: dunlin_model::ConnectionState { connected: true, updated: 1, last_activity: 1 },
        node: "n".into(),
    };
    let tokens = || vec![dunlin_model::command::LockToken::from_bytes([7; 16])];
    let mut before = stores.trips();
    let mut took = |what: &str, want: u64| {
        let now = stores.trips();
        assert_eq!(now - before, want, "{what}: {:?}", stores.postgres.round_trips());
        before = now;
    };
    stores.devices.identity_get(&d).await.expect("get");
    took("connect: the identity", 1);
    stores.devices.connections_record(vec![connected()]).await.expect("record");
    took("connect: its state", 2);
    stores.devices.connections_record(vec![connected()]).await.expect("record");
    took("what is known already", 2);
    stores.devices.node_list().await.expect("list");
    took("reaper: a look", 1);
    assert_eq!(stores.devices.node_end("n", 9, 9).await.expect("end"), 1);
    took("reaper: a piece", 1);
    stores.report("d", 1).await.expect("report");
    took("reported patch", 2);
    stores.twins.twin_get(&d).await.expect("get");
    took("twin", 1);
    let lease = async || {
        stores
            .queue
            .command_lease("d", 5, tokens(), usize::MAX, NOW, &rules())
            .await
            .expect("lease")
    };
    assert!(lease().await.messages.is_empty());
    took("C2D: nothing queued", 1);
    stores.queue.command_send("d", command("1"), NOW, &rules()).await.expect("send");
    took("C2D: send", 2);
    assert_eq!(lease().await.messages.len(), 1);
    took("C2D: take", 2);
    let complete = dunlin_model::command::Disposition::Complete;
    let settled = stores.queue.command_settle("d", 5, &tokens(), complete, NOW, &rules()).await;
    assert_eq!(settled.expect("settle").held, [true]);
    took("C2D: complete", 2);
    stores.queue.command_release("d", 5, true, NOW, &rules()).await.expect("release");
    took("C2D: release, nothing held", 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_shares_a_transaction() {
    let place = Place::create().await;
    let stores = Stores::on(place.open().await);
    stores.create(&["d"]).await;
    // While somebody else holds the row, calls gather.
    let mut holder = administrator().await;
    let held = holder.transaction().await.expect("begin");
    let lock = format!("SELECT 1 FROM {}.twin FOR UPDATE", place.schema);
    held.execute(&lock, &[]).await.expect("held");
    let before = stores.trips();
    let calls = join_all((0..100).map(|n| stores.report("d", n)));
    let stale = Report::read(b"{}", Some(999), &Limits::default()).expect("sound");
    let (d, limits) = (id("d"), Limits::default());
    let refused = stores.twins.twin_report(&d, stale, NOW, &limits);
    let release = async { held.commit().await.expect("released") };
    let (versions, refused, ()) = tokio::join!(calls, refused, release);
    assert!(matches!(refused, Err(StoreError::Refused(_))), "a refusal is one caller's");
    let mut versions: Vec<u64> = versions.into_iter().map(|one| one.expect("report")).collect();
    versions.sort_unstable();
    assert_eq!(versions, (2..=101).collect::<Vec<_>>());
    let trips = stores.trips() - before;
    assert!(trips <= 4, "two batches at most, not {trips} round trips");
}

async fn open_by(config: PostgresConfig) -> Result<Postgres, PostgresError> {
    Postgres::open(&config).await
}
