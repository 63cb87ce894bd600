//! What the tests of direct methods share: a caller, and a device that takes methods.

use dunlin::client::{Client, encoded};
use reqwest::Method;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::mqtt_kit::{Device, Door};
use crate::raw::{Connect, Raw, publish, subscribe, within};

pub const METHODS: &str = "$iothub/methods/POST/#";

/// The body of a success, or the name of the hub's error.
pub type Ended = Result<String, String>;

/// Calls a method with that body as it stands, as a task.
pub fn invoke(client: &Client, id: &str, body: impl Into<String>) -> JoinHandle<Ended> {
    let path = match id.split_once('/') {
        Some((device, module)) => {
            format!("/twins/{}/modules/{}/methods", encoded(device), encoded(module))
        }
        None => format!("/twins/{}/methods", encoded(id)),
    };
    let request = client.api(Method::POST, &path).body(body.into());
    let request = request.header("content-type", "application/json");
    let client = client.clone();
    tokio::spawn(async move {
        let response = client.send(request).await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.text().await.expect("a body");
        if status == 200 {
            return Ok(body);
        }
        let code = headers["iothub-errorcode"].to_str().expect("a name").to_owned();
        let message: Value = serde_json::from_str(&body).expect("JSON");
        let message = message["Message"].as_str().expect("a message");
        assert!(message.starts_with(&format!("ErrorCode:{code};")), "{message}");
        Err(code)
    })
}

/// A call with the shortest time for its answer, which the device has not had yet.
pub fn call(method: &str, connect: u32, payload: &str) -> String {
    format!(
        r#"{{"methodName":"{method}","responseTimeoutInSeconds":5,"connectTimeoutInSeconds":{connect},"payload":{payload}}}"#
    )
}

pub async fn ended(call: JoinHandle<Ended>) -> Ended {
    within("the end of a call", call).await.expect("a task")
}

/// A connection without a session of its own, so that what others left behind does not matter.
pub fn clean(device: &Device) -> Connect {
    Connect { clean: true, ..device.connect() }
}

/// A device that is connected and takes methods.
pub async fn listening(door: &Door, device: &Device) -> Raw {
    let mut raw = door.enter(&clean(device)).await;
    take_methods(&mut raw).await;
    raw
}

pub async fn take_methods(raw: &mut Raw) {
    raw.send(&subscribe(1, &[(METHODS, 0)])).await;
    raw.expect(&[0x90, 3, 0, 1, 0]).await;
}

/// A call as it reaches a device.
#[derive(Debug)]
pub struct Called {
    pub method: String,
    pub rid: String,
    pub payload: String,
}

/// The next packet, which must be a call.
#[track_caller]
pub fn called(raw: &mut Raw) -> impl Future<Output = Called> + '_ {
    let caller = std::panic::Location::caller();
    async move {
        let packet = raw.packet().await;
        let packet = packet.unwrap_or_else(|error| panic!("no call at {caller}: {error}"));
        // QoS 0, neither retained nor a duplicate.
        assert_eq!(packet[0], 0x30, "{packet:x?} at {caller}");
        let start = packet[1..].iter().position(|byte| byte & 0x80 == 0).expect("a length") + 2;
        let length = usize::from(u16::from_be_bytes([packet[start], packet[start + 1]]));
        let (topic, payload) = packet[start + 2..].split_at(length);
        let topic = std::str::from_utf8(topic).expect("a topic");
        let rest = topic.strip_prefix("$iothub/methods/POST/").expect(topic);
        let (method, rid) = rest.split_once("/?$rid=").expect(topic);
        assert!(!rid.is_empty() && !rid.contains(['&', '/', '?']), "{topic} at {caller}");
        Called {
            method: method.to_owned(),
            rid: rid.to_owned(),
            payload: String::from_utf8(payload.to_vec()).expect("text"),
        }
    }
}

/// An answer of QoS 0, as most SDKs send it.
pub fn answer(status: i64, rid: &str, payload: impl AsRef<[u8]>) -> Vec<u8> {
    publish(0, &answer_topic(status, rid), 0, payload.as_ref())
}

pub fn answer_topic(status: i64, rid: &str) -> String {
    format!("$iothub/methods/res/{status}/?$rid={rid}")
}
