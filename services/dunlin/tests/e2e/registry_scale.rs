//! Listing where its page ends, whatever the number of devices.

use dunlin::test_hub::TestHub;
use dunlin_model::{ConnectionState, Identity, Session, Status, Twin};
use dunlin_storage::device_store::{IdentityWrite, StoredIdentity};
use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::Value;

use crate::registry::{refused, request, send};

/// As the registry would store it; without credentials it needs no sealing.
pub fn device(number: usize) -> StoredIdentity {
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

pub fn name(number: usize) -> String {
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

scenario!(pages_together_hold_every_device_once);
async fn pages_together_hold_every_device_once(hub: &TestHub) {
    const COUNT: usize = 3_500;
    let new =
        (0..COUNT).rev().map(|n| vec![IdentityWrite::Create(device(n), Twin::new(0))]).collect();
    let written = hub.stores().devices.identity_write(new).await.expect("written");
    assert!(written.iter().all(Result::is_ok));
    for (size, top, pages) in [
        (None, "", vec![1_000, 1_000, 1_000, 500]),
        (Some("1000"), "", vec![1_000, 1_000, 1_000, 500]),
        (Some("1750"), "", vec![1_000, 1_000, 1_000, 500]),
        (None, "?top=875", vec![875; 4]),
        (Some("700"), "?top=900", vec![700; 5]),
    ] {
        let (mut ids, mut sizes, mut token) = (Vec::new(), Vec::new(), None::<HeaderValue>);
        loop {
            let mut page = request(hub, Method::GET, &format!("/devices{top}"));
            if let Some(size) = size {
                page = page.header("x-ms-max-item-count", size);
            }
            if let Some(token) = &token {
                page = page.header("x-ms-continuation", token);
            }
            let response = send(hub, page).await;
            assert_eq!(response.status().as_u16(), 200);
            token = response.headers().get("x-ms-continuation").cloned();
            let page: Value = response.json().await.expect("JSON");
            let page = page.as_array().expect("a list");
            sizes.push(page.len());
            ids.extend(page.iter().map(|device| id(device).to_owned()));
            if token.is_none() {
                break;
            }
        }
        assert_eq!(sizes, pages, "{size:?} {top}");
        assert_eq!(ids, (0..COUNT).map(name).collect::<Vec<_>>(), "{size:?} {top}");
    }
    // A page goes on behind its place, whatever has become of the device that was there.
    let first = hub.client().device_page(2, None).await.expect("a page");
    hub.client().device_delete(&name(1), "*").await.expect("deleted");
    let next = hub.client().device_page(1, first.next.as_ref()).await.expect("a page");
    assert_eq!(id(&next.devices[0]), name(2));
    for (what, header, value) in [
        ("garbage", "x-ms-continuation", "garbage"),
        ("empty", "x-ms-continuation", ""),
        ("no number", "x-ms-max-item-count", "many"),
    ] {
        let page = request(hub, Method::GET, "/devices").header(header, value);
        refused(hub, what, page, "ArgumentInvalid").await;
    }
}

fn id(device: &Value) -> &str {
    device["deviceId"].as_str().expect("an id")
}
