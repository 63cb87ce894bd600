//! Direct methods over the REST API: calls that a device answers, and calls that are refused.

use std::time::Duration;

use dunlin::test_hub::TestHub;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::mqtt_kit::{Device, Door};
use crate::raw::{Raw, publish, subscribe, within};
use crate::registry::{refused, request, send};

const CALLS: &str = "$iothub/methods/POST/#";

fn invoke(hub: &TestHub, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
    request(hub, Method::POST, &format!("/twins/{path}/methods")).body(body)
}

/// A connected device or module that takes methods.
async fn listening(hub: &TestHub, id: &str) -> Raw {
    let device = Device::create(hub, id).await;
    let mut raw = Door::of(hub).enter(&device.connect()).await;
    raw.send(&subscribe(1, &[(CALLS, 0)])).await;
    raw.expect(&[0x90, 3, 0, 1, 0]).await;
    raw
}

/// The next call: the method's name, the call's id, and the payload.
async fn called(raw: &mut Raw) -> (String, String, String) {
    read_call(&raw.packet().await.expect("a call"))
}

fn read_call(packet: &[u8]) -> (String, String, String) {
    assert_eq!(packet[0], 0x30, "a PUBLISH of QoS 0: {packet:x?}");
    let length = packet.iter().skip(1).position(|byte| byte & 0x80 == 0).expect("a length");
    let (length, rest) = packet[length + 2..].split_at(2);
    let (topic, payload) = rest.split_at(usize::from(length[0]) << 8 | usize::from(length[1]));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let topic = text(topic);
    let call = topic.strip_prefix("$iothub/methods/POST/").expect("a method's topic");
    let (name, id) = call.split_once("/?$rid=").expect("an id");
    (name.to_owned(), id.to_owned(), text(payload))
}

async fn answer(raw: &mut Raw, status: &str, id: &str, payload: &str) {
    let topic = format!("$iothub/methods/res/{status}/?$rid={id}");
    raw.send(&publish(0, &topic, 0, payload.as_bytes())).await;
}

scenario!(what_a_device_answers_is_the_answer);
async fn what_a_device_answers_is_the_answer(hub: &TestHub) {
    let mut device = listening(hub, "d").await;
    hub.create_device("e").await;
    let mut module = listening(hub, "e/m").await;
    for (path, raw) in [("d", &mut device), ("e/modules/m", &mut module)] {
        for (sent, got, status, said, want) in [
            (
                r#","payload": {"a":1.50} "#,
                r#"{"a":1.50}"#,
                "200",
                r#"{"b":2.50}"#,
                r#"{"b":2.50}"#,
            ),
            ("", "null", "404", "", "null"),
            (r#","payload":null"#, "null", "-1", "null", "null"),
            (r#","payload":"ä""#, r#""ä""#, "0", " [1] ", "[1]"),
            (
                r#","responseTimeoutInSeconds":30,"connectTimeoutInSeconds":0,"x":{},"payload":1e999"#,
                "1e999",
                "200",
                "1e999",
                "1e999",
            ),
        ] {
            let body = format!(r#"{{"methodName":"do-it"{sent}}}"#);
            let call = send(hub, invoke(hub, path, body.clone()));
            let device = async {
                let (name, id, payload) = called(raw).await;
                assert_eq!((name.as_str(), payload.as_str()), ("do-it", got), "{body}");
                answer(raw, status, &id, said).await;
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

scenario!(a_call_waits_for_a_device_to_connect);
async fn a_call_waits_for_a_device_to_connect(hub: &TestHub) {
    let device = Device::create(hub, "late").await;
    let body = r#"{"methodName":"x","connectTimeoutInSeconds":60}"#;
    let call = send(hub, invoke(hub, "late", body));
    let connects = async {
        let mut raw = Door::of(hub).enter(&device.connect()).await;
        raw.send(&subscribe(1, &[(CALLS, 0)])).await;
        // The call may come before the SUBACK [MQTT-3.8.4].
        let mut packets = [raw.packet().await.expect("one"), raw.packet().await.expect("two")];
        packets.sort();
        let (_, id, _) = read_call(&packets[0]);
        assert_eq!(packets[1], [0x90, 3, 0, 1, 0]);
        answer(&mut raw, "200", &id, "1").await;
    };
    let (response, ()) = within("a call", async { tokio::join!(call, connects) }).await;
    assert_eq!(response.text().await.expect("a body"), r#"{"status":200,"payload":1}"#);
}

scenario!(callers_that_go_away_leave_no_calls_behind);
async fn callers_that_go_away_leave_no_calls_behind(hub: &TestHub) {
    // As many as may wait for a device.
    const CALLS: usize = 100;
    let mut device = listening(hub, "d").await;
    let body = r#"{"methodName":"slow","responseTimeoutInSeconds":300}"#;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLS {
        let (client, call) = (hub.client(), invoke(hub, "d", body));
        callers.spawn(async move { client.send(call).await.map(drop) });
    }
    for _ in 0..CALLS {
        called(&mut device).await;
    }
    let code = "DeviceMaximumInflightMethodExceeded";
    refused(hub, "one more", invoke(hub, "d", body), code).await;
    callers.shutdown().await;
    let mut look = tokio::time::interval(Duration::from_millis(100));
    within("room for a call", async {
        loop {
            let mut call = std::pin::pin!(send(hub, invoke(hub, "d", body)));
            tokio::select! {
                (_, id, _) = called(&mut device) => {
                    answer(&mut device, "200", &id, "1").await;
                    assert_eq!(call.await.status().as_u16(), 200);
                    break;
                }
                refusal = &mut call => assert_eq!(refusal.status().as_u16(), 403),
            }
            look.tick().await;
        }
    })
    .await;
}
