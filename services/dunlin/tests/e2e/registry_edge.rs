//! IoT Edge devices and their scopes, limits of modules, statistics.

use dunlin::test_hub::TestHub;
use reqwest::Method;
use serde_json::{Value, json};

use crate::registry::{refused, request, send};

async fn call(hub: &TestHub, method: Method, path: &str, body: Value) -> Value {
    let request = request(hub, method, path).header("if-match", "*").json(&body);
    hub.client().call(request).await.unwrap_or_else(|error| panic!("{path}: {error}"))
}

async fn get(hub: &TestHub, path: &str) -> Value {
    hub.client().call(request(hub, Method::GET, path)).await.expect(path)
}

async fn create(hub: &TestHub, id: &str, body: Value) -> Value {
    hub.client().device_put(id, &body, None).await.expect(id)
}

scenario!(an_edge_device_has_its_scope_and_system_modules);
async fn an_edge_device_has_its_scope_and_system_modules(hub: &TestHub) {
    let edge = json!({"capabilities": {"iotEdge": true}, "deviceScope": "ignored"});
    let made = create(hub, "edge", edge).await;
    let generation = made["generationId"].as_str().expect("a generation");
    let scope = format!("ms-azure-iot-edge://edge-{generation}");
    assert_eq!(made["deviceScope"], scope);
    assert_eq!(made["capabilities"], json!({"iotEdge": true}));
    let modules = get(hub, "/devices/edge/modules").await;
    let names = |modules: &Value| {
        let modules = modules.as_array().expect("a list").clone();
        modules.iter().map(|module| module["moduleId"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&modules), ["$edgeAgent", "$edgeHub"]);
    assert_eq!(modules[0]["managedBy"], "iotEdge");
    assert_eq!(modules[0]["authentication"]["type"], "sas");

    for (what, method, path) in [
        ("replaced", Method::PUT, "/devices/edge/modules/$edgeAgent"),
        ("deleted", Method::DELETE, "/devices/edge/modules/%24edgeHub"),
        ("of a device that is none", Method::PUT, "/devices/leaf/modules/$edgeHub"),
    ] {
        let request = request(hub, method, path).header("if-match", "*").json(&json!({}));
        refused(hub, what, request, "SystemModuleModifyUnauthorizedAccess").await;
    }
    let made_by_hand = request(hub, Method::PUT, "/devices/edge/modules/$edgeHub").json(&json!({}));
    refused(hub, "by hand", made_by_hand, "SystemModuleModifyUnauthorizedAccess").await;

    // A child, and a child of its own.
    let leaf = create(hub, "leaf", json!({"deviceScope": scope, "parentScopes": [scope]})).await;
    assert_eq!((&leaf["deviceScope"], &leaf["parentScopes"]), (&json!(scope), &json!([scope])));
    let kept = call(hub, Method::PUT, "/devices/leaf", json!({"statusReason": "x"})).await;
    assert_eq!(kept["deviceScope"], scope, "what is left out stays");
    let cleared = json!({"deviceScope": "", "parentScopes": []});
    let cleared = call(hub, Method::PUT, "/devices/leaf", cleared).await;
    assert!(cleared.get("deviceScope").is_none() && cleared.get("parentScopes").is_none());
    // A leaf device's one parent is its scope: the hub copies it, also where an old one is sent along.
    let scopes = |device: &Value| (device["deviceScope"].clone(), device["parentScopes"].clone());
    let leaf = create(hub, "leaf2", json!({"deviceScope": scope})).await;
    assert_eq!(scopes(&leaf), (json!(scope), json!([scope])));
    let other = "ms-azure-iot-edge://other-1";
    for moved in [
        json!({"deviceScope": other}),
        json!({"deviceScope": scope, "parentScopes": null}),
        json!({"deviceScope": other, "parentScopes": [scope]}),
    ] {
        let to = moved["deviceScope"].clone();
        let leaf = call(hub, Method::PUT, "/devices/leaf2", moved).await;
        assert_eq!(scopes(&leaf), (to.clone(), json!([to])));
    }
    let left = call(hub, Method::PUT, "/devices/leaf2", json!({"deviceScope": ""})).await;
    assert_eq!(scopes(&left), (Value::Null, Value::Null));
    // An Edge device's parents are the client's to say: its scope is its own.
    let child = json!({"capabilities": {"iotEdge": true}, "parentScopes": [scope]});
    let child = create(hub, "child", child).await;
    assert_ne!(child["deviceScope"], scope);
    assert_eq!(child["parentScopes"], json!([scope]));
    let orphan = create(hub, "orphan", json!({"capabilities": {"iotEdge": true}})).await;
    assert_eq!(orphan["parentScopes"], Value::Null);
    for bad in ["edge", "ms-azure-iot-edge://"] {
        let put = request(hub, Method::PUT, "/devices/bad").json(&json!({"deviceScope": bad}));
        refused(hub, bad, put, "InvalidDeviceScope").await;
    }

    // It comes and goes with the capability; its scope with it.
    let plain = json!({"capabilities": {"iotEdge": false}, "deviceScope": scope});
    let plain = call(hub, Method::PUT, "/devices/edge", plain).await;
    assert!(plain.get("deviceScope").is_none(), "{plain}");
    assert_eq!(get(hub, "/devices/edge/modules").await, json!([]));
    let again = json!({"capabilities": {"iotEdge": true}});
    assert_eq!(call(hub, Method::PUT, "/devices/edge", again).await["deviceScope"], scope);
    assert_eq!(names(&get(hub, "/devices/edge/modules").await).len(), 2);
    let unchanged = call(hub, Method::PUT, "/devices/edge", json!({})).await;
    assert_eq!(unchanged["capabilities"], json!({"iotEdge": true}), "what is left out stays");
    hub.client().device_delete("edge", "*").await.expect("deleted");
    create(hub, "edge", json!({})).await;
    assert_eq!(get(hub, "/devices/edge/modules").await, json!([]));
}

scenario!(a_device_has_fifty_modules);
async fn a_device_has_fifty_modules(hub: &TestHub) {
    create(hub, "d", json!({"capabilities": {"iotEdge": true}})).await;
    let rows: Vec<_> = (0..50)
        .map(|n| json!({"id": "d", "moduleId": format!("m{n}"), "importMode": "create"}))
        .collect();
    let made = call(hub, Method::POST, "/devices", json!(rows)).await;
    assert_eq!(made["isSuccessful"], true, "{made}");
    let more = request(hub, Method::PUT, "/devices/d/modules/more").json(&json!({}));
    refused(hub, "one more", more, "TooManyModulesOnDevice").await;
    let managed = json!({"managedBy": "somebody"});
    let managed = call(hub, Method::PUT, "/devices/d/modules/m0", managed).await;
    assert_eq!(managed["managedBy"], "somebody");
    assert_eq!(get(hub, "/devices/d/modules").await.as_array().map(Vec::len), Some(52));
}

scenario!(statistics_count_devices);
async fn statistics_count_devices(hub: &TestHub) {
    let devices = async || get(hub, "/statistics/devices").await;
    let counts = |total, enabled, disabled| {
        json!({
            "totalDeviceCount": total,
            "enabledDeviceCount": enabled,
            "disabledDeviceCount": disabled,
        })
    };
    assert_eq!(devices().await, counts(0, 0, 0));
    for id in ["a", "b", "c", "a/m"] {
        create(hub, id, json!({})).await;
    }
    call(hub, Method::PUT, "/devices/b", json!({"status": "disabled"})).await;
    assert_eq!(devices().await, counts(3, 2, 1));
    assert_eq!(get(hub, "/statistics/service").await, json!({"connectedDeviceCount": 0}));
    let posted = send(hub, request(hub, Method::POST, "/statistics/devices")).await;
    assert_eq!(posted.status().as_u16(), 405);
}
