//! How large a message and a packet may be.

use dunlin::test_hub::TestHub;

use crate::mqtt_kit::{Device, Door, events, everything};
use crate::raw::{QOS1, header, puback, publish};

/// 256 KB, as IoT Hub counts them.
const MESSAGE: usize = 262_144;
/// The longest topic an MQTT packet can hold.
const TOPIC: usize = 65_535;

scenario!(body_and_properties_count);
async fn body_and_properties_count(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    // The bag, and what of it counts: values of system properties, names and values of others.
    let bags = [
        ("", 0),
        ("name=value", 9),
        ("name", 4),
        ("%24.mid=12345", 5),
        ("$.ct=text%2Fplain&a=%C3%A4", 10 + 1 + 2),
        ("$.unknown=dropped", 0),
        ("$.mid=1&$.mid=22", 1),
    ];
    for (n, (bag, counted)) in (1..).zip(bags) {
        let body = vec![b'x'; MESSAGE - counted];
        // What the hub adds itself does not count: neither stamps nor `mqtt-retain`.
        raw.send(&publish(QOS1 | 1, &device.topic(bag), n, &body)).await;
        raw.expect(&puback(n)).await;
    }
    for (event, (bag, counted)) in events(hub, "d", bags.len()).await.iter().zip(bags) {
        assert_eq!(event.body.len(), MESSAGE - counted, "{bag}");
    }
    for (bag, counted) in bags {
        let mut raw = door.enter(&device.connect()).await;
        let body = vec![b'x'; MESSAGE - counted + 1];
        // The hub may close before it has read all.
        let _ = raw.try_send(&publish(QOS1, &device.topic(bag), 1, &body)).await;
        raw.expect_close().await;
    }
    assert_eq!(everything(hub, &door, &device).await.len(), bags.len());
}

scenario!(the_longest_topic);
async fn the_longest_topic(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    let room = TOPIC - device.topic("k=").len();
    let topic = device.topic(&format!("k={}", "v".repeat(room)));
    assert_eq!(topic.len(), TOPIC);
    raw.send(&publish(QOS1, &topic, 1, b"x")).await;
    raw.expect(&puback(1)).await;
    let body = vec![b'x'; MESSAGE - room - 1];
    raw.send(&publish(QOS1, &topic, 2, &body)).await;
    raw.expect(&puback(2)).await;
    let read = events(hub, "d", 2).await;
    assert_eq!(read[1].header("k").map(str::len), Some(room));
    assert_eq!(read[1].body, body);
    // The largest packet of all, in which only dropped properties make the topic long.
    let topic = device.topic(&format!("$.x={}", "v".repeat(room - 2)));
    assert_eq!(topic.len(), TOPIC);
    raw.send(&publish(QOS1, &topic, 3, &vec![b'x'; MESSAGE])).await;
    raw.expect(&puback(3)).await;
}

scenario!(as_many_properties_as_a_topic_holds);
async fn as_many_properties_as_a_topic_holds(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    let room = TOPIC - device.topic("").len();
    // The shortest there are, half of them; then as many that say again what was said.
    let own = room / 4;
    let bag = format!("{}{}", "a&".repeat(own), "$.mid&".repeat((room - 2 * own) / 6));
    raw.send(&publish(QOS1, &device.topic(&bag), 1, b"x")).await;
    raw.expect(&puback(1)).await;
    let read = events(hub, "d", 1).await;
    assert_eq!(read[0].application_properties().count(), own);
    assert_eq!(crate::mqtt_kit::bag(&read[0]).len(), own + 1);
}

scenario!(a_larger_packet_closes_before_it_is_sent);
async fn a_larger_packet_closes_before_it_is_sent(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let limit = MESSAGE + TOPIC + 4;
    for length in [limit + 1, limit + 1_000, 268_435_455] {
        for first in [0x30, 0x32, 0x82, 0xc0] {
            let mut raw = door.enter(&device.connect()).await;
            raw.send(&header(first, length)).await;
            raw.expect_close().await;
        }
        door.ignores(&header(0x10, length)).await;
    }
    // One within it is waited for.
    let mut raw = door.enter(&device.connect()).await;
    let packet = publish(QOS1, &device.topic(""), 1, &vec![b'x'; MESSAGE]);
    let (most, last) = packet.split_at(packet.len() - 1);
    raw.send(most).await;
    raw.send(last).await;
    raw.expect(&puback(1)).await;
}
