//! Twins over the REST API: what back ends read, change and replace, and what they are refused.

use dunlin::test_hub::TestHub;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::registry::{refused, request, send};

fn patch(hub: &TestHub, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
    request(hub, Method::PATCH, path).body(body)
}

fn put(hub: &TestHub, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
    request(hub, Method::PUT, path).body(body)
}

/// The twin that a call answers with, which names its ETag in the header too.
async fn twin(hub: &TestHub, request: RequestBuilder) -> Value {
    let response = send(hub, request).await;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.expect("a body");
    assert_eq!(status, 200, "{text}");
    assert_eq!(headers["content-type"], "application/json; charset=utf-8");
    let twin: Value = serde_json::from_str(&text).expect("JSON");
    let etag = twin["etag"].as_str().expect("an ETag");
    assert_eq!(headers["etag"].to_str().expect("ASCII"), format!("\"{etag}\""));
    twin
}

async fn read(hub: &TestHub, path: &str) -> Value {
    twin(hub, request(hub, Method::GET, path)).await
}

/// A section without what the hub adds to it.
fn own(section: &Value) -> Value {
    let mut own = section.clone();
    let members = own.as_object_mut().expect("an object");
    assert!(members.remove("$metadata").is_some_and(|metadata| metadata.is_object()));
    assert!(members.remove("$version").is_some_and(|version| version.is_u64()));
    own
}

scenario!(a_new_twin_has_every_field_and_nothing_in_it);
async fn a_new_twin_has_every_field_and_nothing_in_it(hub: &TestHub) {
    let made = hub.client().device_put("d", &json!({}), None).await.expect("created");
    let mut got = read(hub, "/twins/d").await;
    for (section, versioned) in [("desired", true), ("reported", false)] {
        let metadata = got["properties"][section]["$metadata"].take();
        let time = metadata["$lastUpdated"].as_str().expect("a time");
        assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
        assert_eq!(metadata["$lastUpdatedVersion"].is_u64(), versioned, "{section}");
    }
    let want = json!({
        "deviceId": "d", "etag": "AAAAAAAAAAE=", "deviceEtag": made["etag"], "status": "enabled",
        "statusReason": null, "statusUpdateTime": "0001-01-01T00:00:00Z",
        "connectionState": "Disconnected", "lastActivityTime": "0001-01-01T00:00:00Z",
        "cloudToDeviceMessageCount": 0, "authenticationType": "sas",
        "x509Thumbprint": {"primaryThumbprint": null, "secondaryThumbprint": null},
        "modelId": "", "version": 2, "tags": {},
        "properties": {
            "desired": {"$metadata": null, "$version": 1},
            "reported": {"$metadata": null, "$version": 1},
        },
        "capabilities": {"iotEdge": false},
    });
    assert_eq!(got, want);
}

scenario!(a_twin_shows_the_identity_as_it_is_now);
async fn a_twin_shows_the_identity_as_it_is_now(hub: &TestHub) {
    let thumbprint = "A1".repeat(20);
    let body = json!({
        "status": "disabled", "statusReason": "stolen", "capabilities": {"iotEdge": true},
        "authentication": {"x509Thumbprint": {"primaryThumbprint": thumbprint}},
    });
    let made = hub.client().device_put("edge", &body, None).await.expect("created");
    let got = read(hub, "/twins/edge").await;
    assert_eq!((&got["status"], &got["statusReason"]), (&json!("disabled"), &json!("stolen")));
    assert_eq!(got["authenticationType"], "selfSigned");
    let shown = got["x509Thumbprint"]["primaryThumbprint"].as_str().expect("a thumbprint");
    assert!(shown.eq_ignore_ascii_case(&thumbprint), "{got}");
    assert_eq!(got["capabilities"]["iotEdge"], true);
    assert_eq!(got["deviceScope"], made["deviceScope"]);
    assert_eq!(got["deviceEtag"], made["etag"]);
    let agent = read(hub, "/twins/edge/modules/$edgeAgent").await;
    assert_eq!((&agent["deviceId"], &agent["moduleId"]), (&json!("edge"), &json!("$edgeAgent")));
}

scenario!(a_patch_merges_and_a_put_replaces);
async fn a_patch_merges_and_a_put_replaces(hub: &TestHub) {
    hub.create_device("d").await;
    let path = "/twins/d";
    let first = read(hub, path).await;
    let body = r#"{"deviceId":"else","version":9,"unknown":[{}],"tags":{"a":{"b":1,"c":[1,"ä"]}},
        "properties":{"desired":{"n":1.50,"o":{"p":true},"$version":77,"$metadata":{}},
                      "reported":{"mine":1},"more":{}}}"#;
    let second = twin(hub, patch(hub, path, body)).await;
    assert_ne!(second["etag"], first["etag"]);
    assert_eq!(second["version"], first["version"].as_u64().expect("a version") + 1);
    assert_eq!(second["tags"], json!({"a": {"b": 1, "c": [1, "ä"]}}));
    assert_eq!(own(&second["properties"]["desired"]), json!({"n": 1.5, "o": {"p": true}}));
    assert_eq!(second["properties"]["desired"]["$version"], 2);
    let metadata = &second["properties"]["desired"]["$metadata"];
    assert_eq!(metadata["o"]["p"]["$lastUpdatedVersion"], 2);
    assert_eq!(second["properties"]["reported"], first["properties"]["reported"]);
    assert_eq!(read(hub, path).await, second);

    // Either part alone; what is not named stays.
    let body = r#"{"properties":{"desired":{"o":{"p":null,"q":0},"x":null}}}"#;
    let third = twin(hub, patch(hub, path, body)).await;
    assert_eq!(own(&third["properties"]["desired"]), json!({"n": 1.5, "o": {"q": 0}}));
    assert_eq!(third["tags"], second["tags"]);
    let fourth = twin(hub, patch(hub, path, r#"{"tags":{"a":null}}"#)).await;
    assert_eq!(fourth["tags"], json!({}));
    assert_eq!(fourth["properties"], third["properties"]);
    for nothing in ["{}", r#"{"tags":null,"properties":null}"#, r#"{"properties":{}}"#] {
        let same = twin(hub, patch(hub, path, nothing)).await;
        assert_eq!(own(&same["properties"]["desired"]), json!({"n": 1.5, "o": {"q": 0}}));
    }

    // As it was read, it is put in place.
    let again = twin(hub, put(hub, path, second.to_string())).await;
    assert_eq!(again["tags"], second["tags"]);
    assert_eq!(own(&again["properties"]["desired"]), own(&second["properties"]["desired"]));
    assert_eq!(again["properties"]["reported"], first["properties"]["reported"]);
    let emptied = twin(hub, put(hub, path, r#"{"tags":{"only":1}}"#)).await;
    assert_eq!(emptied["tags"], json!({"only": 1}));
    assert_eq!(own(&emptied["properties"]["desired"]), json!({}));
    let emptied = twin(hub, put(hub, path, "{}")).await;
    assert_eq!(emptied["tags"], json!({}));
}

scenario!(an_etag_guards_a_twin_in_every_quoting);
async fn an_etag_guards_a_twin_in_every_quoting(hub: &TestHub) {
    hub.create_device("d").await;
    let body = r#"{"tags":{"a":1}}"#;
    let old = read(hub, "/twins/d").await["etag"].as_str().expect("an ETag").to_owned();
    let mut etag = old.clone();
    for form in ["\"E\"", "E", "W/\"E\"", "*", "\"*\""] {
        for method in [Method::PATCH, Method::PUT] {
            let if_match = form.replace('E', &etag);
            let call = request(hub, method.clone(), "/twins/d").body(body);
            let changed = twin(hub, call.header("if-match", &if_match)).await;
            assert_ne!(changed["etag"], etag.as_str(), "{method} {if_match}");
            changed["etag"].as_str().expect("an ETag").clone_into(&mut etag);
        }
    }
    for if_match in ["\"E\"", "E", "W/\"E\"", "\"\"", "x", "\"x"] {
        for call in [patch(hub, "/twins/d", body), put(hub, "/twins/d", "{}")] {
            let call = call.header("if-match", if_match.replace('E', &old));
            refused(hub, if_match, call, "PreconditionFailed").await;
        }
    }
    let call = patch(hub, "/twins/d", body).header("if-match", b"\xff\xfe".as_slice());
    refused(hub, "not ASCII", call, "ArgumentInvalid").await;
    assert_eq!(read(hub, "/twins/d").await["etag"], etag.as_str(), "refusals change nothing");
}

scenario!(of_many_writers_none_is_lost_and_one_has_the_etag);
async fn of_many_writers_none_is_lost_and_one_has_the_etag(hub: &TestHub) {
    const WRITERS: usize = 20;
    hub.create_device("d").await;
    let write = async |etag: &str| {
        let mut calls = JoinSet::new();
        for writer in 0..WRITERS {
            let body = format!(r#"{{"properties":{{"desired":{{"w{writer}":"{writer}"}}}}}}"#);
            let call = patch(hub, "/twins/d", body).header("if-match", etag);
            let client = hub.client();
            calls.spawn(
                async move { client.send(call).await.expect("an answer").status().as_u16() },
            );
        }
        calls.join_all().await
    };
    let first = read(hub, "/twins/d").await;
    let statuses = write(first["etag"].as_str().expect("an ETag")).await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 412].contains(status)), "{statuses:?}");
    let statuses = write("*").await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let last = read(hub, "/twins/d").await;
    assert_eq!(last["properties"]["desired"]["$version"], 2 + WRITERS);
    let desired = own(&last["properties"]["desired"]);
    assert_eq!(desired.as_object().map(serde_json::Map::len), Some(WRITERS), "{desired}");
}

scenario!(a_module_has_a_twin_of_its_own);
async fn a_module_has_a_twin_of_its_own(hub: &TestHub) {
    hub.create_device("d").await;
    hub.create_device("d/m").await;
    let path = "/twins/d/modules/m";
    let got = twin(hub, patch(hub, path, r#"{"properties":{"desired":{"a":1}}}"#)).await;
    assert_eq!((&got["deviceId"], &got["moduleId"]), (&json!("d"), &json!("m")));
    assert!(got.get("capabilities").is_none());
    assert_eq!(own(&got["properties"]["desired"]), json!({"a": 1}));
    let device = read(hub, "/twins/d").await;
    assert!(device.get("moduleId").is_none());
    assert_eq!(own(&device["properties"]["desired"]), json!({}));
    let emptied = twin(hub, put(hub, path, "{}").header("if-match", "*")).await;
    assert_eq!(own(&emptied["properties"]["desired"]), json!({}));
    refused(hub, "m", request(hub, Method::GET, "/twins/d/modules/n"), "ModuleNotFound").await;
    refused(hub, "d", patch(hub, "/twins/e/modules/m", "{}"), "DeviceNotFound").await;
    refused(hub, "d", request(hub, Method::GET, "/twins/e"), "DeviceNotFound").await;
    refused(hub, "d", put(hub, "/twins/e", "{}"), "DeviceNotFound").await;
}

scenario!(what_is_no_twin_is_refused_and_changes_nothing);
async fn what_is_no_twin_is_refused_and_changes_nothing(hub: &TestHub) {
    hub.create_device("d").await;
    let path = "/twins/d";
    let before = twin(hub, patch(hub, path, r#"{"tags":{"a":1}}"#)).await;
    let (form, content) = ("IotHubFormatError", "ArgumentInvalid");
    let desired = |text: &str| format!(r#"{{"properties":{{"desired":{text}}}}}"#).into_bytes();
    let deep = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    let text = |text: &str| text.as_bytes().to_vec();
    for (what, body, code) in [
        ("empty", text(""), form),
        ("null", text("null"), form),
        ("an array", text(r#"[{"a":1},{"desired":{}}]"#), form),
        ("two documents", text("{}{}"), form),
        ("not UTF-8", b"{\"tags\":{\"a\":\"\xff\"}}".to_vec(), form),
        ("not UTF-8 where it is passed over", b"{\"x\":\"\xff\"}".to_vec(), form),
        ("unclosed and deep", desired(&"[".repeat(100_000)), form),
        ("a section twice", text(r#"{"tags":{},"tags":{}}"#), form),
        ("properties are no object", text(r#"{"properties":[]}"#), form),
        ("desired twice", text(r#"{"properties":{"desired":{},"desired":{}}}"#), form),
        ("tags are an array", text(r#"{"tags":[]}"#), content),
        ("tags are a number", text(r#"{"tags":5}"#), content),
        ("desired is a text", desired("\"x\""), content),
        ("a key twice", desired(r#"{"a":{"b":1,"b":2}}"#), content),
        ("a key twice, escaped", desired(r#"{"a":1,"\u0061":2}"#), content),
        ("eleven levels below the outermost", desired(&deep(12)), content),
        ("very many levels", desired(&deep(100_000)), content),
        ("a key with a dot", desired(r#"{"a.b":1}"#), content),
        ("a key with a dollar", desired(r#"{"$b":1}"#), content),
        ("a key with a space", text(r#"{"tags":{"a b":1}}"#), content),
        ("a key with a control character", desired(r#"{"a\u0001":1}"#), content),
        ("a long key", desired(&json!({"k".repeat(1_025): 1}).to_string()), content),
        ("a long text", desired(&json!({"a": "x".repeat(4_097)}).to_string()), content),
        ("a large integer", desired(r#"{"a":4503599627370496}"#), content),
        ("a number beyond all", desired(r#"{"a":1e999}"#), content),
        ("half a character", desired(r#"{"a":"\ud800"}"#), content),
        ("large tags", json!({"tags": fill(8 << 10)}).to_string().into_bytes(), content),
        ("large desired", desired(&fill(32 << 10).to_string()), content),
        ("a large body", vec![b' '; (2 << 20) + 1], "MessageTooLarge"),
    ] {
        refused(hub, what, patch(hub, path, body.clone()), code).await;
        refused(hub, what, put(hub, path, body), code).await;
    }
    assert_eq!(read(hub, path).await, before);
    // And what is just within.
    let body = json!({
        "tags": fill((8 << 10) - 1_100),
        "properties": {"desired": fill((32 << 10) - 1_100)},
    });
    let full = twin(hub, put(hub, path, body.to_string())).await;
    twin(hub, put(hub, path, full.to_string())).await;
    twin(hub, patch(hub, path, desired(&deep(11)))).await;
}

/// An object of more than `bytes` bytes, as the hub counts them, and less than 1,030 more.
fn fill(bytes: usize) -> Value {
    (0..=bytes / 1_024).map(|key| (format!("{key:04}"), json!("x".repeat(1_020)))).collect()
}

scenario!(a_full_twin_of_small_values_is_put_as_it_was_read);
async fn a_full_twin_of_small_values_is_put_as_it_was_read(hub: &TestHub) {
    hub.create_device("d").await;
    let letters: Vec<char> = ('a'..='z').chain('A'..='Z').collect();
    let pairs = letters.iter().flat_map(|a| letters.iter().map(move |b| format!("{a}{b}")));
    // Two letters and a boolean count as six.
    let small: Value = pairs.map(|key| (key, Value::Bool(true))).collect();
    let parts: Value = ["u", "v"].iter().map(|part| ((*part).to_owned(), small.clone())).collect();
    let body = json!({"properties": {"desired": parts}});
    let full = twin(hub, patch(hub, "/twins/d", body.to_string())).await;
    let again = twin(hub, put(hub, "/twins/d", full.to_string())).await;
    assert_eq!(own(&again["properties"]["desired"]), parts);
}

scenario!(a_body_that_was_cut_off_changes_nothing);
async fn a_body_that_was_cut_off_changes_nothing(hub: &TestHub) {
    hub.create_device("d").await;
    let before = read(hub, "/twins/d").await;
    let body = r#"{"tags":{"a":[1,{"b":"ä"}]},"properties":{"desired":{"c":1.5e3}}}"#;
    for end in 0..body.len() {
        let cut = body.as_bytes()[..end].to_vec();
        refused(hub, &format!("{end}"), patch(hub, "/twins/d", cut), "IotHubFormatError").await;
    }
    assert_eq!(read(hub, "/twins/d").await, before);
    twin(hub, patch(hub, "/twins/d", body)).await;
}

scenario!(no_path_leads_around_a_twin);
async fn no_path_leads_around_a_twin(hub: &TestHub) {
    hub.create_device("d").await;
    hub.create_device("d/m").await;
    let before = read(hub, "/twins/d").await;
    for (path, code) in [
        ("/twins", "GenericNotFound"),
        ("/twins/", "GenericNotFound"),
        ("/twins//", "GenericNotFound"),
        ("/twins/d/", "GenericNotFound"),
        ("//twins/d", "GenericNotFound"),
        ("/TWINS/d", "GenericNotFound"),
        ("/twins/d/modules", "GenericNotFound"),
        ("/twins/d/modules/", "GenericNotFound"),
        ("/twins/d/modules/m/", "GenericNotFound"),
        ("/twins/d/modules/m/x", "GenericNotFound"),
        ("/twins/d/properties", "GenericNotFound"),
        ("/twins/d%2Fm", "ArgumentInvalid"),
        ("/twins/d%2Fmodules%2Fm", "ArgumentInvalid"),
        ("/twins/%2e%2e%2fd", "ArgumentInvalid"),
        ("/twins/d%00", "ArgumentInvalid"),
        ("/twins/d%20", "ArgumentInvalid"),
        ("/twins/%ff", "ArgumentInvalid"),
        ("/twins/d/modules/m%2F", "ArgumentInvalid"),
        ("/dunlin.v1.Twins/GetTwin", "GenericNotFound"),
        ("/dunlin.v1.Methods/InvokeMethod", "GenericNotFound"),
    ] {
        for method in [Method::GET, Method::PATCH, Method::PUT] {
            let call = request(hub, method.clone(), path).body(r#"{"tags":{"x":1}}"#);
            refused(hub, &format!("{method} {path}"), call, code).await;
        }
    }
    for method in [Method::POST, Method::DELETE] {
        let call = request(hub, method, "/twins/d").body("{}");
        refused(hub, "a method of HTTP", call, "GenericMethodNotAllowed").await;
    }
    assert_eq!(read(hub, "/twins/d").await, before);
}
