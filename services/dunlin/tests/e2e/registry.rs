//! Device and module identities over the REST API.

use dunlin::client::{ClientError, encoded};
use dunlin::test_hub::TestHub;
use dunlin_auth::{ConnectionString, Key, connection_string::Signer};
use dunlin_model::ErrorCode;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

const VERSION: &str = "api-version=2021-04-12";

pub async fn send(hub: &TestHub, request: RequestBuilder) -> Response {
    hub.client().send(request).await.expect("an answer")
}

pub fn request(hub: &TestHub, method: Method, path: &str) -> RequestBuilder {
    let separator = if path.contains('?') { '&' } else { '?' };
    hub.client().request(method, &format!("{path}{separator}{VERSION}"))
}

/// Checks that an answer is that error, in the form every SDK reads.
#[track_caller]
fn check_error(
    what: &str,
    status: u16,
    headers: &reqwest::header::HeaderMap,
    body: &[u8],
    code: &str,
) {
    let known = ErrorCode::ALL.iter().find(|known| known.name() == code);
    let number = known.unwrap_or_else(|| panic!("no such code: {code}")).http_status();
    let text = String::from_utf8_lossy(body);
    let header = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    assert_eq!((status, header("iothub-errorcode")), (number, code), "{what}: {text}");
    assert_eq!(header("content-type"), "application/json; charset=utf-8", "{what}");
    let body: Value = serde_json::from_slice(body).expect("JSON");
    let message = body["Message"].as_str().expect("a message");
    assert!(message.starts_with(&format!("ErrorCode:{code};")), "{what}: {message}");
    assert!(body["ExceptionMessage"].as_str().expect("a string").starts_with("Tracking ID:"));
}

pub async fn refused(hub: &TestHub, what: &str, request: RequestBuilder, code: &str) {
    let response = send(hub, request).await;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await.expect("a body");
    check_error(what, status, &headers, &body, code);
}

scenario!(a_device_is_created_read_listed_replaced_and_deleted);
async fn a_device_is_created_read_listed_replaced_and_deleted(hub: &TestHub) {
    let body = json!({"deviceId": "d", "status": "enabled", "capabilities": {"iotEdge": false}});
    let put = |body: &Value| request(hub, Method::PUT, "/devices/d").json(body);
    let response = send(hub, put(&body)).await;
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], "application/json; charset=utf-8");
    let header = response.headers()["etag"].to_str().expect("ASCII").to_owned();
    let made: Value = response.json().await.expect("JSON");
    let etag = made["etag"].as_str().expect("an ETag").to_owned();
    assert_eq!(header, format!("\"{etag}\""));
    let keys = &made["authentication"]["symmetricKey"];
    let generation = made["generationId"].as_str().expect("a generation");
    assert!(generation.bytes().all(|b| b.is_ascii_digit()), "{generation}");
    let want = json!({
        "deviceId": "d", "generationId": generation, "etag": etag, "status": "enabled",
        "statusReason": null, "statusUpdatedTime": "0001-01-01T00:00:00Z",
        "connectionState": "Disconnected", "connectionStateUpdatedTime": "0001-01-01T00:00:00Z",
        "lastActivityTime": "0001-01-01T00:00:00Z",
        "cloudToDeviceMessageCount": 0,
        "authentication": {
            "symmetricKey": keys,
            "x509Thumbprint": {"primaryThumbprint": null, "secondaryThumbprint": null},
            "type": "sas",
        },
        "capabilities": {"iotEdge": false},
    });
    assert_eq!(made, want);
    for name in ["primaryKey", "secondaryKey"] {
        Key::from_base64(keys[name].as_str().expect("a key")).expect("a key");
    }
    assert_eq!(hub.client().device_get("d").await.expect("found"), made);
    refused(hub, "again", put(&body), "DeviceAlreadyExists").await;

    hub.create_device("c").await;
    for path in ["/devices", "/devices/", "/devices?top=0", "/devices?top=-1", "/devices?top=2"] {
        let list: Value =
            send(hub, request(hub, Method::GET, path)).await.json().await.expect("JSON");
        assert_eq!(list[1], made, "{path}");
        assert_eq!((list[0]["deviceId"].as_str(), list[2].as_str()), (Some("c"), None), "{path}");
    }
    assert_eq!(hub.client().device_list(1).await.expect("listed")[1], Value::Null);

    let off = json!({"status": "disabled", "statusReason": "stolen"});
    refused(hub, "old", put(&off).header("if-match", "\"old\""), "PreconditionFailed").await;
    let mut last = made;
    for if_match in [format!("\"{etag}\""), "*".into(), "\"*\"".into()] {
        let response = send(hub, put(&off).header("if-match", &if_match)).await;
        assert_eq!(response.status().as_u16(), 200, "{if_match}");
        let next: Value = response.json().await.expect("JSON");
        assert_ne!(next["etag"], last["etag"]);
        assert_eq!(next["statusReason"], "stolen");
        assert_eq!(next["authentication"], last["authentication"]);
        assert_ne!(next["statusUpdatedTime"], "0001-01-01T00:00:00Z");
        last = next;
    }
    let bare = last["etag"].as_str().expect("an ETag");
    let delete = |path: &str| request(hub, Method::DELETE, path);
    refused(hub, "old", delete("/devices/d").header("if-match", &etag), "PreconditionFailed").await;
    let gone = send(hub, delete("/devices/d").header("if-match", bare)).await;
    assert_eq!(gone.status().as_u16(), 204);
    assert!(gone.bytes().await.expect("no body").is_empty());
    refused(hub, "gone", delete("/devices/d").header("if-match", "*"), "DeviceNotFound").await;
    refused(hub, "gone", put(&off).header("if-match", "*"), "DeviceNotFound").await;
    refused(hub, "gone", request(hub, Method::GET, "/devices/d"), "DeviceNotFound").await;
    assert_eq!(send(hub, delete("/devices/c")).await.status().as_u16(), 204, "without If-Match");
}

scenario!(keys_that_are_empty_are_made_anew);
async fn keys_that_are_empty_are_made_anew(hub: &TestHub) {
    hub.create_device("d").await;
    hub.create_device("d/m").await;
    let sas = |keys: Value| json!({"authentication": {"type": "sas", "symmetricKey": keys}});
    for id in ["d", "d/m"] {
        let replaced = async |body: &Value| {
            let shown = hub.client().device_put(id, body, Some("*")).await.expect("replaced");
            ["primaryKey", "secondaryKey"].map(|name| {
                shown["authentication"]["symmetricKey"][name].as_str().expect("a key").to_owned()
            })
        };
        let mut before = replaced(&json!({})).await;
        for (body, renews) in [
            (json!({"authentication": null}), false),
            (json!({"authentication": {"type": "sas"}}), false),
            (sas(Value::Null), false),
            (sas(json!({})), false),
            (sas(json!({"primaryKey": null, "secondaryKey": null})), false),
            (sas(json!({"primaryKey": "", "secondaryKey": ""})), true),
        ] {
            let after = replaced(&body).await;
            assert_eq!(after[0] != before[0], renews, "{id}: {body}");
            assert_eq!(after[1] != before[1], renews, "{id}: {body}");
            before = after;
        }
    }
}

scenario!(modules_are_identities_of_their_own);
async fn modules_are_identities_of_their_own(hub: &TestHub) {
    let path = "/devices/d/modules/m";
    let put = || request(hub, Method::PUT, path).json(&json!({"moduleId": "m", "deviceId": "d"}));
    refused(hub, "no device", put(), "DeviceNotFound").await;
    hub.create_device("d").await;
    refused(hub, "no module", request(hub, Method::GET, path), "ModuleNotFound").await;
    let empty: Value = hub
        .client()
        .call(request(hub, Method::GET, "/devices/d/modules"))
        .await
        .expect("no modules");
    assert_eq!(empty, json!([]));
    let made: Value = send(hub, put()).await.json().await.expect("JSON");
    assert_eq!((&made["moduleId"], &made["deviceId"]), (&json!("m"), &json!("d")));
    assert_eq!(made["managedBy"], Value::Null);
    assert!(made.get("status").is_none() && made.get("capabilities").is_none());
    refused(hub, "again", put(), "ModuleAlreadyExistsOnDevice").await;
    let list = hub.client().call(request(hub, Method::GET, "/devices/d/modules/")).await;
    assert_eq!(list.expect("listed"), json!([made]));
    let disabled = request(hub, Method::PUT, path).header("if-match", "*");
    let disabled = disabled.json(&json!({"status": "disabled"}));
    refused(hub, "disabled", disabled, "ArgumentInvalid").await;
    hub.client().device_delete("d/m", "*").await.expect("deleted");
    refused(hub, "gone", request(hub, Method::GET, path), "ModuleNotFound").await;
    let nobody = request(hub, Method::GET, "/devices/nobody/modules");
    refused(hub, "nobody", nobody, "DeviceNotFound").await;
}

scenario!(ids_are_what_they_are_however_they_are_encoded);
async fn ids_are_what_they_are_however_they_are_encoded(hub: &TestHub) {
    let id = "A-z:0.+%_#*?!(),=@;$'";
    hub.create_device(id).await;
    let raw = "/devices/A-z:0.+%25_%23*%3F!(),=@;$'";
    let got = hub.client().call(request(hub, Method::GET, raw)).await.expect("found");
    assert_eq!(got["deviceId"], id);
    for (what, path) in [
        ("slash", "/devices/a%2Fb".to_owned()),
        ("space", "/devices/a%20b".to_owned()),
        ("NUL", "/devices/a%00b".to_owned()),
        ("not UTF-8", "/devices/%ff%fe".to_owned()),
        ("long", format!("/devices/{}", "x".repeat(129))),
        ("umlaut", format!("/devices/{}", encoded("ä"))),
    ] {
        refused(hub, what, request(hub, Method::GET, &path), "ArgumentInvalid").await;
        let put = request(hub, Method::PUT, &path).json(&json!({}));
        refused(hub, what, put, "ArgumentInvalid").await;
    }
}

scenario!(only_a_permitted_policy_gets_in);
async fn only_a_permitted_policy_gets_in(hub: &TestHub) {
    let key = hub.create_device("d").await;
    let get = |token: &str| {
        reqwest_without_token(hub, "/devices/d?api-version=2021-04-12")
            .header("authorization", token)
    };
    let sign = |resource: &str, policy: Option<&str>, key: &Key, seconds: i64| {
        let now = jiff::Timestamp::now().as_second() + seconds;
        dunlin_auth::sas::sign(resource, policy, key, u64::try_from(now).expect("after 1970"))
    };
    let owner = &hub.owner_connection_string().key;
    let host = hub.hostname();
    let good = sign("HUB.localhost/devices", Some("iothubowner"), owner, 60);
    assert_eq!(send(hub, get(&good)).await.status().as_u16(), 200);
    let device = format!("{host}/devices/d");
    for (what, token) in [
        ("empty", String::new()),
        ("another scheme", "Bearer x".to_owned()),
        ("a device's own key", sign(&device, None, &key, 60)),
        ("a key of nobody", sign(host, Some("iothubowner"), &Key::generate(), 60)),
        ("no such policy", sign(host, Some("nobody"), owner, 60)),
        ("expired", sign(host, Some("iothubowner"), owner, -301)),
        ("another hub", sign("other.example", Some("iothubowner"), owner, 60)),
        ("another device", sign(&format!("{host}/devices/e"), Some("iothubowner"), owner, 60)),
    ] {
        refused(hub, what, get(&token), "IotHubUnauthorized").await;
    }
    let without = reqwest_without_token(hub, "/devices/d?api-version=2021-04-12");
    refused(hub, "no header", without, "IotHubUnauthorized").await;
    let other_host =
        ConnectionString { key: Key::generate(), ..hub.owner_connection_string().clone() };
    let error = hub.client_as(other_host).device_get("d").await.expect_err("a wrong key");
    assert!(matches!(error, ClientError::Refused { status: 401, .. }), "{error}");
    let device = ConnectionString {
        signer: Signer::Identity(dunlin_model::Identity::device("d").expect("an id")),
        ..hub.owner_connection_string().clone()
    };
    let client = dunlin::client::Client::new(device, None, None);
    assert!(matches!(client.err(), Some(ClientError::NotAPolicy)));
}

/// A request of the hub's own client but for the token.
pub fn reqwest_without_token(hub: &TestHub, path: &str) -> RequestBuilder {
    let ca = reqwest::Certificate::from_pem(hub.ca_pem().as_bytes()).expect("a CA");
    let http = dunlin::client::http()
        .tls_certs_only([ca])
        .resolve(hub.hostname(), hub.https_addr())
        .build()
        .expect("a client");
    http.get(format!("https://{}{path}", hub.owner_connection_string().host))
}

scenario!(bad_requests_are_answered_in_the_form_of_the_hub);
async fn bad_requests_are_answered_in_the_form_of_the_hub(hub: &TestHub) {
    let client = hub.client();
    for (what, method, path, code) in [
        ("no version", Method::GET, "/devices/d".to_owned(), "InvalidProtocolVersion"),
        (
            "old",
            Method::GET,
            "/devices?api-version=2015-01-01".to_owned(),
            "InvalidProtocolVersion",
        ),
        ("root", Method::GET, "/".to_owned(), "GenericNotFound"),
        ("nothing", Method::GET, format!("/nothing?{VERSION}"), "GenericNotFound"),
        ("method", Method::PATCH, format!("/devices/d?{VERSION}"), "GenericMethodNotAllowed"),
        ("top", Method::GET, format!("/devices?top=many&{VERSION}"), "ArgumentInvalid"),
        ("gRPC", Method::POST, "/dunlin.v1.Registry/GetPolicy".to_owned(), "GenericNotFound"),
        ("gRPC", Method::POST, "//dunlin.v1.Registry/GetPolicy".to_owned(), "GenericNotFound"),
        ("inside", Method::GET, format!("/rest/devices/d?{VERSION}"), "GenericNotFound"),
    ] {
        refused(hub, what, client.request(method, &path), code).await;
    }

    let key = Key::generate().to_base64();
    let sas = |primary: &str, secondary: &str| {
        json!({"authentication": {"type": "sas",
               "symmetricKey": {"primaryKey": primary, "secondaryKey": secondary}}})
        .to_string()
        .into_bytes()
    };
    for (what, body, code) in [
        ("empty", Vec::new(), "IotHubFormatError"),
        ("cut", br#"{"deviceId":"#.to_vec(), "IotHubFormatError"),
        ("not UTF-8", b"{\"deviceId\":\"\xff\"}".to_vec(), "IotHubFormatError"),
        ("not an object", b"[]x".to_vec(), "IotHubFormatError"),
        ("a number as id", br#"{"deviceId":1}"#.to_vec(), "IotHubFormatError"),
        ("deep", "[".repeat(100_000).into_bytes(), "IotHubFormatError"),
        (
            "deep where it is ignored",
            format!("{{\"x\":{}", "[".repeat(100_000)).into_bytes(),
            "IotHubFormatError",
        ),
        ("another id", br#"{"deviceId":"e"}"#.to_vec(), "ArgumentInvalid"),
        ("status", br#"{"status":"asleep"}"#.to_vec(), "ArgumentInvalid"),
        ("one key of two", sas(&key, ""), "ArgumentInvalid"),
        ("a short key", sas("AA==", &key), "ArgumentInvalid"),
        ("no base64", sas("?", &key), "ArgumentInvalid"),
        (
            "a thumbprint that is none",
            br#"{"authentication":{"x509Thumbprint":{"primaryThumbprint":"xyz"}}}"#.to_vec(),
            "ArgumentInvalid",
        ),
        (
            "a long reason",
            json!({"statusReason": "x".repeat(129)}).to_string().into_bytes(),
            "ArgumentInvalid",
        ),
        ("large", vec![b' '; (1 << 20) + 1], "MessageTooLarge"),
    ] {
        let put = request(hub, Method::PUT, "/devices/d").body(body);
        refused(hub, what, put, code).await;
    }
    refused(hub, "nothing was made", request(hub, Method::GET, "/devices/d"), "DeviceNotFound")
        .await;
}
