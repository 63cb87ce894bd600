//! MQTT over WebSocket: the same head as on 8883, with the same bounds. What differs is in
//! `websocket_handshake` and `websocket_frames`.

use dunlin::test_hub::TestHub;
use dunlin_runtime::Role;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::hostile_kit::Prey;
use crate::mqtt_kit::{Device, Door, beside, bodies, deliver, events, everything};
use crate::raw::{self, DISCONNECT, PINGREQ, PINGRESP, connack, puback, publish};
use crate::websocket_kit::{BINARY, PING, PONG, TARGET, Ws, frame, handshake};

scenario!(a_device);
async fn a_device(hub: &TestHub) {
    let (door, device) = (Door::websocket(hub), Device::create(hub, "d").await);
    let module = Device::create(hub, "d/m").await;
    // A will is published unless the device says DISCONNECT, as everywhere.
    let mut connect = device.connect();
    connect.will = Some(device.will(b"the will"));
    let mut raw = door.enter(&connect).await;
    raw.expect_alive().await;
    raw.send(&raw::subscribe(9, &[("$iothub/nothing/#", 1)])).await;
    raw.expect(&[0x90, 3, 0, 9, 0x80]).await;
    deliver(&mut raw, &device, b"one").await;
    raw.send(&publish(0, &device.topic("a=b"), 0, b"two")).await;
    deliver(&mut door.enter(&module.connect()).await, &module, b"a module's").await;
    raw.expect_alive().await;
    raw.abandon();
    let stored = events(hub, "d", 4).await;
    let mut stored = bodies(&stored);
    stored.sort();
    assert_eq!(stored, ["a module's", "one", "the will", "two"]);

    let mut raw = door.enter(&connect).await;
    raw.send(&DISCONNECT).await;
    raw.expect_close().await;
    assert_eq!(everything(hub, &Door::of(hub), &device).await.len(), 4);
}

scenario!(who_is_refused);
async fn who_is_refused(hub: &TestHub) {
    let (door, device) = (Door::websocket(hub), Device::create(hub, "d").await);
    door.refuses(&device.connect_with("nonsense"), 5).await;
    door.refuses(&device.connect_with(&device.token_until(1)), 5).await;
    let mut old = device.connect();
    old.level = 3;
    door.refuses(&old, 1).await;
    door.ignores(&PINGREQ).await;
    let mut raw = door.enter(&device.connect()).await;
    raw.send(&device.connect().bytes()).await;
    raw.expect_close().await;
    // With the reason, as far as WebSocket has one.
    let mut ws = Ws::open(&door).await;
    ws.send(&frame(BINARY, &device.connect_with("nonsense").bytes())).await;
    ws.expect(BINARY, &connack(5)).await;
    ws.expect_close(1008, "refused").await;
    let mut ws = Ws::open(&door).await;
    ws.send(&frame(BINARY, &device.connect().bytes())).await;
    ws.expect(BINARY, &connack(0)).await;
    ws.send(&frame(BINARY, &publish(raw::QOS1, "elsewhere", 1, b""))).await;
    ws.expect_close(1008, "a violation").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_hub_says_that_it_goes() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::websocket(&hub), Device::create(&hub, "d").await);
    let mut ws = Ws::open(&door).await;
    ws.send(&frame(BINARY, &device.connect().bytes())).await;
    ws.expect(BINARY, &connack(0)).await;
    ws.send(&frame(BINARY, &device.message(1, b"before the end"))).await;
    ws.expect(BINARY, &puback(1)).await;
    let stopping = tokio::spawn(hub.stop());
    ws.expect_close(1001, "a drain").await;
    stopping.await.expect("stopped");
}

/// Until it has sent its CONNECT a WebSocket has a second here, and room for four.
#[tokio::test]
async fn who_does_not_come_to_connect_makes_room() {
    let hub = TestHub::all_in_one().await;
    let log = hub.stores().events.clone();
    let small = beside(&hub, &Role::ALL, log.clone(), |config| {
        config.gateway.workers = 1;
        config.gateway.max_unfinished = 4;
    })
    .await;
    let device = Device::create(&hub, "d").await;
    let door = Door::websocket_at(&hub, small.gateway.expect("a gateway").https);
    let mut connected = door.enter(&device.connect()).await;
    let (gone, all_gone) = watch::channel(());
    let mut silent = JoinSet::new();
    for _ in 0..20 {
        let (mut ws, mut all_gone) = (Ws::open(&door).await, all_gone.clone());
        silent.spawn(async move {
            tokio::select! {
                end = ws.frame() => {
                    assert_eq!(end, None);
                    "gone"
                }
                told = all_gone.changed() => {
                    told.expect("told");
                    ws.send(&frame(PING, b"there?")).await;
                    ws.expect(PONG, b"there?").await;
                    "alive"
                }
            }
        });
    }
    // They are let in as they come, but for those that come within the same millisecond: which four
    // stay is not said.
    for _ in 0..16 {
        assert_eq!(silent.join_next().await.expect("a task").expect("no panic"), "gone");
    }
    gone.send(()).expect("four are left");
    for _ in 0..4 {
        assert_eq!(silent.join_next().await.expect("a task").expect("no panic"), "alive");
    }
    connected.expect_alive().await;
    small.stop().await;

    let impatient = beside(&hub, &Role::ALL, log, |config| {
        config.gateway.workers = 1;
        config.gateway.mqtt_connect_seconds = 1;
        // Neither is a device's bound any more.
        config.gateway.http_head_seconds = 1;
        config.gateway.max_https = 1;
    })
    .await;
    let door = Door::websocket_at(&hub, impatient.gateway.expect("a gateway").https);
    let mut connected = door.enter(&device.connect()).await;
    let other = Device::create(&hub, "other").await;
    let mut too = door.enter(&other.connect()).await;
    let connect = device.connect().bytes();
    for sent in [&b""[..], &connect[..20]] {
        let mut ws = Ws::open(&door).await;
        ws.send(&frame(BINARY, sent)).await;
        ws.expect_close(1008, "no CONNECT in time").await;
    }
    connected.expect_alive().await;
    too.expect_alive().await;
    impatient.stop().await;
    hub.stop().await;
}

/// Pings whose answers nobody takes cost the hub no memory, and nobody else anything.
#[tokio::test]
async fn pings_without_end() {
    let prey = Prey::start(&[]).await;
    let (pinger, other) = (prey.create_device("pinger").await, prey.create_device("other").await);
    let place = prey.place();
    let stream = raw::open_tls(place.https, &place.tls).await.expect("TLS");
    let mut ws = Ws::over(stream);
    ws.send(handshake(TARGET, &[]).as_bytes()).await;
    assert_eq!(ws.answer().await.status, 101);
    ws.send(&frame(BINARY, &pinger.connect().bytes())).await;
    ws.expect(BINARY, &connack(0)).await;
    let before = prey.resident();
    let pings = frame(PING, &[b'p'; 125]).repeat(1_000);
    // 64 MiB, far more than the kernel holds for a reader that does not read.
    for _ in 0..512 {
        ws.send(&pings).await;
    }
    let (mut raw, _) = other.enter().await;
    other.deliver(&mut raw, b"undisturbed").await;
    let grown = prey.resident().saturating_sub(before);
    eprintln!("pings without end: {before} MiB, {grown} MiB more");
    assert!(grown < 24, "{grown} MiB");
    // It may read on: what was answered is there, and the connection lives.
    ws.send(&frame(BINARY, &PINGREQ)).await;
    loop {
        match ws.frame().await.expect("answers") {
            (PONG, payload) => assert_eq!(payload, [b'p'; 125]),
            answer => break assert_eq!(answer, (BINARY, PINGRESP.to_vec())),
        }
    }
    prey.stop().await;
}
