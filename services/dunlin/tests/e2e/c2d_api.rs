//! C2D messages and feedback over the REST API.

use dunlin::test_hub::TestHub;
use dunlin_model::Command;
use dunlin_model::command::{Ack, LockToken};
use dunlin_runtime::clock::unix_millis;
use dunlin_storage::command_queue::{FeedbackRules, Rules};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::registry::{refused, request, send};

const SEND: &str = "/dunlin/v1/devices/d/messages/devicebound";

fn message(hub: &TestHub, body: impl Into<reqwest::Body>) -> RequestBuilder {
    request(hub, Method::POST, SEND).body(body)
}

async fn json_of(hub: &TestHub, call: RequestBuilder) -> Value {
    let response = send(hub, call).await;
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], "application/json; charset=utf-8");
    response.json().await.expect("JSON")
}

async fn queued(hub: &TestHub) -> Value {
    let client = hub.client();
    let [twin, device] = [client.twin_get("d").await, client.device_get("d").await]
        .map(|read| read.expect("read")["cloudToDeviceMessageCount"].take());
    assert_eq!(twin, device);
    twin
}

async fn purge(hub: &TestHub) -> Value {
    json_of(hub, request(hub, Method::DELETE, "/devices/d/commands")).await
}

/// What the queue holds, in its order.
async fn stored(hub: &TestHub) -> Vec<Command> {
    let feedback =
        FeedbackRules { batch_records: 1, batch_age: 0, lock: 1, ttl: 1, max_delivery_count: 9 };
    let rules = Rules { depth: 99, lock: 60_000, max_delivery_count: 9, feedback };
    let tokens = (0..99).map(|n| LockToken::from_bytes([n; 16])).collect();
    let store = &hub.stores().commands;
    let leased = store.command_lease("d", 1, tokens, usize::MAX, unix_millis(), &rules).await;
    leased.expect("leased").messages.into_iter().map(|one| one.command).collect()
}

scenario!(a_message_is_queued_as_it_was_sent);
async fn a_message_is_queued_as_it_was_sent(hub: &TestHub) {
    hub.create_device("d").await;
    assert_eq!(queued(hub).await, 0);
    let expires = unix_millis() / 1_000 * 1_000 + 100_000;
    let time = jiff::Timestamp::from_millisecond(expires).expect("a time").to_string();
    let full = message(hub, vec![0, 0xff, b'\n'])
        .header("iothub-messageid", "m:1")
        .header("iothub-correlationid", "c")
        .header("iothub-userid", "u")
        .header("iothub-contenttype", "application/json")
        .header("iothub-contentencoding", "utf-8")
        .header("iothub-expiry", time)
        .header("iothub-ack", "positive")
        .header("iothub-app-colour", "red")
        .header("dunlin-properties", "Letter%20Case=%C3%A4");
    assert_eq!(json_of(hub, full).await, json!({"messageId": "m:1"}));
    let bare = json_of(hub, message(hub, "")).await;
    let made = bare["messageId"].as_str().expect("an id");
    assert_eq!(queued(hub).await, 2);
    let stored = stored(hub).await;
    let text = |text: &str| Some(text.to_owned());
    let want = Command {
        message_id: text("m:1"),
        correlation_id: text("c"),
        user_id: text("u"),
        content_type: text("application/json"),
        content_encoding: text("utf-8"),
        expires: Some(expires),
        ack: Ack::Positive,
        properties: vec![("Letter Case".into(), "ä".into()), ("colour".into(), "red".into())],
        body: vec![0, 0xff, b'\n'],
    };
    assert_eq!(stored[0], want);
    let rest = Command { message_id: text(made), expires: stored[1].expires, ..Command::default() };
    assert_eq!(stored[1..], [rest]);
    let purged = json!({"totalMessagesPurged": 2, "deviceId": "d", "moduleId": null});
    assert_eq!(purge(hub).await, purged);
    assert_eq!(queued(hub).await, 0);
}

scenario!(feedback_is_read_under_a_lock);
async fn feedback_is_read_under_a_lock(hub: &TestHub) {
    hub.create_device("d").await;
    let feedback = |method: Method, more: &str| {
        request(hub, method, &format!("/messages/serviceBound/feedback{more}"))
    };
    assert_eq!(send(hub, feedback(Method::GET, "")).await.status().as_u16(), 204);
    // A batch of 64, which waits for nothing.
    for count in [50, 14] {
        for n in 0..count {
            let sent = message(hub, "x").header("iothub-messageid", n.to_string());
            json_of(hub, sent.header("iothub-ack", "full")).await;
        }
        if count == 50 {
            // R4: the 51st.
            refused(hub, "51", message(hub, ""), "DeviceMaximumQueueDepthExceeded").await;
            assert_eq!(queued(hub).await, 50);
        }
        assert_eq!(purge(hub).await["totalMessagesPurged"], count);
    }
    let generation = hub.client().device_get("d").await.expect("read")["generationId"].take();
    let mut before = None;
    for round in 0..3 {
        let response = send(hub, feedback(Method::GET, "")).await;
        let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
        assert_eq!(header("content-type"), "application/json; charset=utf-8");
        assert_eq!(
            (header("iothub-sequencenumber"), header("iothub-deliverycount")),
            ("1".into(), round.to_string())
        );
        let etag = header("etag");
        let token = etag.trim_matches('"').to_owned();
        assert!(etag.len() == 38 && token.len() == 36, "quoted: {etag}");
        let mut records: Value = response.json().await.expect("JSON");
        assert_eq!(records.as_array().map(Vec::len), Some(64));
        let time = records[63]["enqueuedTimeUtc"].take();
        let time = time.as_str().expect("a time");
        assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
        let want = json!({
            "originalMessageId": "13", "enqueuedTimeUtc": null, "statusCode": "Purged",
            "description": "Purged", "deviceId": "d", "deviceGenerationId": generation,
        });
        assert_eq!(records[63], want);
        assert_eq!(send(hub, feedback(Method::GET, "")).await.status().as_u16(), 204, "locked");
        let last = match round {
            0 => feedback(Method::POST, &format!("/{token}/abandon")),
            // As some clients spell it.
            1 => {
                let path = format!("/messages/servicebound/feedback/{token}/abandon");
                request(hub, Method::POST, &path)
            }
            _ => feedback(Method::DELETE, &format!("/{token}?reject=")),
        };
        assert_eq!(send(hub, last).await.status().as_u16(), 204);
        for call in [
            feedback(Method::DELETE, &format!("/{token}")),
            feedback(Method::POST, &format!("/{token}/abandon")),
        ] {
            refused(hub, "a lost lock", call, "DeviceMessageLockLost").await;
        }
        assert_ne!(before.replace(token.clone()), Some(token));
    }
    assert_eq!(send(hub, feedback(Method::GET, "")).await.status().as_u16(), 204);
}

scenario!(a_queue_goes_with_its_device_and_stays_while_it_is_disabled);
async fn a_queue_goes_with_its_device_and_stays_while_it_is_disabled(hub: &TestHub) {
    let client = hub.client();
    let mut device = client.device_put("d", &json!({}), None).await.expect("created");
    json_of(hub, message(hub, "x")).await;
    device["status"] = "disabled".into();
    client.device_put("d", &device, Some("*")).await.expect("disabled");
    json_of(hub, message(hub, "x")).await;
    assert_eq!(queued(hub).await, 2);
    client.device_delete("d", "*").await.expect("deleted");
    refused(hub, "send", message(hub, "x"), "DeviceNotFound").await;
    let purge = request(hub, Method::DELETE, "/devices/d/commands");
    refused(hub, "purge", purge, "DeviceNotFound").await;
    client.device_put("d", &json!({}), None).await.expect("created");
    assert_eq!(queued(hub).await, 0);
}

scenario!(messages_that_cannot_be_queued_are_refused);
async fn messages_that_cannot_be_queued_are_refused(hub: &TestHub) {
    hub.create_device("d").await;
    hub.create_device("d/m").await;
    let content = "ArgumentInvalid";
    let many: String = (0..2_000).map(|n| format!("{n}&")).collect();
    for (name, value, code) in [
        ("iothub-ack", &b"all"[..], content),
        ("iothub-messageid", b"a b", content),
        ("iothub-messageid", &[b'x'; 129], content),
        ("iothub-correlationid", b"\xff", content),
        ("iothub-expiry", b"soon", content),
        ("iothub-expiry", b"2017-03-02T09:15:30Z", "InvalidMessageExpiryTime"),
        ("iothub-expiry", b"2999-12-31T23:59:59Z", "InvalidMessageExpiryTime"),
        ("iothub-expiry", b"0001-01-01T00:00:00Z", "InvalidMessageExpiryTime"),
        ("iothub-expiry", b"9999-12-31T23:59:59Z", content),
        ("iothub-app-", b"no name", content),
        ("iothub-app-x", b"\xc3\x28", content),
        ("iothub-app-x", b"a\tb", content),
        ("dunlin-properties", b"=v", content),
        ("dunlin-properties", b"a=%00", content),
        ("dunlin-properties", b"a=%0d%0aiothub-x:y", content),
        ("dunlin-properties", b"a=%ff", content),
        ("dunlin-properties", b"a=1&a=2", content),
        ("dunlin-properties", [many.as_bytes(), b"1"].concat().leak(), content),
    ] {
        let what = format!("{name}: {}", String::from_utf8_lossy(&value[..value.len().min(60)]));
        refused(hub, &what, message(hub, "x").header(name, value), code).await;
    }
    for (bytes, ok) in [(65_535, true), (65_536, false), (1 << 20, false), ((1 << 20) + 1, false)] {
        let sent = message(hub, vec![b' '; bytes]).header("iothub-messageid", "1");
        match ok {
            true => assert_eq!(json_of(hub, sent).await["messageId"], "1"),
            false => refused(hub, &bytes.to_string(), sent, "MessageTooLarge").await,
        }
    }
    for (method, path, code) in [
        (Method::POST, "/dunlin/v1/devices/x/messages/devicebound", "DeviceNotFound"),
        (Method::POST, "/dunlin/v1/devices/d%2Fm/messages/devicebound", content),
        (Method::POST, "/dunlin/v1/devices/a%20b/messages/devicebound", content),
        (Method::POST, "/dunlin/v1/devices/%ff/messages/devicebound", content),
        (Method::POST, "/dunlin/v1/devices/d/modules/m/messages/devicebound", "GenericNotFound"),
        (Method::GET, SEND, "GenericMethodNotAllowed"),
        (Method::DELETE, "/devices/d%2Fm/commands", content),
        (Method::DELETE, "/devices/d/modules/m/commands", "GenericNotFound"),
        (Method::POST, "/devices/d/commands", "GenericMethodNotAllowed"),
        (Method::DELETE, "/messages/serviceBound/feedback/x", "DeviceMessageLockLost"),
        (Method::DELETE, "/messages/serviceBound/feedback/%ff", content),
        (Method::DELETE, "/messages/serviceBound/feedback", "GenericMethodNotAllowed"),
        (Method::POST, "/messages/serviceBound/feedback/x/abandon", "DeviceMessageLockLost"),
        (Method::POST, "/messages/serviceBound/feedback/x/reject", "GenericNotFound"),
        (Method::GET, "/messages/serviceBound/feedback/x", "GenericMethodNotAllowed"),
    ] {
        refused(hub, path, request(hub, method, path), code).await;
    }
    assert_eq!(queued(hub).await, 1, "the large one");
}
