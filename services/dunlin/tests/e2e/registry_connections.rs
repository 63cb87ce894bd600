//! What the registry shows of connections.

use std::time::Duration;

use dunlin::test_hub::TestHub;
use reqwest::Method;
use serde_json::{Value, json};

use crate::mqtt_kit::{Device, Door, deliver};
use crate::raw::within;
use crate::registry::request;

const NEVER: &str = "0001-01-01T00:00:00Z";

/// Asks until the identity shows that state: gateways tell of it in their own time.
pub async fn until(hub: &TestHub, id: &str, state: &str) -> Value {
    let asked = async {
        let mut again = tokio::time::interval(Duration::from_millis(20));
        loop {
            again.tick().await;
            let shown = hub.client().device_get(id).await.expect("found");
            if shown["connectionState"] == state {
                return shown;
            }
        }
    };
    within("the connection state", asked).await
}

async fn connected(hub: &TestHub) -> Value {
    let asked = request(hub, Method::GET, "/statistics/service");
    hub.client().call(asked).await.expect("counted")["connectedDeviceCount"].take()
}

scenario!(connects_and_disconnects_are_shown);
async fn connects_and_disconnects_are_shown(hub: &TestHub) {
    let door = Door::of(hub);
    let (device, module) = (Device::create(hub, "d").await, Device::create(hub, "d/m").await);
    let before = hub.client().device_get("d").await.expect("found");
    let etag = before["etag"].clone();
    let mut raw = door.enter(&device.connect()).await;
    let _module = door.enter(&module.connect()).await;
    let on = until(hub, "d", "Connected").await;
    until(hub, "d/m", "Connected").await;
    assert_ne!(on["connectionStateUpdatedTime"], NEVER);
    assert_ne!(on["lastActivityTime"], NEVER);
    assert_eq!(on["etag"], etag, "a connection is no change of the identity");
    assert_eq!(connected(hub).await, 1, "modules are not devices");
    deliver(&mut raw, &device, b"hello").await;

    // Taken over it is connected: the newer connection is what counts.
    let second = door.enter(&device.connect()).await;
    raw.expect_close().await;
    // The end of the former may be shown before it.
    let shown = async {
        while until(hub, "d", "Connected").await["connectionStateUpdatedTime"]
            == on["connectionStateUpdatedTime"]
        {}
    };
    within("the newer connection", shown).await;
    drop(second);
    let off = until(hub, "d", "Disconnected").await;
    assert!(
        off["connectionStateUpdatedTime"].as_str() >= on["connectionStateUpdatedTime"].as_str()
    );
    assert!(off["lastActivityTime"].as_str() >= on["lastActivityTime"].as_str());
    assert_eq!(connected(hub).await, 0);
    until(hub, "d/m", "Connected").await;
    let listed = hub.client().device_list(1).await.expect("listed");
    assert_eq!(listed[0], off);

    hub.client().device_delete("d", "*").await.expect("deleted");
    let again = hub.client().device_put("d", &json!({}), None).await.expect("created");
    for name in ["connectionStateUpdatedTime", "lastActivityTime"] {
        assert_eq!(again[name], NEVER, "{name}");
    }
    assert_eq!(again["connectionState"], "Disconnected");
    assert_eq!(hub.client().device_get("d").await.expect("found"), again);
}
