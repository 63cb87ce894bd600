//! Listing where its page ends, whatever the number of devices.

use dunlin::test_hub::TestHub;
use dunlin_model::{ConnectionState, Identity, Session, Status, Twin};
use dunlin_storage::device_store::{IdentityWrite, StoredIdentity};
use reqwest::Method;
use serde_json::Value;

use crate::registry::request;

/// As the registry would store it; without credentials it needs no sealing.
fn device(number: usize) -> StoredIdentity {
    StoredIdentity {
        id: Identity::device(&name(number)).expect("an id"),
        generation_id: "1".into(),
        etag: "MQ==".into(),
        status: Status::Enabled,
        status_reason: None,
        status_updated: 0,
        auth_type: "none".into(),
        credentials: Vec::new(),
        thumbprints: None,
        auth_version: 1,
        iot_edge: false,
        device_scope: None,
        parent_scopes: Vec::new(),
        managed_by: None,
        connection: ConnectionState::default(),
        session: Session::default(),
    }
}

fn name(number: usize) -> String {
    format!("d{number:05}")
}

scenario!(a_page_is_ordered_and_has_a_thousand_devices_at_most);
async fn a_page_is_ordered_and_has_a_thousand_devices_at_most(hub: &TestHub) {
    let devices = &hub.stores().devices;
    let mut made = 0;
    for count in [0, 1, 999, 1_000, 1_001, 3_000] {
        // In descending order, so that listed in order they were put in order.
        let new = (made..count)
            .rev()
            .map(|n| vec![IdentityWrite::Create(device(n), Twin::new(0))])
            .collect();
        let written = devices.identity_write(new).await.expect("written");
        assert!(written.iter().all(Result::is_ok));
        made = count;
        for (top, page) in [
            ("", 1_000),
            ("?top=0", 1_000),
            ("?top=-5", 1_000),
            ("?top=1", 1),
            ("?top=999", 999),
            ("?top=1000", 1_000),
            ("?top=1001", 1_000),
            ("?top=100000", 1_000),
        ] {
            let list = request(hub, Method::GET, &format!("/devices{top}"));
            let list = hub.client().call(list).await.expect("listed");
            let ids: Vec<_> = list.as_array().expect("a list").iter().map(id).collect();
            let want: Vec<_> = (0..count.min(page)).map(name).collect();
            assert_eq!(ids, want, "{count} devices, {top}");
        }
        let counted = request(hub, Method::GET, "/statistics/devices");
        let counted = hub.client().call(counted).await.expect("counted");
        assert_eq!(counted["totalDeviceCount"], count);
    }
}

fn id(device: &Value) -> &str {
    device["deviceId"].as_str().expect("an id")
}
