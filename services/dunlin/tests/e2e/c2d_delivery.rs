//! C2D messages on their way from the real queue to a device, over MQTT and HTTPS.

use std::time::Duration;

use dunlin::client::CommandMessage;
use dunlin::test_hub::TestHub;
use dunlin_model::Command;
use dunlin_runtime::clock::unix_millis;
use dunlin_storage::command_queue::{FeedbackRules, Rules};
use futures_util::future::join_all;
use reqwest::header::HeaderMap;

use crate::hostile_kit::header;
use crate::hostile_web::{VERSION, Web};
use crate::mqtt_commands::{acknowledge, listen};
use crate::mqtt_kit::{Device, Door};
use crate::raw::{DISCONNECT, within};

/// The hub's own, as far as they matter here.
fn rules() -> Rules {
    let feedback = FeedbackRules {
        batch_records: 64,
        batch_age: 15_000,
        lock: 60_000,
        ttl: 3_600_000,
        max_delivery_count: 10,
    };
    Rules { depth: 50, lock: 60_000, max_delivery_count: 10, feedback }
}

async fn put(hub: &TestHub, device: &str, body: &str) {
    let command = Command {
        message_id: Some(body.to_owned()),
        expires: Some(unix_millis() + 3_600_000),
        body: body.into(),
        ..Command::default()
    };
    let queue = &hub.stores().commands;
    queue.command_send(device, command, unix_millis(), &rules()).await.expect("queued");
}

/// Waits until so many of a device's messages are not done with.
async fn left(hub: &TestHub, device: &str, count: u32) {
    let counted = async {
        let mut again = tokio::time::interval(Duration::from_millis(20));
        loop {
            again.tick().await;
            let queue = &hub.stores().commands;
            let now = queue.command_count(device, unix_millis(), &rules()).await.expect("counted");
            if now == count {
                return;
            }
        }
    };
    within("the queue", counted).await;
}

scenario!(a_queue_is_served_in_order_until_it_is_done);
async fn a_queue_is_served_in_order_until_it_is_done(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    listen(&mut raw, &device, 1).await;
    raw.send(&DISCONNECT).await;
    raw.expect_close().await;
    for n in 0..50 {
        put(hub, "d", &n.to_string()).await;
    }
    let mut raw = door.resume(&device.connect()).await;
    for n in 0..50 {
        let message = raw.published().await;
        assert_eq!((message.text(), message.dup), (&*n.to_string(), false));
        if n < 25 {
            acknowledge(&mut raw, &message).await;
        }
    }
    left(hub, "d", 25).await;
    raw.abandon();
    let mut raw = door.resume(&device.connect()).await;
    for n in 25..50 {
        let message = raw.published().await;
        assert_eq!((message.text(), message.dup), (&*n.to_string(), true));
        acknowledge(&mut raw, &message).await;
    }
    left(hub, "d", 0).await;
    raw.expect_alive().await;
}

scenario!(a_message_is_received_by_request);
async fn a_message_is_received_by_request(hub: &TestHub) {
    let device = Device::create(hub, "d").await;
    let web = Web::new(hub).with_token(&device.token());
    let ask = async |method: &str, rest: &str| {
        let target = format!("/devices/d/messages/deviceBound{rest}?{VERSION}");
        web.say(&web.request(method, &target, "", b""), false).await.remove(0)
    };
    assert_eq!(ask("GET", "").await.status, 204);
    for text in ["1", "2"] {
        put(hub, "d", text).await;
    }
    let receive = async |want: &str, count: &str| {
        let answer = ask("GET", "").await;
        assert_eq!((answer.status, &*answer.body), (200, want.as_bytes()));
        assert_eq!(header(&answer.head, "iothub-messageid"), Some(want));
        assert_eq!(header(&answer.head, "iothub-deliverycount"), Some(count));
        header(&answer.head, "etag").expect("a lock").trim_matches('"').to_owned()
    };
    let lock = receive("1", "0").await;
    assert_eq!(ask("POST", &format!("/{lock}/abandon")).await.status, 204);
    let first = receive("1", "1").await;
    let second = receive("2", "0").await;
    for lock in [&first, &second] {
        assert_eq!(ask("DELETE", &format!("/{lock}")).await.status, 204);
        assert_eq!(ask("DELETE", &format!("/{lock}")).await.status, 412);
    }
    left(hub, "d", 0).await;
}

// Each connection takes over from one of the same gateway or of the other, which has a message
// unacknowledged, and for which another one may still be settled.
scenario!(a_thousand_takeovers_lose_and_double_nothing, two_gateways);
async fn a_thousand_takeovers_lose_and_double_nothing(hub: &TestHub) {
    join_all((0..4).map(|n| take_over(hub, format!("d{n}"), 250))).await;
}

async fn take_over(hub: &TestHub, id: String, times: usize) {
    let device = Device::create(hub, &id).await;
    let doors: Vec<_> =
        hub.mqtt_addrs().into_iter().map(|address| Door::at(hub, address)).collect();
    let client = hub.client();
    let mut former = doors[0].enter(&device.connect()).await;
    listen(&mut former, &device, 1).await;
    put(hub, &id, "0").await;
    for n in 0..times {
        let next = (n + 1).to_string();
        // The former connection is told of it, or not.
        match n % 3 {
            0 => {
                let message =
                    CommandMessage { headers: HeaderMap::new(), body: next.clone().into() };
                client.c2d_send(&id, message).await.expect("sent");
            }
            _ => put(hub, &id, &next).await,
        }
        let mut raw = doors[n / 2 % 2].resume(&device.connect()).await;
        former.rest().await;
        let message = raw.published().await;
        assert_eq!(message.text(), n.to_string());
        acknowledge(&mut raw, &message).await;
        assert_eq!(raw.published().await.text(), next);
        // Nothing came twice, and the acknowledgement has been read.
        raw.expect_alive().await;
        former = raw;
    }
    left(hub, &id, 1).await;
}
