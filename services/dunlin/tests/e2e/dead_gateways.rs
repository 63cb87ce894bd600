//! Gateways that die, or stand still, with devices connected: what is shown of these. Two whole hubs
//! in processes of their own share one Postgres and one Redis, as replicas do.

use std::path::Path;
use std::time::Duration;

use dunlin::client::Client;
use dunlin::test_hub::Setup;
use dunlin_auth::ConnectionString;
use dunlin_storage::testing;
use tempfile::TempDir;

use crate::kill;
use crate::mqtt_kit::{Device, Door};
use crate::process::Hub;
use crate::raw::{Raw, connack};
use crate::registry_connections::until;
use crate::servers_kit::Servers;

/// Its lease must end, and be seen gone for as long again.
const DEAD: Duration = Duration::from_secs(60);

struct Cluster {
    place: testing::Place,
    one: Hub,
    other: Hub,
    _folders: [TempDir; 2],
}

impl Cluster {
    /// The registry of `one` is there first: it is the one that looks for the dead.
    async fn start() -> Self {
        let place = testing::Place::create().await;
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let one = start(&place, folders[0].path()).await;
        let other = start(&place, folders[1].path()).await;
        Self { place, one, other, _folders: folders }
    }
}

async fn start(place: &testing::Place, folder: &Path) -> Hub {
    let (postgres, redis) = (place.postgres(), place.redis());
    let settings = [
        ("DUNLIN__STORES__DEVICES", &*postgres),
        ("DUNLIN__STORES__PRESENCE", &*redis),
        ("DUNLIN__MESH__LISTEN", "127.0.0.1:0"),
        ("DUNLIN_MASTER_KEY", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="),
    ];
    Hub::start_with(folder, &settings).await
}

async fn enter(hub: &Hub, device: &ConnectionString) -> Raw {
    kill::Place::of(hub).enter(device, connack(0)).await.expect("let in")
}

async fn state(client: &Client, device: &str) -> String {
    let shown = client.device_get(device).await.expect("found");
    shown["connectionState"].as_str().expect("text").to_owned()
}

/// Asks until the device is shown so.
async fn shown(client: &Client, device: &str, want: &str) {
    let asked = async {
        let mut look = tokio::time::interval(Duration::from_millis(100));
        while state(client, device).await != want {
            look.tick().await;
        }
    };
    let late = format!("{device} is not shown as {want}");
    tokio::time::timeout(DEAD, asked).await.expect(&late);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_devices_of_a_killed_gateway_are_disconnected() {
    let Cluster { place, one, other, _folders } = Cluster::start().await;
    let client = other.client();
    let [a, b, moved, elsewhere] = ["a", "b", "moved", "elsewhere"];
    let mut logins = Vec::new();
    for device in [a, b, moved, elsewhere] {
        logins.push(other.create_device(device).await);
    }
    let _raw = [
        enter(&one, &logins[0]).await,
        enter(&one, &logins[1]).await,
        enter(&one, &logins[2]).await,
    ];
    let mut stays = enter(&other, &logins[3]).await;
    for device in [a, b, moved, elsewhere] {
        shown(&client, device, "Connected").await;
    }
    one.kill().await;
    let mut moves = enter(&other, &logins[2]).await;
    // The one that looked for the dead has died, too: the other takes over.
    for device in [a, b] {
        shown(&client, device, "Disconnected").await;
    }
    for (device, raw) in [(moved, &mut moves), (elsewhere, &mut stays)] {
        assert_eq!(state(&client, device).await, "Connected", "{device}");
        raw.expect_alive().await;
    }
    let _again = enter(&other, &logins[0]).await;
    shown(&client, a, "Connected").await;
    other.stop().await;
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stood_still_has_its_devices_back() {
    let Cluster { place, one, other, _folders } = Cluster::start().await;
    let client = other.client();
    let staying = other.create_device("stays").await;
    let moving = other.create_device("moves").await;
    let (mut stays, mut former) = (enter(&one, &staying).await, enter(&one, &moving).await);
    for device in ["stays", "moves"] {
        shown(&client, device, "Connected").await;
    }
    one.signal("STOP").await;
    for device in ["stays", "moves"] {
        shown(&client, device, "Disconnected").await;
    }
    let mut later = enter(&other, &moving).await;
    shown(&client, "moves", "Connected").await;
    one.signal("CONT").await;
    shown(&client, "stays", "Connected").await;
    stays.expect_alive().await;
    former.expect_close().await;
    assert_eq!(state(&client, "moves").await, "Connected", "by its later connection");
    later.expect_alive().await;
    one.stop().await;
    shown(&client, "stays", "Disconnected").await;
    other.stop().await;
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_of_redis_disconnects_nobody() {
    let (servers, hub) = Servers::start(Setup::two_gateways()).await;
    let mut connected = Vec::new();
    for (n, address) in hub.mqtt_addrs().into_iter().enumerate() {
        let device = Device::create(&hub, &format!("d{n}")).await;
        connected.push(Door::at(&hub, address).enter(&device.connect()).await);
    }
    for device in ["d0", "d1"] {
        until(&hub, device, "Connected").await;
    }
    for _ in 0..3 {
        // Just when a gateway has said that it lives, so that the next look finds that it does not.
        servers.more("node_renew", 1).await;
        let (restored, looked) = (servers.more("restore", 2), servers.more("node_lives", 2));
        servers.place.remove_keys().await.expect("flushed");
        tokio::join!(restored, looked);
    }
    // So many looks, two nodes each, are longer than a lease.
    servers.more("node_lives", 2 * 6).await;
    for (device, raw) in ["d0", "d1"].into_iter().zip(&mut connected) {
        until(&hub, device, "Connected").await;
        raw.expect_alive().await;
    }
    assert!(!servers.trips()[0].contains_key("node_end"), "nobody was taken for dead");
    servers.stop(hub).await;
}
