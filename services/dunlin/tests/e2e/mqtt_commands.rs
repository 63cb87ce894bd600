//! C2D messages over MQTT: what a subscribed device is sent, when, and what completes it. The role
//! `c2d` is the tests' own.

use dunlin_proto::v1::{Ack, Command, CommandProperty, Disposition};

use crate::c2d_kit::Site;
use crate::mqtt_kit::{Device, Door};
use crate::raw::{
    Connect, DISCONNECT, PINGREQ, PINGRESP, Published, Raw, puback, suback, subscribe, unsuback,
    unsubscribe,
};

const TO: &str = "%24.to=%2Fdevices%2Fd%2Fmessages%2FdeviceBound";

pub fn filter(device: &Device) -> String {
    format!("{}/messages/devicebound/#", device.path())
}

/// Subscribes a connection to its C2D messages.
pub async fn listen(raw: &mut Raw, device: &Device, qos: u8) {
    raw.send(&subscribe(9, &[(&filter(device), qos)])).await;
    raw.expect(&suback(9, &[qos])).await;
}

async fn listener(door: &Door, device: &Device, qos: u8) -> Raw {
    let mut raw = door.enter(&device.connect()).await;
    listen(&mut raw, device, qos).await;
    raw
}

pub async fn acknowledge(raw: &mut Raw, message: &Published) {
    raw.send(&puback(message.packet_id)).await;
}

fn property(name: &str, value: &str) -> CommandProperty {
    CommandProperty { name: name.to_owned(), value: value.to_owned() }
}

#[tokio::test]
async fn a_message_comes_with_its_properties() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    let websocket = Door::websocket_at(&site.hub, site.beside.gateway.expect("a gateway").https);
    for (door, sequence) in [(&site.door, 1), (&websocket, 2)] {
        let mut raw = door.enter(&Connect { clean: true, ..device.connect() }).await;
        listen(&mut raw, &device, 1).await;
        let command = Command {
            message_id: Some("m/1".to_owned()),
            expires: Some(1_763_600_000_123),
            ack: Ack::Full.into(),
            properties: vec![property("my key", "+\u{fc}"), property("empty", "")],
            body: b"\0\xff".to_vec(),
            ..Command::default()
        };
        site.queues.put("d", command);
        site.notify("d").await;
        let message = raw.published().await;
        assert_eq!(
            message.topic,
            format!(
                "devices/d/messages/devicebound/{TO}&%24.mid=m%2F1\
                 &%24.exp=2025-11-20T00%3A53%3A20.1230000Z&iothub-ack=full&my%20key=%2B%C3%BC"
            )
        );
        assert_eq!((message.qos, message.dup, &*message.body), (1, false, &b"\0\xff"[..]));
        assert_eq!(site.queues.state().left("d"), 1, "it is not done with before PUBACK");
        acknowledge(&mut raw, &message).await;
        let done = (sequence, Disposition::Complete);
        site.queues.until("completion", |state| state.settled.last() == Some(&done)).await;
    }
    assert_eq!(site.queues.state().lost, 0);
    site.stop().await;
}

#[tokio::test]
async fn nothing_is_lost_between_connect_and_subscribe() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    site.queues.put_text("d", "before");
    let mut raw = site.door.enter(&device.connect()).await;
    site.send("d", "between").await;
    raw.expect_alive().await;
    assert_eq!(site.queues.state().leases, 0, "nobody has asked for any");
    raw.send(&subscribe(9, &[(&filter(&device), 1)])).await;
    // A message that comes with the subscription is not missed, nor is it there twice.
    site.send("d", "with").await;
    // SUBACK follows the commit, which is not waited for [MQTT-3.8.4-1 and the note on it].
    let (mut acked, mut came) = (false, Vec::new());
    while !acked || came.len() < 3 {
        let packet = raw.packet().await.expect("a packet");
        if packet == suback(9, &[1]) {
            acked = true;
            continue;
        }
        let message = Published::of(&packet);
        assert!(!message.dup, "{message:?}");
        acknowledge(&mut raw, &message).await;
        came.push(message.text().to_owned());
    }
    assert_eq!(came, ["before", "between", "with"]);
    raw.expect_alive().await;
    site.stop().await;
}

#[tokio::test]
async fn a_stored_subscription_is_served_at_once() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    let mut raw = listener(&site.door, &device, 1).await;
    raw.send(&DISCONNECT).await;
    raw.expect_close().await;
    site.queues.put_text("d", "while away");
    let mut raw = site.door.resume(&device.connect()).await;
    let message = raw.published().await;
    assert_eq!(message.text(), "while away");
    acknowledge(&mut raw, &message).await;
    site.queues.until("completion", |state| state.left("d") == 0).await;
    // A clean session forgets the subscription; the queue is not touched.
    site.queues.put_text("d", "kept");
    let mut raw = site.door.enter(&Connect { clean: true, ..device.connect() }).await;
    raw.expect_alive().await;
    listen(&mut raw, &device, 0).await;
    assert_eq!(raw.published().await.text(), "kept");
    site.stop().await;
}

#[tokio::test]
async fn fifty_are_in_flight_in_order() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    for n in 0..70 {
        site.queues.put_text("d", &n.to_string());
    }
    let mut raw = listener(&site.door, &device, 1).await;
    let mut ids = Vec::new();
    for n in 0..50 {
        let message = raw.published().await;
        assert_eq!(message.text(), n.to_string());
        ids.push(message.packet_id);
    }
    // No more before one is acknowledged, whatever happens.
    site.notify("d").await;
    raw.expect_alive().await;
    for n in 50..70 {
        raw.send(&puback(ids[n - 50])).await;
        let message = raw.published().await;
        assert_eq!(message.text(), n.to_string());
        assert!(!ids[n - 49..].contains(&message.packet_id), "in use: {message:?}");
        ids.push(message.packet_id);
    }
    // In whichever order they are acknowledged. An id of nothing means nothing.
    for id in ids[20..].iter().rev() {
        raw.send(&puback(*id)).await;
    }
    raw.send(&puback(60_000)).await;
    site.queues.until("completion", |state| state.left("d") == 0).await;
    assert_eq!(site.queues.state().settled.len(), 70);
    assert_eq!(site.queues.state().lost, 0);
    raw.expect_alive().await;
    site.stop().await;
}

#[tokio::test]
async fn large_messages_wait_for_the_device() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    let body = "x".repeat(65_000);
    for _ in 0..50 {
        site.queues.put_text("d", &body);
    }
    // It takes nothing for a while, which must not be held against it.
    let mut raw = listener(&site.door, &device, 1).await;
    site.queues.until("the first", |state| state.leases > 0).await;
    for _ in 0..50 {
        let message = raw.published().await;
        assert_eq!(message.body.len(), body.len());
        acknowledge(&mut raw, &message).await;
    }
    site.queues.until("completion", |state| state.left("d") == 0).await;
    site.stop().await;
}

#[tokio::test]
async fn qos_0_is_complete_once_it_is_written() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    let mut raw = listener(&site.door, &device, 0).await;
    for n in 0..60 {
        site.queues.put_text("d", &n.to_string());
    }
    site.notify("d").await;
    for n in 0..60 {
        let message = raw.published().await;
        assert_eq!((message.qos, message.packet_id), (0, 0));
        assert_eq!(message.text(), n.to_string());
    }
    site.queues.until("completion", |state| state.left("d") == 0).await;
    site.stop().await;
}

#[tokio::test]
async fn who_unsubscribes_gets_no_more() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    let mut raw = listener(&site.door, &device, 1).await;
    site.send("d", "1").await;
    let first = raw.published().await;
    // A lease call is under way.
    site.queues.until("no lease call", |state| state.leases == 2).await;
    site.queues.hold_leases(true);
    site.send("d", "2").await;
    raw.expect_alive().await;
    raw.send(&unsubscribe(3, &[&filter(&device)])).await;
    raw.expect(&unsuback(3)).await;
    site.queues.hold_leases(false);
    site.queues.until("release", |state| state.releases == 1).await;
    acknowledge(&mut raw, &first).await;
    site.notify("d").await;
    raw.expect_alive().await;
    // Both are there for the next time: the first was given back with the second, and neither is
    // taken for a failure.
    listen(&mut raw, &device, 1).await;
    for want in ["1", "2"] {
        let message = raw.published().await;
        assert_eq!((message.text(), message.dup), (want, false));
        acknowledge(&mut raw, &message).await;
    }
    site.queues.until("completion", |state| state.left("d") == 0).await;
    site.stop().await;
}

#[tokio::test]
async fn modules_have_no_queue() {
    let site = Site::start().await;
    Device::create(&site.hub, "d").await;
    let module = Device::create(&site.hub, "d/m").await;
    let mut raw = listener(&site.door, &module, 1).await;
    site.queues.put_text("d", "not for it");
    site.notify("d/m").await;
    raw.send(&PINGREQ).await;
    raw.expect(&PINGRESP).await;
    assert_eq!(site.queues.state().leases, 0);
    site.stop().await;
}

#[tokio::test]
async fn what_fits_no_topic_is_rejected() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    let mut raw = listener(&site.door, &device, 1).await;
    let properties = vec![property("long", &"%".repeat(22_000))];
    site.queues.put("d", Command { properties, ..Command::default() });
    site.send("d", "next").await;
    assert_eq!(raw.published().await.text(), "next");
    let rejected = (1, Disposition::Reject);
    site.queues.until("rejection", |state| state.settled == [rejected]).await;
    site.stop().await;
}
