//! A device's own twin over MQTT: what it reads, reports, and is told.

use dunlin::client::{Client, TwinPatch};
use dunlin::test_hub::TestHub;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::mqtt_kit::{Device, Door, deliver};
use crate::raw::{
    Connect, Published, QOS1, Raw, puback, publish, suback, subscribe, unsuback, unsubscribe,
};

const ANSWERS: &str = "$iothub/twin/res/#";
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";

/// A PUBLISH of the hub's.
struct Told {
    qos: u8,
    topic: String,
    packet_id: u16,
    body: Value,
}

async fn told(raw: &mut Raw) -> Told {
    let Published { qos, dup, topic, packet_id, body } = raw.published().await;
    assert!(!dup, "it is told once: {topic}");
    let body = match body.as_slice() {
        [] => Value::Null,
        body => serde_json::from_slice(body).expect("JSON"),
    };
    Told { qos, topic, packet_id, body }
}

/// The answer to the request `rid`: its status, version and body.
async fn answer(raw: &mut Raw, rid: &str) -> (u16, Option<u64>, Value) {
    let Told { qos, topic, body, .. } = told(raw).await;
    assert_eq!(qos, 0);
    let rest = topic.strip_prefix("$iothub/twin/res/").expect("an answer");
    let (status, query) = rest.split_once("/?$rid=").expect("its request first");
    let (got, version) = match query.split_once("&$version=") {
        Some((rid, version)) => (rid, Some(version.parse().expect("a number"))),
        None => (query, None),
    };
    assert_eq!(got, rid, "{topic}");
    (status.parse().expect("three digits"), version, body)
}

fn get(rid: &str) -> Vec<u8> {
    publish(0, &format!("$iothub/twin/GET/?$rid={rid}"), 0, b" ")
}

fn report(rid: &str, patch: &str) -> Vec<u8> {
    let topic = format!("$iothub/twin/PATCH/properties/reported/?$rid={rid}");
    publish(0, &topic, 0, patch.as_bytes())
}

async fn enter(door: &Door, device: &Device, filters: &[(&str, u8)]) -> Raw {
    let mut raw = door.enter(&device.connect()).await;
    raw.send(&subscribe(1, filters)).await;
    raw.expect(&suback(1, &filters.iter().map(|(_, qos)| *qos).collect::<Vec<_>>())).await;
    raw
}

async fn desire(client: &Client, id: &str, patch: &str) -> Value {
    let patch: &RawValue = serde_json::from_str(patch).expect("JSON");
    client.twin_update(id, &TwinPatch::new(None, Some(patch)), None).await.expect("updated")
}

scenario!(a_device_reads_and_reports);
async fn a_device_reads_and_reports(hub: &TestHub) {
    let door = Door::of(hub);
    for id in ["d", "d/m"] {
        let device = Device::create(hub, id).await;
        let mut raw = enter(&door, &device, &[(ANSWERS, 1)]).await;
        raw.send(&get("0a-b")).await;
        let empty = json!({"desired": {"$version": 1}, "reported": {"$version": 1}});
        assert_eq!(answer(&mut raw, "0a-b").await, (200, None, empty));
        raw.send(&report("1", r#"{"a":{"b":1,"c":[1,"x"]},"d":true}"#)).await;
        assert_eq!(answer(&mut raw, "1").await, (204, Some(2), Value::Null));
        raw.send(&report("2", r#"{"a":{"b":null},"d":2.5}"#)).await;
        assert_eq!(answer(&mut raw, "2").await, (204, Some(3), Value::Null));
        raw.send(&report("3", "{}")).await;
        assert_eq!(answer(&mut raw, "3").await, (204, Some(3), Value::Null), "nothing changed");
        desire(&hub.client(), id, r#"{"wanted":1}"#).await;
        raw.send(&get("4")).await;
        let want = json!({
            "desired": {"wanted": 1, "$version": 2},
            "reported": {"a": {"c": [1, "x"]}, "d": 2.5, "$version": 3},
        });
        assert_eq!(answer(&mut raw, "4").await, (200, None, want));
        let twin = hub.client().twin_get(id).await.expect("a twin");
        assert_eq!(twin["properties"]["reported"]["d"], 2.5);
    }
}

scenario!(a_bad_request_is_answered);
async fn a_bad_request_is_answered(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = enter(&door, &device, &[(ANSWERS, 0)]).await;
    for (patch, says) in [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "object"),
        ("null", "object"),
        (r#"{"a":1,"a":2}"#, "a"),
        (r#"{"a":{"$b":1}}"#, "properties.reported.a"),
        (r#"{"a b":1}"#, "properties.reported"),
        ("{\"a\":\"x\\u0000\"}", "properties.reported.a"),
        (r#"{"n":4503599627370496}"#, "properties.reported.n"),
        (r#"{"n":1e999}"#, "n"),
        ("{\"a\":\"\u{1}\"}", "JSON"),
    ] {
        raw.send(&report("r", patch)).await;
        let (status, version, body) = answer(&mut raw, "r").await;
        assert_eq!((status, version), (400, None), "{patch}: {body}");
        let code = body["errorCode"].as_u64().expect("the Node SDK goes by it");
        assert_eq!(code / 1_000, 400, "{patch}");
        let message = body["message"].as_str().expect("a message");
        assert!(message.contains(says), "{patch}: {message}");
        assert_eq!(body["trackingId"].as_str().expect("an id").len(), 32);
        let time = body["timestampUtc"].as_str().expect("a time");
        assert!(time.len() == 28 && time.ends_with('Z'), "{time}");
    }
    let deep = format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000));
    let wide = format!(r#"{{"a":"{}"}}"#, "x".repeat(200_000));
    for patch in [deep, wide] {
        raw.send(&report("r", &patch)).await;
        assert_eq!(answer(&mut raw, "r").await.0, 400);
    }
    for (version, status) in [("1", 204), ("1", 412), ("2", 204), ("x", 400), ("-1", 400)] {
        let topic = format!("$iothub/twin/PATCH/properties/reported/?$rid=v&$version={version}");
        raw.send(&publish(0, &topic, 0, b"{\"a\":1}")).await;
        let (got, _, body) = answer(&mut raw, "v").await;
        assert_eq!(got, status, "{version}: {body}");
        assert_eq!(
            body["errorCode"].as_u64().map(|code| code / 1_000),
            match status {
                204 => None,
                status => Some(status.into()),
            }
        );
    }
    deliver(&mut raw, &device, b"still here").await;
    raw.send(&get("last")).await;
    assert_eq!(answer(&mut raw, "last").await.2["reported"], json!({"a": 1, "$version": 3}));
}

scenario!(topics_that_name_no_request_close);
async fn topics_that_name_no_request_close(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    for topic in [
        "$iothub/twin/GET/",
        "$iothub/twin/GET/?rid=1",
        "$iothub/twin/PATCH/properties/desired/?$rid=1",
        "$iothub/methods/res/x/?$rid=1",
        "$iothub/",
    ] {
        let mut raw = door.enter(&device.connect()).await;
        raw.send(&publish(QOS1, topic, 1, b"{}")).await;
        raw.expect_close().await;
    }
}

// However many requests a device sends at once, they take effect in its order, each once.
scenario!(requests_take_effect_in_order);
async fn requests_take_effect_in_order(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = enter(&door, &device, &[(ANSWERS, 0)]).await;
    let mut bytes = Vec::new();
    for n in 2..=201_u64 {
        bytes.extend(report(&format!("p{n}"), &format!("{{\"n\":{n}}}")));
        bytes.extend(get(&format!("g{n}")));
    }
    raw.send(&bytes).await;
    for n in 2..=201_u64 {
        assert_eq!(answer(&mut raw, &format!("p{n}")).await, (204, Some(n), Value::Null));
        let (status, _, body) = answer(&mut raw, &format!("g{n}")).await;
        assert_eq!((status, &body["reported"]), (200, &json!({"n": n, "$version": n})));
    }
    // Requests of QoS 1 are acknowledged in their order among all else that is.
    let qos1 = |topic: &str, id, body: &[u8]| publish(QOS1, topic, id, body);
    let bytes = [
        qos1(&device.topic(""), 1, b"telemetry"),
        qos1("$iothub/twin/GET/?$rid=q", 2, b""),
        qos1(&device.topic(""), 3, b"telemetry"),
    ]
    .concat();
    raw.send(&bytes).await;
    let mut acknowledged = Vec::new();
    let mut answered = false;
    while acknowledged.len() < 3 || !answered {
        let packet = raw.packet().await.expect("a packet");
        match packet[0] {
            0x40 => acknowledged.push(packet),
            _ => answered = true,
        }
    }
    assert_eq!(acknowledged, [puback(1), puback(2), puback(3)]);
}

scenario!(only_subscribers_are_told);
async fn only_subscribers_are_told(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    raw.send(&[get("1"), report("2", "{\"a\":1}")].concat()).await;
    desire(&hub.client(), "d", r#"{"a":1}"#).await;
    raw.expect_alive().await;
    raw.send(&subscribe(1, &[(ANSWERS, 0), (DESIRED, 0)])).await;
    raw.expect(&suback(1, &[0, 0])).await;
    raw.send(&get("3")).await;
    // The first two were carried out.
    let (_, _, body) = answer(&mut raw, "3").await;
    assert_eq!(body["reported"], json!({"a": 1, "$version": 2}));
    raw.send(&unsubscribe(2, &[DESIRED])).await;
    raw.expect(&unsuback(2)).await;
    desire(&hub.client(), "d", r#"{"a":2}"#).await;
    raw.expect_alive().await;
}

scenario!(desired_changes_are_told);
async fn desired_changes_are_told(hub: &TestHub) {
    let (door, client) = (Door::of(hub), hub.client());
    let device = Device::create(hub, "d").await;
    for (round, qos) in [(0, 0), (1, 1)] {
        let mut raw = match round {
            0 => door.enter(&device.connect()).await,
            _ => door.resume(&device.connect()).await,
        };
        raw.send(&subscribe(1, &[(DESIRED, qos)])).await;
        raw.expect(&suback(1, &[qos])).await;
        let mut packet_ids = Vec::new();
        for (patch, want) in [
            (r#"{"a":{"b":1,"c":2}}"#, json!({"a": {"b": 1, "c": 2}})),
            (r#"{"a":{"b":null},"d":[1]}"#, json!({"a": {"b": null}, "d": [1]})),
        ] {
            let twin = desire(&client, "d", patch).await;
            let version = twin["properties"]["desired"]["$version"].as_u64().expect("a version");
            let told = told(&mut raw).await;
            let topic = format!("$iothub/twin/PATCH/properties/desired/?$version={version}");
            assert_eq!((told.qos, told.topic), (qos, topic));
            let mut want = want;
            want["$version"] = version.into();
            assert_eq!(told.body, want);
            packet_ids.push(told.packet_id);
        }
        if qos == 1 {
            assert!(packet_ids[0] != 0 && packet_ids[0] != packet_ids[1], "{packet_ids:?}");
            raw.send(&packet_ids.iter().flat_map(|id| puback(*id)).collect::<Vec<_>>()).await;
        }
        raw.expect_alive().await;
    }
    // What replaces is told as the change it makes; whoever resumes is told without asking again.
    let mut raw = door.resume(&device.connect()).await;
    let twin: &RawValue =
        serde_json::from_str(r#"{"properties":{"desired":{"a":{"c":3},"e":1}}}"#).expect("JSON");
    let twin = client.twin_replace("d", twin, None).await.expect("replaced");
    let version = &twin["properties"]["desired"]["$version"];
    let want = json!({"a": {"c": 3}, "d": null, "e": 1, "$version": version});
    assert_eq!(told(&mut raw).await.body, want);
    // Tags are none of a device's business.
    let tags: &RawValue = serde_json::from_str(r#"{"t":1}"#).expect("JSON");
    client.twin_update("d", &TwinPatch::new(Some(tags), None), None).await.expect("updated");
    raw.expect_alive().await;
    // A clean session starts without.
    let mut raw = door.enter(&Connect { clean: true, ..device.connect() }).await;
    desire(&client, "d", r#"{"x":1}"#).await;
    raw.expect_alive().await;
}

// Of many changes at once, each is told once, in the order of their versions.
scenario!(concurrent_changes_are_told_in_order);
async fn concurrent_changes_are_told_in_order(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = enter(&door, &device, &[(DESIRED, 1), (ANSWERS, 0)]).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let client = hub.client();
        writers.spawn(async move {
            for n in 0..10 {
                desire(&client, "d", &format!("{{\"w{writer}\":{n}}}")).await;
            }
        });
    }
    let mut document = json!({});
    for version in 2..=81_u64 {
        let Told { topic, packet_id, body, .. } = told(&mut raw).await;
        assert!(topic.ends_with(&format!("?$version={version}")), "{version}: {topic}");
        for (key, value) in body.as_object().expect("an object") {
            document[key] = value.clone();
        }
        raw.send(&puback(packet_id)).await;
    }
    writers.join_all().await;
    // Applied one after the other they are what is stored.
    raw.send(&get("1")).await;
    assert_eq!(answer(&mut raw, "1").await.2["desired"], document);
}

// A device that acknowledges nothing is not told for ever: it is sent away, and reads its twin when
// it is back.
scenario!(a_device_that_acknowledges_nothing);
async fn a_device_that_acknowledges_nothing(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = enter(&door, &device, &[(DESIRED, 1), (ANSWERS, 0)]).await;
    let client = hub.client();
    for n in 0..101 {
        desire(&client, "d", &format!("{{\"n\":{n}}}")).await;
    }
    for _ in 0..100 {
        told(&mut raw).await;
    }
    raw.expect_close().await;
    let mut raw = door.resume(&device.connect()).await;
    raw.send(&get("1")).await;
    assert_eq!(answer(&mut raw, "1").await.2["desired"]["n"], 100);
}
