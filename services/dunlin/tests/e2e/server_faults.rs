//! Servers that are killed below a hub, and come back: who is connected stays so, and of what was
//! acknowledged nothing is lost.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dunlin::client::CommandMessage;
use dunlin::test_hub::{Setup, TestHub};
use dunlin_storage::testing::{Place, kafka, postgres, redis};
use futures_util::future::join_all;
use reqwest::header::HeaderMap;
use tokio::time::timeout;

use crate::method_kit::{answer, call, called, clean, invoke, take_methods};
use crate::mqtt_commands::{acknowledge, listen};
use crate::mqtt_kit::{Device, Door, bodies, deliver, everything};
use crate::mqtt_twin::{ANSWERS, Told, report};
use crate::raw::{Raw, connack, puback, subscribe, within};
use crate::servers_kit::hub_on;

/// Devices a gateway.
const DEVICES: usize = 5;
/// How long a device waits for its PUBACK.
const GIVES_UP: Duration = Duration::from_secs(5);
/// In which a server that was started again must be in use: clients look for a broker every ten
/// seconds at least.
const BACK: Duration = Duration::from_secs(60);

async fn create(hub: &TestHub, count: usize) -> Vec<Device> {
    let mut devices = Vec::new();
    for n in 0..count {
        devices.push(Device::create(hub, &format!("d{n}")).await);
    }
    devices
}

async fn send(hub: &TestHub, device: &Device, body: &str) {
    let command = CommandMessage { headers: HeaderMap::new(), body: body.into() };
    hub.client().c2d_send(&device.id, command).await.expect("sent");
}

/// Redis keeps nothing on disk: it comes back empty, as another run.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_connected_stays_so_when_redis_is_killed() {
    let place = Place::create().await;
    let mut redis = redis::Server::start().await;
    let (devices, events) = (place.postgres(), place.kafka());
    let hub = hub_on(Setup::two_gateways(), &devices, &events, &redis.url()).await;
    let mut connected = Vec::new();
    let devices = create(&hub, 2 * DEVICES).await;
    for (device, address) in devices.into_iter().zip(hub.mqtt_addrs().into_iter().cycle()) {
        let mut raw = Door::at(&hub, address).enter(&clean(&device)).await;
        take_methods(&mut raw).await;
        listen(&mut raw, &device, 1).await;
        connected.push((device, raw));
    }
    redis.kill();
    for (device, raw) in &mut connected {
        deliver(raw, device, b"nobody needs Redis for this").await;
        // Nobody can tell the device of it now.
        send(&hub, device, "meanwhile").await;
    }
    redis.start_again().await;
    for (device, _) in &connected {
        // Between its coming back and its being told who is where, nobody seems connected.
        send(&hub, device, "behind").await;
    }
    for (device, raw) in &mut connected {
        for want in ["meanwhile", "behind"] {
            let message = raw.published().await;
            assert_eq!(message.text(), want, "{}", device.id);
            acknowledge(raw, &message).await;
        }
        // Its gateway has said by now who is there.
        let invoked = invoke(&hub.client(), &device.id, call("reboot", 0, "1"));
        let rid = called(raw).await.rid;
        raw.send(&answer(200, &rid, "2")).await;
        within("a method", invoked).await.expect("a task").expect("answered");
        raw.expect_alive().await;
    }
    hub.stop().await;
    place.remove().await;
}

/// What devices were told of, and when to stop.
#[derive(Default)]
struct Progress {
    acked: AtomicU64,
    over: AtomicBool,
}

impl Progress {
    /// Waits until so much more is acknowledged.
    async fn more(&self, more: u64) {
        let want = self.acked.load(Ordering::Relaxed) + more;
        let mut look = tokio::time::interval(Duration::from_millis(1));
        let reached = async {
            while self.acked.load(Ordering::Relaxed) < want {
                look.tick().await;
            }
        };
        timeout(BACK, reached).await.expect("acknowledgements");
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }
}

/// Does `work` with a connection of the device, and again with another one when that ends, until it
/// is enough. A connection that is refused while a server is away is asked for again.
async fn again(
    door: &Door,
    device: &Device,
    progress: &Progress,
    mut work: impl AsyncFnMut(Raw) -> io::Result<()>,
) {
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    while progress.goes_on() {
        pause.tick().await;
        let mut raw = door.say(&clean(device).bytes()).await;
        if raw.packet().await.is_ok_and(|answer| answer == connack(0)) {
            // It ends by itself, or with its connection.
            let _ = work(raw).await;
        }
    }
}

/// Reports until it is enough: of each key the last value with a 204, and the last that was asked for.
async fn report_all(
    door: &Door,
    device: &Device,
    progress: &Progress,
) -> BTreeMap<String, (Option<u64>, u64)> {
    let (mut next, mut kept) = (0, BTreeMap::new());
    again(door, device, progress, async |mut raw| {
        raw.try_send(&subscribe(1, &[(ANSWERS, 0)])).await?;
        raw.packet().await?;
        while progress.goes_on() {
            next += 1;
            // Few keys, or the twin would become too large.
            let key = format!("k{}", next % 50);
            let (acked, asked) = kept.entry(key.clone()).or_insert((None, next));
            *asked = next;
            raw.try_send(&report(&next.to_string(), &format!(r#"{{"{key}":{next}}}"#))).await?;
            let told = Told::read(&raw.packet().await?);
            let (status, rid, _) = told.answer().expect("an answer");
            assert_eq!(rid, next.to_string());
            if status == 204 {
                *acked = Some(next);
                progress.acked.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    })
    .await;
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_patch_is_lost_when_postgres_crashes() {
    let place = Place::create().await;
    let mut postgres = postgres::Server::start().await;
    let (events, presence) = (place.kafka(), place.redis());
    let hub = hub_on(Setup::all_in_one(), &postgres.url(), &events, &presence).await;
    let (door, progress) = (Door::of(&hub), Progress::default());
    let devices = create(&hub, DEVICES).await;
    let reporting = join_all(devices.iter().map(|device| report_all(&door, device, &progress)));
    let crashing = async {
        for _ in 0..3 {
            progress.more(100).await;
            postgres.crash();
            postgres.start_again().await;
        }
        progress.more(100).await;
        progress.over.store(true, Ordering::Relaxed);
    };
    let (reported, ()) = tokio::join!(reporting, crashing);
    for (device, reported) in devices.iter().zip(reported) {
        let twin = hub.client().twin_get(&device.id).await.expect("its twin");
        for (key, (acked, asked)) in reported {
            let stored = twin["properties"]["reported"][&key].as_u64();
            assert!(stored >= acked && stored <= Some(asked), "{key}: {acked:?}, then {stored:?}");
        }
    }
    hub.stop().await;
    place.remove().await;
}

/// Publishes until it is enough; what was acknowledged.
async fn publish_all(door: &Door, device: &Device, progress: &Progress) -> Vec<u64> {
    let (mut next, mut acked) = (0, Vec::new());
    again(door, device, progress, async |mut raw| {
        while progress.goes_on() {
            next += 1;
            raw.try_send(&device.message(7, next.to_string().as_bytes())).await?;
            // As devices do, it tries another connection when it has waited for long.
            assert_eq!(timeout(GIVES_UP, raw.packet()).await??, puback(7));
            acked.push(next);
            progress.acked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })
    .await;
    acked
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_message_is_lost_when_a_broker_is_killed() {
    let place = Place::create().await;
    let mut broker = kafka::Broker::start().await;
    let (devices, presence) = (place.postgres(), place.redis());
    let hub = hub_on(Setup::all_in_one(), &devices, &broker.url(), &presence).await;
    let (door, progress) = (Door::of(&hub), Progress::default());
    let devices = create(&hub, DEVICES).await;
    let publishing = join_all(devices.iter().map(|device| publish_all(&door, device, &progress)));
    let killing = async {
        progress.more(200).await;
        broker.kill();
        broker.start_again().await;
        progress.more(200).await;
        progress.over.store(true, Ordering::Relaxed);
    };
    let (acked, ()) = tokio::join!(publishing, killing);
    for (device, acked) in devices.iter().zip(acked) {
        let stored = bodies(&everything(&hub, &door, device).await);
        let stored: Vec<u64> = stored.iter().map(|body| body.parse().expect("a number")).collect();
        assert!(stored.is_sorted_by(|a, b| a < b), "{}: in order, each once", device.id);
        let lost: Vec<_> = acked.iter().filter(|n| stored.binary_search(n).is_err()).collect();
        assert!(lost.is_empty(), "{}: {lost:?}", device.id);
    }
    hub.stop().await;
    place.remove().await;
}
