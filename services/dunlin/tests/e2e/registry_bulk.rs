//! `POST /devices` and `POST /devices/keys/regenerate`: an outcome for each row.

use dunlin::test_hub::TestHub;
use reqwest::Method;
use serde_json::{Value, json};

use crate::mqtt_kit::{Device, Door};
use crate::registry::{refused, request, send};

/// Status, `iothub-errorcode` and body.
async fn post(hub: &TestHub, path: &str, body: &Value) -> (u16, String, Value) {
    let response = send(hub, request(hub, Method::POST, path).json(body)).await;
    let status = response.status().as_u16();
    let header = response.headers().get("iothub-errorcode");
    let code = header.and_then(|code| code.to_str().ok()).unwrap_or_default().to_owned();
    assert_eq!(response.headers()["content-type"], "application/json; charset=utf-8");
    (status, code, response.json().await.expect("JSON"))
}

async fn bulk(hub: &TestHub, rows: Value) -> Value {
    let (status, code, body) = post(hub, "/devices", &rows).await;
    let failed = body["isSuccessful"] == false;
    assert_eq!(status, if failed { 400 } else { 200 }, "{body}");
    assert_eq!(code, if failed { "BulkRegistryOperationFailure" } else { "" });
    assert_eq!(body["warnings"], json!([]));
    body
}

/// Device, module and code of each error.
fn errors(body: &Value) -> Vec<(&str, Option<&str>, &str, &str)> {
    let errors = body["errors"].as_array().expect("a list");
    let text = |value: &'_ Value| value.as_str().map(str::to_owned);
    errors
        .iter()
        .map(|error| {
            assert!(text(&error["errorStatus"]).is_some_and(|text| !text.is_empty()), "{error}");
            (
                error["deviceId"].as_str().expect("an id"),
                error["moduleId"].as_str(),
                error["errorCode"].as_str().expect("a code"),
                error["operation"].as_str().expect("an operation"),
            )
        })
        .collect()
}

async fn etag(hub: &TestHub, id: &str) -> String {
    let device = hub.client().device_get(id).await.expect("found");
    device["etag"].as_str().expect("an ETag").to_owned()
}

scenario!(each_row_succeeds_or_fails_on_its_own);
async fn each_row_succeeds_or_fails_on_its_own(hub: &TestHub) {
    assert_eq!(bulk(hub, json!([])).await["isSuccessful"], true);
    let made = bulk(
        hub,
        json!([
            {"id": "a", "importMode": "create", "status": "disabled", "statusReason": "new"},
            {"id": "b", "importMode": "Create", "authentication": {"type": "none"}},
            {"id": "c"},
            {"id": "c", "moduleId": "m", "importMode": "CREATE", "managedBy": "me"},
            {"deviceId": "e", "importMode": "createOrUpdate", "capabilities": {"iotEdge": true}},
        ]),
    );
    assert_eq!(made.await, json!({"isSuccessful": true, "errors": [], "warnings": []}));
    let a = hub.client().device_get("a").await.expect("found");
    assert_eq!((&a["status"], &a["statusReason"]), (&json!("disabled"), &json!("new")));
    assert_eq!(
        hub.client().device_get("b").await.expect("found")["authentication"]["type"],
        "none"
    );
    assert_eq!(hub.client().device_get("c/m").await.expect("found")["managedBy"], "me");
    hub.client().device_get("e/$edgeHub").await.expect("its system module");

    let good = etag(hub, "b").await;
    let mixed = json!([
        {"id": "a", "importMode": "create"},
        {"id": "none", "importMode": "update"},
        {"id": "a", "importMode": "update"},
        {"id": "b", "importMode": "UpdateIfMatchETag", "eTag": "wrong"},
        {"id": "c", "moduleId": "m", "importMode": "deleteIfMatchETag", "eTag": "wrong"},
        {"id": "none", "moduleId": "m", "importMode": "create"},
        {"id": "f g", "importMode": "create"},
        {"id": "f", "importMode": "create", "status": "asleep"},
        {"id": "h", "importMode": "fly"},
        {"id": "i", "deviceId": "j", "importMode": "create"},
        {"id": "e", "moduleId": "$edgeHub", "importMode": "update"},
        {"id": "new", "importMode": "create"},
        {"id": "gone", "importMode": "delete"},
    ]);
    let body = bulk(hub, mixed).await;
    assert_eq!(
        errors(&body),
        [
            ("a", None, "DeviceAlreadyExists", "create"),
            ("none", None, "DeviceNotFound", "update"),
            ("a", None, "DeviceDefinedMultipleTimes", "update"),
            ("b", None, "PreconditionFailed", "updateIfMatchETag"),
            ("c", Some("m"), "PreconditionFailed", "deleteIfMatchETag"),
            ("none", Some("m"), "DeviceNotFound", "create"),
            ("f g", None, "ArgumentInvalid", "create"),
            ("f", None, "ArgumentInvalid", "create"),
            ("h", None, "ArgumentInvalid", "fly"),
            ("i", None, "ArgumentInvalid", "create"),
            ("e", Some("$edgeHub"), "SystemModuleModifyUnauthorizedAccess", "update"),
            ("gone", None, "DeviceNotFound", "delete"),
        ]
    );
    hub.client().device_get("new").await.expect("the good row was written");

    let rest = bulk(
        hub,
        json!([
            {"id": "b", "importMode": "updateIfMatchETag", "eTag": format!("\"{good}\""),
             "statusReason": "seen"},
            {"id": "c", "importMode": "Delete"},
            {"id": "e", "importMode": "DeleteIfMatchETag", "eTag": etag(hub, "e").await},
            {"id": "a", "importMode": "createOrUpdateIfMatchETag", "eTag": "*"},
        ]),
    );
    assert_eq!(rest.await["isSuccessful"], true);
    assert_eq!(hub.client().device_get("b").await.expect("found")["statusReason"], "seen");
    for gone in ["c", "c/m", "e", "e/$edgeHub"] {
        assert!(hub.client().device_get(gone).await.is_err(), "{gone}");
    }
}

/// Tags, and desired properties without what the hub adds to them.
async fn twin(hub: &TestHub, id: &str) -> (Value, Value) {
    let mut twin = hub.client().twin_get(id).await.expect("found");
    let mut desired = twin["properties"]["desired"].take();
    desired.as_object_mut().expect("an object").retain(|name, _| !name.starts_with('$'));
    (twin["tags"].take(), desired)
}

scenario!(a_bulk_call_writes_twins);
async fn a_bulk_call_writes_twins(hub: &TestHub) {
    let made = json!([
        {"id": "a", "importMode": "create", "tags": {"room": 1},
         "properties": {"desired": {"x": {"y": [1]}, "$version": 7}, "reported": {"z": 1}}},
        {"id": "b", "tags": {"room": 2}},
        {"id": "b", "moduleId": "m", "importMode": "create",
         "properties": {"desired": {"x": 1}}},
        {"id": "c", "importMode": "create", "tags": {},
         "properties": {"desired": {"$version": 1, "$metadata": {}}, "reported": {}}},
        // The identities of a call are written before its twins.
        {"id": "d", "importMode": "updateTwin", "tags": {"late": true}},
        {"id": "d", "importMode": "create"},
    ]);
    assert_eq!(bulk(hub, made).await["errors"], json!([]));
    assert_eq!(twin(hub, "a").await, (json!({"room": 1}), json!({"x": {"y": [1]}})));
    let reported =
        hub.client().twin_get("a").await.expect("found")["properties"]["reported"].take();
    assert_eq!(reported.get("z"), None, "that is the device's own");
    assert_eq!(twin(hub, "b").await, (json!({"room": 2}), json!({})));
    assert_eq!(twin(hub, "b/m").await, (json!({}), json!({"x": 1})));
    assert_eq!(twin(hub, "c").await, (json!({}), json!({})));
    assert_eq!(twin(hub, "d").await, (json!({"late": true}), json!({})));

    let etag = hub.client().twin_get("b").await.expect("found")["etag"].take();
    let mixed = json!([
        {"id": "a", "importMode": "updateTwin", "tags": {"room": null, "floor": 3},
         "properties": {"desired": {"x": {"w": 2}}}},
        {"id": "a", "importMode": "updateTwin", "tags": {"room": 9}},
        {"id": "b", "importMode": "updateTwinIfMatchETag", "twinETag": etag, "tags": {"good": 1}},
        {"id": "c", "importMode": "updateTwinIfMatchETag", "twinETag": "x", "tags": {"bad": 1}},
        {"id": "b", "moduleId": "m", "importMode": "updateTwinIfMatchETag", "tags": {"bad": 1}},
        {"id": "none", "importMode": "updateTwin", "tags": {"bad": 1}},
        {"id": "b", "moduleId": "none", "importMode": "updateTwin", "tags": {"bad": 1}},
        {"id": "b", "tags": {"bad": 1}, "statusReason": "bad"},
        {"id": "c", "importMode": "update", "tags": {"bad": 1}, "statusReason": "bad"},
        {"id": "f", "importMode": "create", "tags": {"a.b": 1}},
        {"id": "g", "importMode": "create", "tags": {"long": "x".repeat(4_097)}},
        {"id": "d", "importMode": "updateTwin", "tags": 1},
    ]);
    let body = bulk(hub, mixed).await;
    assert_eq!(
        errors(&body),
        [
            ("a", None, "DeviceDefinedMultipleTimes", "updateTwin"),
            ("c", None, "PreconditionFailed", "updateTwinIfMatchETag"),
            ("b", Some("m"), "ArgumentNull", "updateTwinIfMatchETag"),
            ("none", None, "DeviceNotFound", "updateTwin"),
            ("b", Some("none"), "ModuleNotFound", "updateTwin"),
            ("b", None, "InvalidOperation", "createOrUpdate"),
            ("c", None, "InvalidOperation", "update"),
            ("f", None, "ArgumentInvalid", "create"),
            ("g", None, "ArgumentInvalid", "create"),
            ("d", None, "ArgumentInvalid", "updateTwin"),
        ]
    );
    assert_eq!(twin(hub, "a").await, (json!({"floor": 3}), json!({"x": {"y": [1], "w": 2}})));
    assert_eq!(twin(hub, "b").await.0, json!({"room": 2, "good": 1}));
    assert_eq!(twin(hub, "c").await, (json!({}), json!({})));
    for id in ["b", "c"] {
        let shown = hub.client().device_get(id).await.expect("found");
        assert_eq!(shown["statusReason"], Value::Null, "nothing of the row was written");
    }
    for id in ["f", "g"] {
        assert!(hub.client().device_get(id).await.is_err(), "{id}");
    }
}

scenario!(a_bulk_call_takes_a_hundred_rows);
async fn a_bulk_call_takes_a_hundred_rows(hub: &TestHub) {
    let rows = |count: usize| {
        let row = |n| json!({"id": format!("d{n}"), "importMode": "create"});
        json!((0..count).map(row).collect::<Vec<_>>())
    };
    let too_many = request(hub, Method::POST, "/devices/").json(&rows(101));
    refused(hub, "101", too_many, "TooManyDevices").await;
    assert_eq!(hub.client().device_list(1).await.expect("listed"), json!([]), "none of them");
    assert_eq!(bulk(hub, rows(100)).await["isSuccessful"], true);
    for (what, body) in [("no list", "{}"), ("a number as id", "[{\"id\":1}]"), ("cut", "[{")] {
        let request = request(hub, Method::POST, "/devices").body(body);
        refused(hub, what, request, "IotHubFormatError").await;
    }
}

scenario!(a_bulk_delete_ends_connections);
async fn a_bulk_delete_ends_connections(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut connected = door.enter(&device.connect()).await;
    bulk(hub, json!([{"id": "d", "importMode": "delete"}])).await;
    connected.expect_close().await;
    door.refuses(&device.connect(), 5).await;
}

scenario!(keys_are_regenerated);
async fn keys_are_regenerated(hub: &TestHub) {
    const PATH: &str = "/devices/keys/regenerate";
    for id in ["d", "keys", "d/m"] {
        hub.create_device(id).await;
    }
    hub.client()
        .device_put("x", &json!({"authentication": {"type": "none"}}), None)
        .await
        .expect("created");
    let keys = async |id: &str| {
        let mut found = hub.client().device_get(id).await.expect("found");
        found["authentication"]["symmetricKey"].take()
    };
    for (asked, shown, primary, secondary) in [
        ("primaryKey", "primaryKey", true, false),
        ("SecondaryKey", "secondaryKey", false, true),
        ("both", "both", true, true),
    ] {
        for (id, module) in [("d", Value::Null), ("d", json!("m"))] {
            let joined = module.as_str().map_or(id.to_owned(), |module| format!("{id}/{module}"));
            let before = keys(&joined).await;
            let body = json!({"policyKey": asked, "devices": [{"id": id, "moduleId": module}]});
            let (status, _, answer) = post(hub, PATH, &body).await;
            let after = keys(&joined).await;
            let rotated = json!({
                "id": id, "moduleId": module,
                "primaryKey": after["primaryKey"], "secondaryKey": after["secondaryKey"],
            });
            let want = json!({"policyKey": shown, "rotatedKeys": [rotated], "errors": []});
            assert_eq!((status, answer), (200, want));
            assert_eq!(before["primaryKey"] != after["primaryKey"], primary, "{asked}");
            assert_eq!(before["secondaryKey"] != after["secondaryKey"], secondary, "{asked}");
        }
    }
    let some = json!({"policyKey": "both", "devices": [{"id": "keys"}, {"id": "x"}, {"id": "no"}]});
    let (status, _, answer) = post(hub, PATH, &some).await;
    assert_eq!(status, 207);
    assert_eq!(answer["rotatedKeys"][0]["id"], "keys");
    assert_eq!(answer["errors"][0]["errorCode"], "InvalidOperation");
    assert_eq!(answer["errors"][1]["errorCode"], "DeviceNotFound");
    let none = json!({"policyKey": "both", "devices": [{"id": "no"}]});
    let (status, code, _) = post(hub, PATH, &none).await;
    assert_eq!((status, code.as_str()), (400, "BulkRegenerateDeviceKeyOperationFailure"));
    let wrong = request(hub, Method::POST, PATH).json(&json!({"policyKey": "all", "devices": []}));
    refused(hub, "which key", wrong, "InvalidPolicyKey").await;
    // The path hides no device of that name.
    assert_eq!(hub.client().device_get("keys").await.expect("found")["deviceId"], "keys");
}
