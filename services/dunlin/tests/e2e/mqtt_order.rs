//! Order: of acknowledgements, of one device's messages in the log, and the inbound window.

use std::sync::Arc;

use dunlin::test_hub::TestHub;
use dunlin_runtime::Role;

use crate::mqtt_kit::{Device, Door, beside, bodies, deliver, door_beside, events};
use crate::mqtt_log::{Faults, FaultyLog};
use crate::raw::{Raw, puback, publish, subscribe};

/// `count` messages of QoS 1 in one stream, numbered from `from` in their bodies.
fn numbered(device: &Device, from: u16, count: u16) -> Vec<u8> {
    (from..from + count).flat_map(|n| device.message(n, n.to_string().as_bytes())).collect()
}

async fn expect_acks(raw: &mut Raw, from: u16, count: u16) {
    for n in from..from + count {
        raw.expect(&puback(n)).await;
    }
}

fn numbers(count: u16) -> Vec<String> {
    (1..=count).map(|n| n.to_string()).collect()
}

scenario!(acks_come_in_order);
async fn acks_come_in_order(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    // A thousand are written before the first acknowledgement is read.
    raw.send(&numbered(&device, 1, 1_000)).await;
    expect_acks(&mut raw, 1, 1_000).await;
    raw.expect_alive().await;
    // Packet ids in no order, sizes from nothing to many TLS records, QoS 0 in between.
    let ids = [65_535, 3, 1, 40_000, 2, 65_534, 77];
    let mut bytes = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        bytes.extend(device.message(*id, &vec![b'x'; (n % 3) * 40_000]));
        bytes.extend(publish(0, &device.topic(""), 0, b"y"));
    }
    raw.send(&bytes).await;
    for id in ids {
        raw.expect(&puback(id)).await;
    }
    raw.expect_alive().await;
}

scenario!(a_devices_order_is_kept);
async fn a_devices_order_is_kept(hub: &TestHub) {
    let door = Door::of(hub);
    let mut devices = tokio::task::JoinSet::new();
    for id in ["a", "b", "c", "b/m"] {
        let device = Device::create(hub, id).await;
        let door = door.clone();
        devices.spawn(async move {
            let mut raw = door.enter(&device.connect()).await;
            for from in (1..=400).step_by(100) {
                raw.send(&numbered(&device, from, 100)).await;
            }
            expect_acks(&mut raw, 1, 400).await;
        });
    }
    while let Some(done) = devices.join_next().await {
        done.expect("sent");
    }
    for id in ["a", "c"] {
        assert_eq!(bodies(&events(hub, id, 400).await), numbers(400), "{id}");
    }
    // A module's messages are between its device's, and each keep their order.
    let (of_module, of_device): (Vec<_>, Vec<_>) = events(hub, "b", 800)
        .await
        .into_iter()
        .partition(|event| event.header("$.iothub-connection-module-id").is_some());
    assert_eq!(bodies(&of_module), numbers(400));
    assert_eq!(bodies(&of_device), numbers(400));
}

scenario!(a_packet_id_is_free_after_its_ack);
async fn a_packet_id_is_free_after_its_ack(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    for n in 1..=3 {
        raw.send(&device.message(1, n.to_string().as_bytes())).await;
        raw.expect(&puback(1)).await;
    }
    // Nor does the hub mind one that is in use: each is a message, and gets its answer.
    raw.send(&[device.message(1, b"4"), device.message(1, b"5")].concat()).await;
    raw.expect(&puback(1)).await;
    raw.expect(&puback(1)).await;
    assert_eq!(bodies(&events(hub, "d", 5).await), numbers(5));
}

scenario!(who_does_not_read_is_not_read_from);
async fn who_does_not_read_is_not_read_from(hub: &TestHub) {
    const MANY: u16 = 150;
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let other = Device::create(hub, "other").await;
    let mut other_raw = door.enter(&other.connect()).await;
    // Each is answered with 75,000 bytes: together more than sockets hold.
    let filters = vec![("a", 0); 75_000];
    let (mut reader, mut writer) = door.enter(&device.connect()).await.split();
    let writing = tokio::spawn(async move {
        for n in 1..=MANY {
            writer.send(&subscribe(n, &filters)).await;
        }
        writer
    });
    // Meanwhile nothing is read, for as long as it takes another to be served.
    for _ in 0..200 {
        deliver(&mut other_raw, &other, b"x").await;
    }
    for n in 1..=MANY {
        let answer = reader.packet().await.expect("an answer");
        assert_eq!((answer.len(), &answer[4..6]), (75_006, &n.to_be_bytes()[..]));
    }
    writing.await.expect("written");
}

/// The log completes nothing, so the hub takes as many as its window holds and no more; then it
/// goes on where it stopped. Beside the hub, so all-in-one only.
#[tokio::test]
async fn the_window_holds_a_hundred() {
    const WINDOW: u64 = 100;
    let hub = TestHub::all_in_one().await;
    let device = Device::create(&hub, "d").await;
    let other = Device::create(&hub, "other").await;
    let log = Arc::new(FaultyLog::over(&hub.stores().events, Faults::default()));
    let slow = beside(&hub, &Role::ALL, log.clone(), |_| {}).await;
    let door = door_beside(&hub, &slow);
    let mut raw = door.enter(&device.connect()).await;
    let mut other_raw = door.enter(&other.connect()).await;

    log.withhold(true);
    raw.send(&numbered(&device, 1, 1_000)).await;
    log.when(|counts| counts.accepted == WINDOW).await;
    // Others are not held up: this is taken, and still no more of the first.
    other_raw.send(&other.message(1, b"x")).await;
    log.when(|counts| counts.accepted > WINDOW).await;
    other_raw.expect_alive().await;
    assert_eq!(log.counts().accepted, WINDOW + 1);

    log.withhold(false);
    expect_acks(&mut raw, 1, 1_000).await;
    other_raw.expect(&puback(1)).await;
    assert_eq!(log.counts().most_outstanding, WINDOW);
    assert_eq!(bodies(&events(&hub, "d", 1_000).await), numbers(1_000));
    slow.stop().await;
    hub.stop().await;
}
