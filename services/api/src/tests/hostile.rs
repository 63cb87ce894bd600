//! Bodies of every call that takes JSON: damaged, truncated, deep, of the wrong shape. Each is
//! refused as such, and none reaches the role it is for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::HeaderMap;
use http_body_util::Full;
use serde_json::{Value, json};

use super::*;

/// Calls that take a body, each with a good one in which every member is told of.
fn calls() -> [(&'static str, &'static str, Value); 13] {
    let authentication = json!({
        "type": "sas",
        "symmetricKey": {"primaryKey": "", "secondaryKey": ""},
        "x509Thumbprint": {"primaryThumbprint": "ab", "secondaryThumbprint": ""},
    });
    let device = json!({
        "deviceId": "d",
        "status": "enabled",
        "statusReason": "why",
        "authentication": authentication,
        "capabilities": {"iotEdge": true},
        "deviceScope": "x",
        "parentScopes": ["y"],
    });
    let module = json!({
        "deviceId": "d", "moduleId": "m", "managedBy": "z", "authentication": authentication,
    });
    let mut row = device.clone();
    let twin = json!({"tags": {"room": "x"}, "properties": {"desired": {"a": {"b": [1]}}}});
    let more = json!({
        "id": "d", "moduleId": "m", "eTag": "e", "twinETag": "t", "importMode": "create",
        "tags": twin["tags"], "properties": twin["properties"],
    });
    row.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let policy = json!({
        "name": "p", "permissions": "RegistryRead", "primaryKey": "a", "secondaryKey": "b",
    });
    let method = json!({
        "methodName": "m", "responseTimeoutInSeconds": 5, "connectTimeoutInSeconds": 5,
        "payload": {"a": "x"},
    });
    let regenerate = json!({"policyKey": "both", "devices": [{"id": "d", "moduleId": "m"}]});
    [
        ("PUT", "/devices/d", device),
        ("PUT", "/devices/d/modules/m", module),
        ("POST", "/devices", json!([row])),
        ("POST", "/devices/keys/regenerate", regenerate),
        ("POST", "/dunlin/v1/policies", policy.clone()),
        ("PUT", "/dunlin/v1/policies/p", policy),
        ("POST", "/dunlin/v1/policies/p/renew-key", json!({"key": "primary"})),
        ("PUT", "/dunlin/v1/certificates/c", json!({"certificate": "PEM"})),
        ("POST", "/dunlin/v1/certificates/c/verify", json!({"certificate": "PEM"})),
        ("PATCH", "/twins/d", twin.clone()),
        ("PUT", "/twins/d/modules/m", twin),
        ("POST", "/twins/d/methods", method),
        ("POST", COMMIT, json!({"group": "g", "positions": {"0": 1, "1": 2}})),
    ]
}

/// It asks the event log, where there is none.
const COMMIT: &str = "/dunlin/v1/events/commit";

/// What is handed on as it was written: the role that it is for judges what is in it.
const HANDED_ON: [&str; 3] = ["/tags", "/desired", "/payload"];

/// The API over roles that permit every call and answer it with an empty message; how often they
/// were asked for something else than permission and what is shown beside.
struct Site {
    api: Router,
    asked: Arc<AtomicUsize>,
}

impl Site {
    fn start() -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let answer = move |request: Request<Body>| async move {
            // A twin is shown with the number of its messages.
            let beside = ["/Authorize", "/CountCommands"];
            if !beside.iter().any(|call| request.uri().path().ends_with(call)) {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            let trailers = async { Some(Ok(HeaderMap::from_iter([status_ok()]))) };
            let body = Body::new(Full::from(&[0_u8; 5][..]).with_trailers(trailers));
            Response::builder()
                .header("content-type", "application/grpc")
                .body(body)
                .expect("a response")
        };
        let roles = [Role::Api, Role::Registry, Role::Twins, Role::Methods, Role::C2d];
        let mesh = Mesh::new(mesh::Config::default(), &roles, Handle::current());
        mesh.attach(Router::new().fallback(answer));
        Self { api: api(mesh), asked }
    }

    async fn send(&self, method: &str, path: &str, body: &[u8]) -> Response {
        let uri = format!("{PREFIX}{path}?api-version=2021-04-12");
        let request = Request::builder().method(method).uri(uri).header("authorization", "x");
        let request = request.body(Body::from(body.to_vec())).expect("a request");
        self.api.clone().oneshot(request).await.expect("infallible")
    }

    async fn refuses(&self, what: &str, (method, path): (&str, &str), body: &[u8]) {
        let answer = error_of(self.send(method, path, body).await).await;
        let want = (StatusCode::BAD_REQUEST, "IotHubFormatError".to_owned());
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]);
        assert_eq!(answer, want, "{method} {path}: {what}: {shown}");
        assert_eq!(self.asked.load(Ordering::SeqCst), 0, "{method} {path}: {what}: {shown}");
    }
}

fn status_ok() -> (axum::http::HeaderName, axum::http::HeaderValue) {
    (axum::http::HeaderName::from_static("grpc-status"), "0".parse().expect("a value"))
}

#[tokio::test(flavor = "multi_thread")]
async fn good_bodies_reach_their_role() {
    for (method, path, body) in calls() {
        let site = Site::start();
        let answer = site.send(method, path, body.to_string().as_bytes()).await;
        if path == COMMIT {
            assert_eq!(error_of(answer).await.0, StatusCode::SERVICE_UNAVAILABLE);
        } else {
            assert_eq!(site.asked.load(Ordering::SeqCst), 1, "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bodies_are_refused() {
    let site = Site::start();
    for (method, path, body) in calls() {
        let call = (method, path);
        let text = body.to_string();
        for end in 0..text.len() {
            site.refuses("cut off", call, &text.as_bytes()[..end]).await;
        }
        for more in ["x", ",", "{}", "\0", "]"] {
            site.refuses("goes on", call, format!("{text}{more}").as_bytes()).await;
        }
        site.refuses("a byte order mark", call, format!("\u{feff}{text}").as_bytes()).await;
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        site.refuses("UTF-16", call, &wide).await;
        for bad in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\\ud800", b"\\x", b"\n", b"\0"] {
            // A pair of surrogates is the twin's to judge, whose text that is.
            if path.starts_with("/twins") && !path.ends_with("/methods") && bad == b"\\ud800" {
                continue;
            }
            let at = text.find(":\"").expect("a text") + 2;
            let bytes = [&text.as_bytes()[..at], bad, &text.as_bytes()[at..]].concat();
            site.refuses("a bad text", call, &bytes).await;
        }
        for other in ["null", "true", "1", "\"x\"", "{", "[[]]", "[null]", "[1]", "[\"d\"]"] {
            site.refuses("another shape", call, other.as_bytes()).await;
        }
        let swapped = if body.is_array() { "{}" } else { "[]" };
        site.refuses("another shape", call, swapped.as_bytes()).await;
        // Its elements for the members, in their order, as serde would take it.
        let list = text.replace("{\"id\":\"d\",\"moduleId\":\"m\"}", "[\"d\",\"m\"]");
        if list != text {
            site.refuses("a list for an object", call, list.as_bytes()).await;
        }
        for nest in ["[", "{\"x\":", "[{\"x\":"] {
            site.refuses("deep", call, nest.repeat(20_000).as_bytes()).await;
            let (open, rest) = text.split_at(text.find('{').expect("an object") + 1);
            let deep = format!("{open}\"unknown\":{},{rest}", nest.repeat(20_000));
            site.refuses("deep where it is ignored", call, deep.as_bytes()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_the_wrong_type_or_twice_are_refused() {
    let site = Site::start();
    for (method, path, body) in calls() {
        for pointer in members(&body) {
            if HANDED_ON.iter().any(|name| pointer.contains(&format!("{name}/"))) {
                continue;
            }
            let good = body.pointer(&pointer).expect("a member");
            let handed_on = HANDED_ON.iter().any(|name| pointer.ends_with(name));
            for other in [json!(1), json!(true), json!("x"), json!([]), json!({}), json!([[]])] {
                // No text where one belongs, no list for an object: an empty object says nothing,
                // and is one.
                let fits = std::mem::discriminant(&other) == std::mem::discriminant(good);
                if handed_on || fits && other != json!([[]]) {
                    continue;
                }
                let mut bad = body.clone();
                *bad.pointer_mut(&pointer).expect("a member") = other;
                let what = format!("the type of {pointer}");
                site.refuses(&what, (method, path), bad.to_string().as_bytes()).await;
            }
            let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
            if body.pointer(parent).is_some_and(Value::is_object) {
                let member = format!("\"{name}\":{good}");
                let twice = body.to_string().replacen(&member, &format!("{member},{member}"), 1);
                assert_ne!(twice, body.to_string(), "{pointer}");
                site.refuses(&format!("{pointer} twice"), (method, path), twice.as_bytes()).await;
            }
        }
    }
}

/// The JSON pointers of everything inside.
fn members(value: &Value) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, one)| (name.clone(), one)).collect(),
        Value::Array(items) => {
            items.iter().enumerate().map(|(at, one)| (at.to_string(), one)).collect()
        }
        _ => Vec::new(),
    };
    let below = |(name, child): (String, &Value)| {
        let inner = members(child).into_iter().map(|rest| format!("/{name}{rest}"));
        [format!("/{name}")].into_iter().chain(inner).collect::<Vec<_>>()
    };
    children.into_iter().flat_map(below).collect()
}
