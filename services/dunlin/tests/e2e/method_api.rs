//! Direct methods over the REST API: calls that a device answers, and calls that are refused.

use dunlin::test_hub::TestHub;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::method_kit::{answer, called, listening};
use crate::mqtt_kit::{Device, Door};
use crate::raw::within;
use crate::registry::{refused, request, send};

fn invoke(hub: &TestHub, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
    request(hub, Method::POST, &format!("/twins/{path}/methods")).body(body)
}

scenario!(what_a_device_answers_is_the_answer);
async fn what_a_device_answers_is_the_answer(hub: &TestHub) {
    let door = Door::of(hub);
    let mut device = listening(&door, &Device::create(hub, "d").await).await;
    hub.create_device("e").await;
    let mut module = listening(&door, &Device::create(hub, "e/m").await).await;
    for (path, raw) in [("d", &mut device), ("e/modules/m", &mut module)] {
        for (sent, got, status, said, want) in [
            (r#","payload": {"a":1.50} "#, r#"{"a":1.50}"#, 200, r#"{"b":2.50}"#, r#"{"b":2.50}"#),
            ("", "null", 404, "", "null"),
            (r#","payload":null"#, "null", -1, "null", "null"),
            (r#","payload":"ä""#, r#""ä""#, 0, " [1] ", "[1]"),
            (
                r#","responseTimeoutInSeconds":30,"connectTimeoutInSeconds":0,"x":{},"payload":1e999"#,
                "1e999",
                200,
                "1e999",
                "1e999",
            ),
        ] {
            let body = format!(r#"{{"methodName":"do-it"{sent}}}"#);
            let call = send(hub, invoke(hub, path, body.clone()));
            let device = async {
                let call = called(raw).await;
                assert_eq!((&*call.method, &*call.payload), ("do-it", got), "{body}");
                raw.send(&answer(status, &call.rid, said)).await;
            };
            let (response, ()) = within("a call", async { tokio::join!(call, device) }).await;
            assert_eq!(response.status().as_u16(), 200, "{body}");
            assert_eq!(response.headers()["content-type"], "application/json; charset=utf-8");
            let text = response.text().await.expect("a body");
            assert_eq!(text, format!(r#"{{"status":{status},"payload":{want}}}"#), "{body}");
        }
    }
}

scenario!(calls_that_cannot_be_made_are_refused);
async fn calls_that_cannot_be_made_are_refused(hub: &TestHub) {
    let device = Device::create(hub, "there").await;
    let _no_methods = Door::of(hub).enter(&device.connect()).await;
    hub.create_device("away").await;
    hub.create_device("away/m").await;
    let good = || json!({"methodName": "x", "payload": {}});
    let with = |name: &str, value: Value| {
        let mut body = good();
        body[name] = value;
        body.to_string().into_bytes()
    };
    let plain = good().to_string().into_bytes();
    let (form, content) = ("IotHubFormatError", "ArgumentInvalid");
    for (path, body, code) in [
        ("nobody", plain.clone(), "DeviceNotFound"),
        ("away/modules/n", plain.clone(), "ModuleNotFound"),
        ("away", plain.clone(), "DeviceNotOnline"),
        ("away/modules/m", plain.clone(), "DeviceNotOnline"),
        ("there", plain.clone(), "DeviceNotOnline"),
        ("a%20b", plain.clone(), content),
        ("there%2Fm", plain, content),
        ("there", Vec::new(), form),
        ("there", b"null".to_vec(), form),
        ("there", br#"["x",null,null,{}]"#.to_vec(), form),
        ("there", br#"{"methodName":"x","payload":"#.to_vec(), form),
        ("there", b"{\"methodName\":\"x\",\"payload\":\"\xff\"}".to_vec(), form),
        ("there", br#"{"methodName":"x","methodName":"y"}"#.to_vec(), form),
        ("there", format!(r#"{{"methodName":"x","payload":{}"#, "[".repeat(100_000)).into(), form),
        ("there", with("methodName", json!(5)), form),
        ("there", with("responseTimeoutInSeconds", json!("30")), form),
        ("there", with("connectTimeoutInSeconds", json!(0.5)), form),
        ("there", b"{}".to_vec(), content),
        ("there", with("methodName", json!("")), content),
        ("there", with("methodName", json!("a/b")), content),
        ("there", with("methodName", json!("a b")), content),
        ("there", with("responseTimeoutInSeconds", json!(4)), content),
        ("there", with("responseTimeoutInSeconds", json!(301)), content),
        ("there", with("connectTimeoutInSeconds", json!(-1)), content),
        ("there", with("connectTimeoutInSeconds", json!(301)), content),
        ("there", with("payload", json!("x".repeat(128 << 10))), "MessageTooLarge"),
        ("there", vec![b' '; (1 << 20) + 1], "MessageTooLarge"),
    ] {
        let what = format!("{path} {}", String::from_utf8_lossy(&body[..body.len().min(100)]));
        refused(hub, &what, invoke(hub, path, body), code).await;
    }
    let get = request(hub, Method::GET, "/twins/there/methods");
    refused(hub, "GET", get, "GenericMethodNotAllowed").await;
    let below = request(hub, Method::POST, "/twins/there/methods/x").body("{}");
    refused(hub, "below", below, "GenericNotFound").await;
}
