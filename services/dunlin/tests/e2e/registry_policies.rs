//! Shared access policies, tokens for URLs, and the two forms of error bodies.

use dunlin::client::{Client, ClientError};
use dunlin::test_hub::TestHub;
use dunlin_auth::{ConnectionString, Key, connection_string::Signer};
use reqwest::Method;
use serde_json::{Value, json};

use crate::registry::{refused, reqwest_without_token, send};

const POLICIES: &str = "/dunlin/v1/policies";

/// A client by one of a policy's keys.
pub fn client_as(hub: &TestHub, policy: &Value, key: &str) -> Client {
    let name = policy["name"].as_str().expect("a name").to_owned();
    let key = Key::from_base64(policy[key].as_str().expect("a key")).expect("a key");
    let owner = hub.owner_connection_string().clone();
    hub.client_as(ConnectionString { signer: Signer::Policy(name), key, ..owner })
}

async fn gets_in(client: &Client) -> bool {
    match client.device_list(1).await {
        Ok(_) => true,
        Err(ClientError::Refused { status: 401, .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

async fn call(hub: &TestHub, method: Method, path: &str, body: &Value) -> Value {
    let path = format!("{POLICIES}{path}");
    hub.client().call(hub.client().request(method, &path).json(body)).await.expect("done")
}

scenario!(policies_are_managed);
async fn policies_are_managed(hub: &TestHub) {
    let listed = call(hub, Method::GET, "", &json!({})).await;
    let names: Vec<_> = listed.as_array().expect("a list").iter().map(|p| &p["name"]).collect();
    assert_eq!(names, ["iothubowner", "service", "device", "registryRead", "registryReadWrite"]);
    let permissions = "RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect";
    assert_eq!(listed[0]["permissions"], permissions);

    let body = json!({"name": "mine", "permissions": "ServiceConnect,registryread"});
    let made = call(hub, Method::PUT, "/mine", &body).await;
    assert_eq!(made["permissions"], "RegistryRead, ServiceConnect");
    assert_eq!(call(hub, Method::GET, "/MINE", &json!({})).await, made);
    let other = json!({"name": "other", "permissions": "RegistryRead"});
    let other = call(hub, Method::POST, "", &other).await;

    let [mut primary, secondary] =
        ["primaryKey", "secondaryKey"].map(|key| client_as(hub, &made, key));
    assert!(gets_in(&primary).await && gets_in(&secondary).await);
    let renewed = call(hub, Method::POST, "/mine/renew-key", &json!({"key": "Primary"})).await;
    assert_ne!(renewed["primaryKey"], made["primaryKey"]);
    assert_eq!(renewed["secondaryKey"], made["secondaryKey"]);
    assert!(!gets_in(&primary).await && gets_in(&secondary).await);
    primary = client_as(hub, &renewed, "primaryKey");
    let swapped = call(hub, Method::POST, "/mine/renew-key", &json!({"key": "swap"})).await;
    assert_eq!(swapped["primaryKey"], renewed["secondaryKey"]);
    assert_eq!(swapped["secondaryKey"], renewed["primaryKey"]);
    assert!(gets_in(&primary).await && gets_in(&secondary).await);
    call(hub, Method::POST, "/mine/renew-key", &json!({"key": "secondary"})).await;
    assert!(!gets_in(&primary).await && gets_in(&secondary).await);
    call(hub, Method::DELETE, "/mine", &json!({})).await;
    assert!(!gets_in(&secondary).await);
    assert!(gets_in(&client_as(hub, &other, "primaryKey")).await, "another one's stay");

    let key = Key::generate().to_base64();
    let long = "x".repeat(65);
    for (what, method, path, body, code) in [
        (
            "twice",
            Method::PUT,
            "/Service",
            json!({"permissions": "RegistryRead"}),
            "GenericConflict",
        ),
        ("permits nothing", Method::PUT, "/p", json!({}), "ArgumentInvalid"),
        ("no such right", Method::PUT, "/p", json!({"permissions": "Fly"}), "ArgumentInvalid"),
        (
            "long",
            Method::PUT,
            &*format!("/{long}"),
            json!({"permissions": "RegistryRead"}),
            "ArgumentInvalid",
        ),
        ("odd", Method::PUT, "/a%20b", json!({"permissions": "RegistryRead"}), "ArgumentInvalid"),
        (
            "another name",
            Method::PUT,
            "/p",
            json!({"name": "q", "permissions": "RegistryRead"}),
            "ArgumentInvalid",
        ),
        ("no name", Method::POST, "", json!({"permissions": "RegistryRead"}), "ArgumentInvalid"),
        (
            "one key",
            Method::PUT,
            "/p",
            json!({"permissions": "RegistryRead", "primaryKey": key}),
            "ArgumentInvalid",
        ),
        ("not there", Method::GET, "/mine", json!({}), "GenericNotFound"),
        ("not there", Method::DELETE, "/mine", json!({}), "GenericNotFound"),
        ("not there", Method::POST, "/mine/renew-key", json!({"key": "swap"}), "GenericNotFound"),
        ("which key", Method::POST, "/other/renew-key", json!({"key": "both"}), "InvalidPolicyKey"),
        ("the owner", Method::DELETE, "/IotHubOwner", json!({}), "GenericForbidden"),
    ] {
        let path = format!("{POLICIES}{path}");
        refused(hub, what, hub.client().request(method, &path).json(&body), code).await;
    }
    for n in 6..16 {
        let body = json!({"permissions": "RegistryRead"});
        call(hub, Method::PUT, &format!("/p{n}"), &body).await;
    }
    let more = hub.client().request(Method::PUT, &format!("{POLICIES}/more"));
    let more = more.json(&json!({"permissions": "RegistryRead"}));
    refused(hub, "the seventeenth", more, "IotHubQuotaExceeded").await;
}

scenario!(a_policy_is_replaced_under_its_etag);
async fn a_policy_is_replaced_under_its_etag(hub: &TestHub) {
    let path = &format!("{POLICIES}/mine");
    let put = |etag: Option<&str>, body: &Value| {
        let put = hub.client().request(Method::PUT, path).json(body);
        if let Some(etag) = etag { put.header("if-match", etag) } else { put }
    };
    let read = json!({"permissions": "RegistryRead"});
    refused(hub, "missing", put(Some("*"), &read), "GenericNotFound").await;
    let created = send(hub, put(None, &read)).await;
    assert_eq!(created.status().as_u16(), 201);
    let header = created.headers()["etag"].to_str().expect("ASCII").to_owned();
    let made: Value = created.json().await.expect("JSON");
    let etag = made["etag"].as_str().expect("an ETag").to_owned();
    assert_eq!(header, format!("\"{etag}\""));
    assert_eq!(hub.client().policy_get("mine").await.expect("found"), made);
    refused(hub, "again", put(None, &read), "GenericConflict").await;
    refused(hub, "stale", put(Some("\"x\""), &read), "PreconditionFailed").await;

    // What is left out stays.
    let service = json!({"permissions": "ServiceConnect"});
    let replaced = send(hub, put(Some(&header), &service)).await;
    assert_eq!(replaced.status().as_u16(), 200);
    let replaced: Value = replaced.json().await.expect("JSON");
    assert_eq!(replaced["permissions"], "ServiceConnect");
    assert_eq!(replaced["primaryKey"], made["primaryKey"]);
    assert_ne!(replaced["etag"], made["etag"]);
    assert!(!gets_in(&client_as(hub, &made, "primaryKey")).await, "it permits that no more");
    refused(hub, "stale", put(Some(&etag), &read), "PreconditionFailed").await;
    let [primary, secondary] = [Key::generate().to_base64(), Key::generate().to_base64()];
    let keys = json!({"name": "mine", "primaryKey": primary, "secondaryKey": secondary});
    let rekeyed = hub.client().call(put(Some("*"), &keys)).await.expect("replaced");
    let want = json!({
        "name": "mine", "permissions": "ServiceConnect",
        "primaryKey": primary, "secondaryKey": secondary, "etag": rekeyed["etag"],
    });
    assert_eq!(rekeyed, want);
    hub.client().call(put(Some("\"*\""), &read)).await.expect("replaced");
    assert!(gets_in(&client_as(hub, &rekeyed, "secondaryKey")).await);
    for (what, body, code) in [
        ("another name", json!({"name": "other"}), "ArgumentInvalid"),
        ("no such right", json!({"permissions": "Fly"}), "ArgumentInvalid"),
        ("one key of two", json!({"primaryKey": primary}), "ArgumentInvalid"),
        ("a short key", json!({"primaryKey": "AA==", "secondaryKey": "AA=="}), "ArgumentInvalid"),
    ] {
        refused(hub, what, put(Some("*"), &body), code).await;
    }
    let owner = hub.client().request(Method::PUT, &format!("{POLICIES}/iothubowner"));
    let owner = owner.header("if-match", "*").json(&read);
    refused(hub, "the owner", owner, "GenericForbidden").await;

    let delete = |etag: &str| hub.client().request(Method::DELETE, path).header("if-match", etag);
    refused(hub, "stale", delete(&etag), "PreconditionFailed").await;
    let now = hub.client().policy_get("mine").await.expect("found");
    let now = now["etag"].as_str().expect("an ETag");
    assert_eq!(send(hub, delete(&format!("\"{now}\""))).await.status().as_u16(), 204);
}

scenario!(a_url_may_carry_a_short_lived_token);
async fn a_url_may_carry_a_short_lived_token(hub: &TestHub) {
    const EVENTS: &str = "/dunlin/v1/events";
    let client = hub.client();
    let service = client.policy_get("service").await.expect("found");
    let issue = async |policy: &Value| {
        let client = client_as(hub, policy, "primaryKey");
        let issue = client.request(Method::POST, &format!("{EVENTS}/token"));
        client.call(issue).await.expect("issued")
    };
    let issued = issue(&service).await;
    let token = issued["token"].as_str().expect("a token");
    assert!(issued["expires"].as_str().is_some_and(|time| time.ends_with('Z')), "{issued}");

    let by_url = |path: &str| reqwest_without_token(hub, path);
    let stream = send(hub, by_url(&format!("{EVENTS}?from=end&access_token={token}"))).await;
    assert_eq!(stream.status().as_u16(), 200);
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    for (what, path) in [
        ("damaged", format!("{EVENTS}?access_token=x{token}")),
        ("empty", format!("{EVENTS}?access_token=")),
        ("for another path", format!("/devices?api-version=2021-04-12&access_token={token}")),
        ("for policies", format!("{POLICIES}?access_token={token}")),
    ] {
        refused(hub, what, by_url(&path), "IotHubUnauthorized").await;
    }
    // A header counts before the URL.
    let both = by_url(&format!("{EVENTS}?access_token={token}")).header("authorization", "x");
    refused(hub, "both", both, "IotHubUnauthorized").await;
    let renewed = client.policy_renew_key("service", "secondary").await.expect("renewed");
    let late = by_url(&format!("{EVENTS}?access_token={token}"));
    refused(hub, "a key of its policy is renewed", late, "IotHubUnauthorized").await;
    let issued = issue(&renewed).await;
    let token = issued["token"].as_str().expect("a token");
    let stream = send(hub, by_url(&format!("{EVENTS}?access_token={token}"))).await;
    assert_eq!(stream.status().as_u16(), 200);
    client.policy_delete("service").await.expect("deleted");
    let late = by_url(&format!("{EVENTS}?access_token={token}"));
    refused(hub, "its policy is gone", late, "IotHubUnauthorized").await;
}

scenario!(later_api_versions_get_numbered_errors);
async fn later_api_versions_get_numbered_errors(hub: &TestHub) {
    for (version, numbered) in [
        ("2018-06-30", false),
        ("2020-05-31-preview", false),
        ("2021-04-12", false),
        ("2021-06-30-preview", true),
        ("2024-03-31", true),
    ] {
        let path = format!("/devices/nobody?api-version={version}");
        let response = send(hub, hub.client().request(Method::GET, &path)).await;
        assert_eq!(response.status().as_u16(), 404);
        assert_eq!(response.headers()["iothub-errorcode"], "DeviceNotFound");
        assert_eq!(response.headers()["content-type"], "application/json; charset=utf-8");
        let body: Value = response.json().await.expect("JSON");
        let message = body["Message"].as_str().expect("a message");
        if !numbered {
            assert!(message.starts_with("ErrorCode:DeviceNotFound;"), "{version}: {message}");
            continue;
        }
        assert_eq!(body["ExceptionMessage"], "");
        let inner: Value = serde_json::from_str(message).expect("JSON in JSON");
        assert_eq!(inner["errorCode"], 404_001);
        for name in ["trackingId", "message", "timestampUtc"] {
            assert!(inner[name].as_str().is_some_and(|text| !text.is_empty()), "{name}: {inner}");
        }
    }
}
