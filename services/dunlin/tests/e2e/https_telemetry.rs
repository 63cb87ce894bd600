//! Telemetry over HTTPS: what a device sends in a request is stored as over MQTT, when it is told so.

use std::sync::Arc;
use std::time::Duration;

use dunlin::test_hub::TestHub;
use dunlin_model::event::{Event, header as stored};
use dunlin_runtime::{Role, clock};

use crate::hostile_kit::{Answer, header};
use crate::hostile_web::{VERSION, Web};
use crate::mqtt_kit::{Device, Door, bag, beside, bodies, deliver, events, everything, set_status};
use crate::mqtt_log::{Faults, FaultyLog};
use crate::raw::within;

const BATCH: &str = "Content-Type: application/vnd.microsoft.iothub.json\r\n";
const LIMIT: usize = 262_144;

/// Requests of one device.
struct Client {
    web: Web,
    target: String,
}

impl Client {
    fn new(hub: &TestHub, device: &Device) -> Self {
        let web = Web::new(hub).with_token(&device.token());
        Self { web, target: format!("/{}/messages/events?{VERSION}", device.path()) }
    }

    async fn post(&self, more: &str, body: &[u8]) -> Answer {
        let more = format!("{more}Content-Length: {}\r\n", body.len());
        self.say(&self.web.request("POST", &self.target, &more, body)).await
    }

    async fn say(&self, request: &[u8]) -> Answer {
        let mut answers = self.web.say(request, false).await;
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    }

    async fn accepted(&self, more: &str, body: &[u8]) {
        let answer = self.post(more, body).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{more}: {answer:?}");
        assert_eq!(header(&answer.head, "x-ms-request-id").map(str::len), Some(32));
    }
}

fn stamp<'a>(event: &'a Event, name: &str) -> &'a str {
    event.header(name).unwrap_or_default()
}

scenario!(a_message_is_stored_with_its_properties);
async fn a_message_is_stored_with_its_properties(hub: &TestHub) {
    Device::create(hub, "a+b#").await;
    for id in ["d", "a+b#/m%"] {
        let device = Device::create(hub, id).await;
        let mut client = Client::new(hub, &device);
        let path = device.path().replace('%', "%25").replace('+', "%2B").replace('#', "%23");
        client.target = format!("/{path}/messages/events?{VERSION}");
        client.accepted("", b"plain").await;
        let all = "iothub-to: /devices/d/messages/events\r\niothub-to: to\r\niothub-app-Colour: red\r\n\
                   iothub-app-empty: \r\nIOTHUB-MESSAGEID: mid\r\niothub-correlationid: cid\r\n\
                   iothub-userid: uid\r\niothub-expiry: 2030-01-01T00:00:00Z\r\niothub-ack: full\r\n\
                   iothub-contenttype: application/json\r\niothub-contentencoding: utf-8\r\n\
                   iothub-creationtimeutc: then\r\niothub-messageschema: schema\r\n\
                   iothub-operation: d2c\r\niothub-interface-id: urn:i\r\ndt-subject: part\r\n\
                   Content-Type: binary/octet-stream\r\nUser-Agent: any\r\niothub-unknown: x\r\n\
                   iothub-app-$.iothub-connection-device-id: evil\r\n\
                   iothub-connection-device-id: evil\r\niothub-messageid: second\r\n";
        client.accepted(all, b"\0\xff{}").await;
        client.accepted("iothub-creation-time-utc: then\r\n", b"").await;
        let key = id.split('/').next().unwrap_or_default();
        let stored_all = events(hub, key, 3).await;
        assert_eq!(bag(&stored_all[0]), [""; 0]);
        let mut got = bag(&stored_all[1]);
        got.sort();
        assert_eq!(
            got,
            [
                "$.absolute-expiry-time=2030-01-01T00:00:00Z",
                "$.content-encoding=utf-8",
                "$.content-type=application/json",
                "$.correlation-id=cid",
                "$.dt-subject=part",
                "$.iothub-ack=full",
                "$.iothub-creation-time-utc=then",
                "$.iothub-interface-id=urn:i",
                "$.iothub-message-schema=schema",
                "$.iothub-operation=d2c",
                "$.message-id=mid",
                "$.to=to",
                "$.user-id=uid",
                "colour=red",
                "empty=",
            ]
        );
        assert_eq!(stored_all[1].body, b"\0\xff{}");
        assert_eq!(bag(&stored_all[2]), ["$.iothub-creation-time-utc=then"]);
        for event in &stored_all {
            assert_eq!(stamp(event, stored::CONNECTION_DEVICE_ID), key);
            assert_eq!(
                stamp(event, stored::CONNECTION_MODULE_ID),
                id.split('/').nth(1).unwrap_or_default()
            );
            assert_eq!(stamp(event, stored::AUTH_GENERATION_ID), device.generation);
            assert_eq!(stamp(event, stored::MESSAGE_SOURCE), "Telemetry");
            let scope = if id.contains('/') { "module" } else { "device" };
            let method = format!(r#"{{"scope":"{scope}","type":"sas","issuer":"iothub"}}"#);
            assert_eq!(stamp(event, stored::AUTH_METHOD), method);
        }
    }
}

scenario!(a_batch_is_stored_whole_or_not);
async fn a_batch_is_stored_whole_or_not(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let client = Client::new(hub, &device);
    client
        .accepted(
            BATCH,
            br#"[{"body":"AP8=","properties":{"iothub-app-Colour":"red","iothub-messageid":"1"}},
             {"body":"a \u00fc","base64Encoded":false,"properties":{}},{"body":""}]"#,
        )
        .await;
    for bad in [
        r#"[{"body":"bm90","properties":{}},{"body":"no base64 !"}]"#,
        r#"[{"body":"bm90"},{}]"#,
        r#"[{"body":"bm90"}"#,
        r#"{"body":"bm90"}"#,
        "[]",
        "",
    ] {
        let answer = client.post(BATCH, bad.as_bytes()).await;
        assert_eq!((answer.status, answer.expect_refusal(bad).as_str()), (400, "ArgumentInvalid"));
    }
    let deep = "[".repeat(LIMIT);
    assert_eq!(client.post(BATCH, deep.as_bytes()).await.status, 400);
    // As large as may be, and a byte more.
    let batch = |length: usize| {
        let empty = r#"[{"body":"","base64Encoded":false},{"body":"bm90"}]"#;
        empty.replacen(r#""""#, &format!("\"{}\"", "x".repeat(length - empty.len())), 1)
    };
    client.accepted(BATCH, batch(LIMIT).as_bytes()).await;
    let answer = client.post(BATCH, batch(LIMIT + 1).as_bytes()).await;
    assert_eq!((answer.status, answer.expect_refusal("large").as_str()), (413, "MessageTooLarge"));
    let all = everything(hub, &door, &device).await;
    assert_eq!(bodies(&all[1..3]), ["a \u{fc}", ""]);
    assert_eq!(all[0].body, b"\0\xff");
    assert_eq!(bag(&all[0]), ["Colour=red", "$.message-id=1"]);
    assert_eq!((all.len(), all[4].body.as_slice()), (5, &b"not"[..]));
}

scenario!(a_message_has_its_limit);
async fn a_message_has_its_limit(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let client = Client::new(hub, &device);
    let properties = "iothub-messageid: 12345\r\niothub-app-name: value\r\n";
    let room = LIMIT - "12345namevalue".len();
    client.accepted(properties, &vec![b'x'; room]).await;
    client.accepted("", &vec![b'x'; LIMIT]).await;
    for (more, length) in [(properties, room + 1), ("", LIMIT + 1)] {
        let answer = client.post(more, &vec![b'x'; length]).await;
        assert_eq!((answer.status, answer.expect_refusal(more).as_str()), (413, "MessageTooLarge"));
    }
    // In chunks its length is not told; it is found.
    let chunk = |length: usize| {
        [format!("{length:x}\r\n").as_bytes(), &vec![b'x'; length], b"\r\n"].concat()
    };
    for (length, status) in [(LIMIT, 204), (LIMIT + 1, 413)] {
        let body = [chunk(1), chunk(length - 1), b"0\r\n\r\n".to_vec()].concat();
        let more = "Transfer-Encoding: chunked\r\n";
        let answer = client.say(&client.web.request("POST", &client.target, more, &body)).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    // One that is cut off is no message.
    let request = client.web.request("POST", &client.target, "Content-Length: 9\r\n", b"cut");
    for answer in client.web.say(&request, true).await {
        assert_eq!(answer.status / 100, 4, "{answer:?}");
    }
    let all = everything(hub, &door, &device).await;
    assert_eq!(all.iter().map(|event| event.body.len()).collect::<Vec<_>>(), [room, LIMIT, LIMIT]);
}

scenario!(who_may_not_is_told_why);
async fn who_may_not_is_told_why(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let other = Device::create(hub, "other").await;
    let (client, owner) = (Client::new(hub, &device), Web::new(hub).token);
    let expired = device.token_until(clock::unix_seconds() - 301);
    let module = Device { id: "d/nobody".to_owned(), ..device.clone() };
    for (target, token, status, code) in [
        (&*client.target, &*other.token(), 401, "IotHubUnauthorized"),
        (&client.target, &expired, 401, "IotHubUnauthorized"),
        (&client.target, "", 401, "IotHubUnauthorized"),
        (&client.target, "Bearer x", 401, "IotHubUnauthorized"),
        // Whether there is such a device is not for everybody.
        (
            "/devices/nobody/messages/events?api-version=2021-04-12",
            &owner,
            401,
            "IotHubUnauthorized",
        ),
        (
            &format!("/{}/messages/events?{VERSION}", module.path()),
            &module.token(),
            401,
            "IotHubUnauthorized",
        ),
        ("/devices/d/messages/events", &device.token(), 400, "InvalidProtocolVersion"),
        (
            "/devices/d/messages/events?api-version=x",
            &device.token(),
            400,
            "InvalidProtocolVersion",
        ),
        ("/devices/a%20b/messages/events?api-version=2021-04-12", &owner, 400, "ArgumentInvalid"),
        ("/devices/d%2Fm/messages/events?api-version=2021-04-12", &owner, 400, "ArgumentInvalid"),
        ("/devices/%ff/messages/events?api-version=2021-04-12", &owner, 400, "ArgumentInvalid"),
    ] {
        let web = client.web.with_token(token);
        let answer = web.say(&web.with_body("POST", target, b"no"), false).await.remove(0);
        assert_eq!((answer.status, &*answer.expect_refusal(target)), (status, code), "{target}");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        let tracking = body["ExceptionMessage"].as_str().expect("text");
        assert!(
            tracking.starts_with("Tracking ID:") && tracking.contains("-TimeStamp:"),
            "{tracking}"
        );
    }
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let request = client.web.with_body(method, &client.target, b"");
        let answer = client.say(&request).await;
        assert_eq!(
            (answer.status, &*answer.expect_refusal(method)),
            (405, "GenericMethodNotAllowed")
        );
    }
    // The owner may act as the device.
    let web = client.web.with_token(&owner);
    assert_eq!(web.say(&web.with_body("POST", &client.target, b"yes"), false).await[0].status, 204);
    let all = everything(hub, &door, &device).await;
    assert_eq!(bodies(&all), ["yes"]);
    assert!(stamp(&all[0], stored::AUTH_METHOD).contains(r#""scope":"hub""#));
}

scenario!(a_request_is_no_connection);
async fn a_request_is_no_connection(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let client = Client::new(hub, &device);
    let before = hub.client().device_get("d").await.expect("found");
    client.accepted("", b"1").await;
    // Gateways tell of activity in their own time, and of connections at once.
    let bystander = Device::create(hub, "bystander").await;
    drop(door.enter(&bystander.connect()).await);
    let active = async {
        let mut again = tokio::time::interval(Duration::from_millis(20));
        loop {
            again.tick().await;
            let shown = hub.client().device_get("d").await.expect("found");
            if shown["lastActivityTime"] != before["lastActivityTime"] {
                return shown;
            }
        }
    };
    let shown = within("its activity", active).await;
    for name in ["connectionState", "connectionStateUpdatedTime"] {
        assert_eq!(shown[name], before[name], "{name}");
    }
    // And it displaces nobody.
    let mut raw = door.enter(&device.connect()).await;
    client.accepted("", b"2").await;
    deliver(&mut raw, &device, b"3").await;
    assert_eq!(bodies(&events(hub, "d", 3).await), ["1", "2", "3"]);
}

scenario!(a_revoked_device_is_out);
async fn a_revoked_device_is_out(hub: &TestHub) {
    let device = Device::create(hub, "d").await;
    let client = Client::new(hub, &device);
    client.accepted("", b"1").await;
    set_status(hub, "d", "disabled").await;
    let out = async {
        let mut again = tokio::time::interval(Duration::from_millis(100));
        loop {
            again.tick().await;
            let answer = client.post("", b"2").await;
            if answer.status != 204 {
                return answer;
            }
        }
    };
    let answer = within("a refusal", out).await;
    assert_eq!((answer.status, &*answer.expect_refusal("disabled")), (401, "IotHubUnauthorized"));
}

/// 204 means durable. The log with faults is that of a hub beside, so this runs all-in-one only.
#[tokio::test]
async fn what_cannot_be_stored_is_not_accepted() {
    let hub = TestHub::all_in_one().await;
    let faults = Faults { fails: Some(3), ..Faults::default() };
    let log = Arc::new(FaultyLog::over(&hub.stores().events, faults));
    let beside = beside(&hub, &Role::ALL, log, |_| {}).await;
    let device = Device::create(&hub, "d").await;
    let address = beside.gateway.expect("a gateway").https;
    let client = Client::new(&hub, &device);
    let client = Client { web: client.web.at(address), ..client };
    client.accepted("", b"1").await;
    let rows = r#"[{"body":"Mg=="},{"body":"Mw=="},{"body":"NA=="}]"#;
    let answer = client.post(BATCH, rows.as_bytes()).await;
    assert_eq!(
        (answer.status, header(&answer.head, "iothub-errorcode")),
        (500, Some("ServerError"))
    );
    client.accepted("", b"again").await;
    let all = bodies(&everything(&hub, &Door::of(&hub), &device).await);
    assert_eq!(
        (all.first().map(String::as_str), all.last().map(String::as_str)),
        (Some("1"), Some("again"))
    );
    beside.stop().await;
    hub.stop().await;
}
