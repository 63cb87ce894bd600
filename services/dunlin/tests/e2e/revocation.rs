//! Disabling, deleting or changing the keys of an identity ends its connection, also one that is
//! just being made.

use std::time::Duration;

use dunlin::test_hub::TestHub;
use dunlin_auth::Key;
use serde_json::json;
use tokio::time::timeout;

use crate::mqtt_kit::{Device, Door, deliver, set_status};
use crate::raw::{Raw, connack};

scenario!(disabling_a_device_ends_its_connections);
async fn disabling_a_device_ends_its_connections(hub: &TestHub) {
    let (door, [device, module, other]) = (Door::of(hub), three(hub).await);
    let [mut first, mut second, mut third] = enter(&door, [&device, &module, &other]).await;
    closed_by(disable(hub, "d"), [&mut first, &mut second]).await;
    door.refuses(&device.connect(), 5).await;
    door.refuses(&module.connect(), 5).await;
    deliver(&mut third, &other, b"nothing happened to me").await;
    set_status(hub, "d", "enabled").await;
    enter(&door, [&device, &module]).await;
}

scenario!(deleting_an_identity_ends_its_connections);
async fn deleting_an_identity_ends_its_connections(hub: &TestHub) {
    let (door, [device, module, other]) = (Door::of(hub), three(hub).await);
    let [mut first, mut second, mut third] = enter(&door, [&device, &module, &other]).await;
    closed_by(delete(hub, "d/m"), [&mut second]).await;
    deliver(&mut first, &device, b"it was my module").await;
    door.refuses(&module.connect(), 5).await;
    // Made again under the old id it is another one, and is let in at once.
    let module = Device::create(hub, "d/m").await;
    let [mut second] = enter(&door, [&module]).await;
    closed_by(delete(hub, "d"), [&mut first, &mut second]).await;
    let device = Device::create(hub, "d").await;
    let module = Device::create(hub, "d/m").await;
    enter(&door, [&device, &module]).await;
    deliver(&mut third, &other, b"nothing happened to me").await;
}

scenario!(changing_keys_ends_the_connection);
async fn changing_keys_ends_the_connection(hub: &TestHub) {
    let (door, [device, module, _]) = (Door::of(hub), three(hub).await);
    for (id, device) in [("d", &device), ("d/m", &module)] {
        let [mut before] = enter(&door, [device]).await;
        let [primary, secondary] = [Key::generate(), Key::generate()];
        let keys = json!({
            "primaryKey": primary.to_base64(),
            "secondaryKey": secondary.to_base64(),
        });
        let body = json!({ "authentication": { "type": "sas", "symmetricKey": keys } });
        let change = async {
            hub.client().device_put(id, &body, Some("*")).await.expect("replaced");
        };
        closed_by(change, [&mut before]).await;
        door.refuses(&device.connect(), 5).await;
        enter(&door, [&Device { primary, secondary, ..device.clone() }]).await;
    }
}

scenario!(an_update_of_something_else_ends_nothing);
async fn an_update_of_something_else_ends_nothing(hub: &TestHub) {
    let (door, [device, ..]) = (Door::of(hub), three(hub).await);
    let [mut connected] = enter(&door, [&device]).await;
    let body = json!({ "statusReason": "moved to the cellar" });
    hub.client().device_put("d", &body, Some("*")).await.expect("replaced");
    deliver(&mut connected, &device, b"still here").await;
}

scenario!(a_connect_that_races_with_a_revocation_does_not_survive_it);
async fn a_connect_that_races_with_a_revocation_does_not_survive_it(hub: &TestHub) {
    let door = Door::of(hub);
    let mut device = Device::create(hub, "d").await;
    for round in 0..45 {
        let mut raw = door.open().await;
        let connect = device.connect().bytes();
        let race = async {
            let change = async {
                match round % 3 {
                    0 => disable(hub, "d").await,
                    1 => renew_keys(hub, "d").await,
                    _ => delete(hub, "d").await,
                }
            };
            let ((), ()) = tokio::join!(raw.send(&connect), change);
            // Let in before, or refused: in either case it is over now that the change is done.
            let answer = raw.packet().await;
            if let Ok(answer) = answer {
                let codes = [connack(0), connack(3), connack(5)];
                assert!(codes.iter().any(|code| answer == code), "{answer:x?}");
            }
            raw.expect_close().await;
        };
        timeout(A_SECOND, race).await.expect("over within a second");
        device = match round % 3 {
            0 => {
                set_status(hub, "d", "enabled").await;
                device
            }
            1 => Device::read(hub, "d").await,
            _ => Device::create(hub, "d").await,
        };
    }
}

scenario!(a_caller_that_goes_away_does_not_stop_a_revocation);
async fn a_caller_that_goes_away_does_not_stop_a_revocation(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    for _ in 0..40 {
        let [mut connected] = enter(&door, [&device]).await;
        // Dropped at some moment of its way: before, while or after the change is stored.
        let patience = Duration::from_micros(fastrand::u64(0..8_000));
        let _ = timeout(patience, disable_as_read(hub, "d")).await;
        // Whoever stored it, somebody must have ended the connection: a second change to the same
        // status changes nothing.
        set_status(hub, "d", "disabled").await;
        connected.expect_close().await;
        set_status(hub, "d", "enabled").await;
    }
}

scenario!(every_gateway_is_told, two_gateways);
async fn every_gateway_is_told(hub: &TestHub) {
    let doors: Vec<_> = hub.mqtt_addrs().into_iter().map(|at| Door::at(hub, at)).collect();
    for (door, id) in [(&doors[0], "a"), (&doors[1], "b")] {
        let device = Device::create(hub, id).await;
        let [mut disabled] = enter(door, [&device]).await;
        closed_by(disable(hub, id), [&mut disabled]).await;
        set_status(hub, id, "enabled").await;
        let [mut renewed] = enter(door, [&device]).await;
        closed_by(renew_keys(hub, id), [&mut renewed]).await;
        let [mut deleted] = enter(door, [&Device::read(hub, id).await]).await;
        closed_by(delete(hub, id), [&mut deleted]).await;
    }
}

async fn disable(hub: &TestHub, id: &str) {
    let body = json!({ "status": "disabled" });
    hub.client().device_put(id, &body, Some("*")).await.expect("replaced");
}

/// Refused, unless the device is as it was read: it may come late.
async fn disable_as_read(hub: &TestHub, id: &str) {
    let mut device = hub.client().device_get(id).await.expect("a device");
    device["status"] = "disabled".into();
    let etag = device["etag"].as_str();
    hub.client().device_put(id, &device, etag).await.expect("replaced");
}

async fn renew_keys(hub: &TestHub, id: &str) {
    let body = json!({"policyKey": "both", "devices": [{"id": id}]});
    let renew = hub.client().api(reqwest::Method::POST, "/devices/keys/regenerate");
    hub.client().call(renew.json(&body)).await.expect("renewed");
}

async fn delete(hub: &TestHub, id: &str) {
    hub.client().device_delete(id, "*").await.expect("deleted");
}

/// The hub promises this time, from the request for a change to the end of the connections that it
/// concerns: so it is asserted.
const A_SECOND: Duration = Duration::from_secs(1);

async fn closed_by<const N: usize>(change: impl Future<Output = ()>, connections: [&mut Raw; N]) {
    let closed = async {
        change.await;
        for connection in connections {
            connection.expect_close().await;
        }
    };
    timeout(A_SECOND, closed).await.expect("closed within a second");
}

async fn three(hub: &TestHub) -> [Device; 3] {
    let device = Device::create(hub, "d").await;
    [device, Device::create(hub, "d/m").await, Device::create(hub, "other").await]
}

async fn enter<const N: usize>(door: &Door, devices: [&Device; N]) -> [Raw; N] {
    let mut connected = Vec::new();
    for device in devices {
        connected.push(door.enter(&device.connect()).await);
    }
    connected.try_into().unwrap_or_else(|_| unreachable!("one each"))
}
