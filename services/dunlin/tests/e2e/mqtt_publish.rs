//! What a device may publish, and what becomes of it: topics, property bags, flags, stamps.

use dunlin::test_hub::TestHub;
use dunlin_auth::sas;
use dunlin_model::event::{Event, header};
use dunlin_runtime::clock::{unix_millis, unix_seconds};
use dunlin_storage::event_log::{TOPIC_D2C, partition_of};

use crate::mqtt_kit::{Device, Door, bag, bodies, deliver, events, events_from, everything};
use crate::raw::{Connect, DUP, QOS1, RETAIN, Raw, puback, publish};

/// What a message with this bag is stored with.
async fn stored(hub: &TestHub, raw: &mut Raw, device: &Device, bag_text: &str) -> Vec<String> {
    let log = &hub.stores().events;
    let partition = partition_of(device.id.as_bytes(), log.partitions());
    let before = log.range(TOPIC_D2C, partition).await.expect("a range").end;
    raw.send(&publish(QOS1, &device.topic(bag_text), 2, b"x")).await;
    raw.expect(&puback(2)).await;
    bag(&events_from(hub, &device.id, before, 1).await[0])
}

scenario!(every_topic_form);
async fn every_topic_form(hub: &TestHub) {
    let door = Door::of(hub);
    for id in ["d", "d/m", "#+", "#+/$m"] {
        let device = Device::create(hub, id).await;
        let base = device.path();
        let mut raw = door.enter(&device.connect()).await;
        let tails = ["", "/", "/a=b", "/a=b/", "/?a=b", "//", "//a=b", "/?a=b/", "/a=b//"];
        for (n, tail) in (1..).zip(tails) {
            let topic = format!("{base}/messages/events{tail}");
            raw.send(&publish(QOS1, &topic, n, tail.as_bytes())).await;
            raw.expect(&puback(n)).await;
        }
        let device_id = id.split('/').next().unwrap_or(id);
        let mut read = everything(hub, &door, &device).await;
        let module = id.split('/').nth(1);
        read.retain(|event| event.header(header::CONNECTION_MODULE_ID) == module);
        assert_eq!(read.len(), tails.len(), "{id}");
        for (event, tail) in read.iter().zip(tails) {
            assert_eq!(event.body, tail.as_bytes());
            assert_eq!(event.header(header::CONNECTION_DEVICE_ID), Some(device_id));
            let want: &[&str] = if tail.contains('a') { &["a=b"] } else { &[] };
            assert_eq!(bag(event), want, "{tail}");
        }
    }
}

scenario!(other_topics_close);
async fn other_topics_close(hub: &TestHub) {
    let door = Door::of(hub);
    let device = Device::create(hub, "d").await;
    let module = Device::create(hub, "d/m").await;
    let other = Device::create(hub, "other").await;
    let mut topics: Vec<_> = [
        "x",
        "/",
        "devices/d",
        "devices/d/",
        "devices/d/messages/event",
        "devices/d/messages/eventsx",
        "devices/d/messages/devicebound/",
        "devices/d/messages",
        "devices/D/messages/events/",
        "Devices/d/messages/events/",
        "devices/d/Messages/Events/",
        "devices/%64/messages/events/",
        "/devices/d/messages/events/",
        "devices//d/messages/events/",
        "devices/+/messages/events/",
        "devices/#",
        "#",
        "+",
        "$SYS/x",
        "$iothub/unknown",
    ]
    .map(|topic| (&device, topic.to_owned()))
    .to_vec();
    topics.push((&device, other.topic("")));
    topics.push((&device, module.topic("")));
    topics.push((&module, device.topic("")));
    topics.push((&module, "devices/d/modules/n/messages/events/".to_owned()));
    for (sender, topic) in &topics {
        for flags in [0, QOS1] {
            let mut raw = door.enter(&sender.connect()).await;
            raw.send(&publish(flags, topic, 1, b"no")).await;
            raw.expect_close().await;
        }
    }
    for device in [&device, &other] {
        assert_eq!(bodies(&everything(hub, &door, device).await), [""; 0]);
    }
}

scenario!(every_sdks_bag);
async fn every_sdks_bag(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    for (text, want) in [
        // Python
        (
            "%24.mid=1%2F2&%24.ct=application%2Fjson&%24.ce=utf-8&%24.exp=2030-01-01T00%3A00%3A00&a%20b=c%26d",
            &[
                "$.message-id=1/2",
                "$.content-type=application/json",
                "$.content-encoding=utf-8",
                "$.absolute-expiry-time=2030-01-01T00:00:00",
                "a b=c&d",
            ][..],
        ),
        // Node
        ("%24.mid=m&%24.on=out&k=v%3D1/", &["$.message-id=m", "$.iothub-outputname=out", "k=v=1"]),
        // C#
        (
            "%24.cid=c&%24.uid=u&%24.schema=s&%24.ctime=2026-01-01T00%3A00%3A00.0000000Z&iothub-ack=full&iothub-operation=o&k=v/",
            &[
                "$.correlation-id=c",
                "$.user-id=u",
                "$.iothub-message-schema=s",
                "$.iothub-creation-time-utc=2026-01-01T00:00:00.0000000Z",
                "$.iothub-ack=full",
                "$.iothub-operation=o",
                "k=v",
            ],
        ),
        // Java: the dollar is bare, and it says who it is
        (
            "$.mid=j&$.to=%2Fdevices%2Fd%2Fmessages%2Fevents&$.cdid=d&$.cmid=m&$.sub=thermostat&k=v",
            &[
                "$.message-id=j",
                "$.to=/devices/d/messages/events",
                "$.dt-subject=thermostat",
                "k=v",
            ],
        ),
        // C: nothing is encoded
        (
            "k=a/b c&%24.ct=application/json&%24.ifid=urn:azureiot:Security:SecurityAgent:1&%24.diagid=i&%24.diagctx=creationtimeutc%3d1",
            &[
                "k=a/b c",
                "$.content-type=application/json",
                "$.iothub-interface-id=urn:azureiot:Security:SecurityAgent:1",
                "$.Diagnostic-Id=i",
                "$.Correlation-Context=creationtimeutc=1",
            ],
        ),
        // Values that are empty, absent, given twice.
        ("a=&b&a=2&&$.mid=1&%24.mid=2", &["a=", "b", "a=2", "$.message-id=1"]),
    ] {
        assert_eq!(stored(hub, &mut raw, &device, text).await, want, "{text}");
    }
}

scenario!(every_system_property);
async fn every_system_property(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    let doc = include_str!("../../../../docs/mqtt.md");
    let mut seen = 0;
    // Each row of the table in the documentation, `| $.mid | $.message-id |`.
    for row in doc.lines().filter(|row| row.starts_with("| `$.") || row.starts_with("| `iothub-")) {
        let mut cells = row.split('`');
        let (wire, header) = (cells.nth(1).expect("a key"), cells.nth(1).expect("a header"));
        for wire in [wire.to_owned(), wire.replace('$', "%24")] {
            let want = [format!("{header}=value 1")];
            assert_eq!(stored(hub, &mut raw, &device, &format!("{wire}=value%201")).await, want);
        }
        seen += 1;
    }
    assert_eq!(seen, 16);
    for unknown in ["$.cdid", "$.cmid", "$.none", "$.", "%24.message-id", "$.iothub-enqueuedtime"] {
        let bag = stored(hub, &mut raw, &device, &format!("{unknown}=x&k=v")).await;
        assert_eq!(bag, ["k=v"], "{unknown}");
    }
}

scenario!(raw_text_is_taken_as_it_stands);
async fn raw_text_is_taken_as_it_stands(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    for (text, want) in [
        ("k=1+2", "k=1+2"),
        ("k=+/#", "k=+/#"),
        ("#=+", "#=+"),
        ("k=100%", "k=100%"),
        ("k=%zz%4", "k=%zz%4"),
        ("k=%ff", "k=%ff"),
        ("k=ä \u{1f426}", "k=ä \u{1f426}"),
        ("k=%C3%A4", "k=ä"),
        // The byte order mark is a character like any other.
        ("k=\u{feff}x\u{feff}", "k=\u{feff}x\u{feff}"),
        ("\u{feff}=1", "\u{feff}=1"),
        // Decoded once, not twice.
        ("k=%2525", "k=%25"),
        ("k=a?b", "k=a?b"),
        ("mid=1", "mid=1"),
        ("=v", "=v"),
    ] {
        assert_eq!(stored(hub, &mut raw, &device, text).await, [want], "{text}");
    }
}

scenario!(the_hub_says_who_sent_it);
async fn the_hub_says_who_sent_it(hub: &TestHub) {
    let door = Door::of(hub);
    let device = Device::create(hub, "d").await;
    let module = Device::create(hub, "d/m").await;
    let policy = hub.owner_connection_string();
    let dunlin_auth::connection_string::Signer::Policy(name) = &policy.signer else {
        panic!("the owner is a policy");
    };
    let token = sas::sign("localhost", Some(name), &policy.key, unix_seconds() + 60);
    let forged = "iothub-connection-device-id=evil&%24.iothub-connection-device-id=evil\
        &$.cdid=evil&$.cmid=evil&$.iothub-connection-auth-method=evil\
        &%24.iothub-message-source=evil&$.dt-dataschema=evil&$.iothub-enqueuedtime=1";
    let model =
        |device: &Device, text: &str| Some(format!("{}&model-id={text}", device.username()));
    let began = unix_millis();
    for (connect, sender) in [
        (device.connect(), &device),
        (Connect { username: model(&module, "dtmi%3Ax%3Ay%3B1"), ..module.connect() }, &module),
        (device.connect_with(&token), &device),
        (Connect { username: model(&module, ""), ..module.connect_with(&token) }, &module),
    ] {
        let mut raw = door.enter(&connect).await;
        raw.send(&publish(QOS1, &sender.topic(forged), 1, b"x")).await;
        raw.expect(&puback(1)).await;
    }
    let read = events(hub, "d", 4).await;
    let stamps = |event: &Event| {
        assert_eq!(event.key, b"d");
        assert!((began..=unix_millis()).contains(&event.enqueued));
        let mut headers = event.headers.clone();
        assert_eq!(headers.remove(0).name, "iothub-connection-device-id", "an application's own");
        let header = |p: dunlin_model::event::Property| (p.name, p.value.unwrap_or_default());
        headers.into_iter().map(header).collect::<Vec<_>>()
    };
    let auth = |scope: &str| format!(r#"{{"scope":"{scope}","type":"sas","issuer":"iothub"}}"#);
    let want = |sender: &Device, scope: &str, model: Option<&str>| {
        let mut want = vec![(header::CONNECTION_DEVICE_ID, "d".to_owned())];
        if sender.id.contains('/') {
            want.push((header::CONNECTION_MODULE_ID, "m".to_owned()));
        }
        want.push((header::AUTH_GENERATION_ID, sender.generation.clone()));
        want.push((header::AUTH_METHOD, auth(scope)));
        want.push((header::MESSAGE_SOURCE, "Telemetry".to_owned()));
        want.extend(model.map(|model| (header::DATA_SCHEMA, model.to_owned())));
        want.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Vec<_>>()
    };
    assert_eq!(stamps(&read[0]), want(&device, "device", None));
    assert_eq!(stamps(&read[1]), want(&module, "module", Some("dtmi:x:y;1")));
    assert_eq!(stamps(&read[2]), want(&device, "hub", None));
    assert_eq!(stamps(&read[3]), want(&module, "hub", None));
}

scenario!(retain_and_dup_become_properties);
async fn retain_and_dup_become_properties(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    let topic = device.topic("k=v");
    let sent = [
        (QOS1, &b"plain"[..], &["k=v"][..]),
        (QOS1 | RETAIN, b"retained", &["k=v", "mqtt-retain=true"]),
        (QOS1 | DUP, b"plain", &["k=v", "mqtt-dup=true"]),
        (QOS1 | RETAIN | DUP, b"both", &["k=v", "mqtt-retain=true", "mqtt-dup=true"]),
        // Nothing is retained, so nothing is removed by an empty one.
        (QOS1 | RETAIN, b"", &["k=v", "mqtt-retain=true"]),
        (RETAIN, b"unacknowledged", &["k=v", "mqtt-retain=true"]),
    ];
    for (flags, body, _) in sent {
        raw.send(&publish(flags, &topic, 3, body)).await;
        if flags & QOS1 != 0 {
            raw.expect(&puback(3)).await;
        }
    }
    let read = events(hub, "d", sent.len()).await;
    for (event, (flags, body, want)) in read.iter().zip(sent) {
        assert_eq!(event.body, body, "{flags:x}");
        assert_eq!(bag(event), want, "{flags:x}");
    }
}

scenario!(qos_0_is_stored_and_not_acknowledged);
async fn qos_0_is_stored_and_not_acknowledged(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    // Were there a packet id, these would be it: they are the first bytes of the body.
    raw.send(&publish(0, &device.topic(""), 0, b"\0\x07body")).await;
    raw.send(&publish(0, &device.topic(""), 0, b"")).await;
    deliver(&mut raw, &device, b"last").await;
    raw.expect_alive().await;
    let read = events(hub, "d", 3).await;
    assert_eq!(bodies(&read), ["\0\u{7}body", "", "last"]);
}

scenario!(qos_2_closes);
async fn qos_2_closes(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    for packet in [
        publish(0x04, &device.topic(""), 1, b"no"),
        publish(0x04 | DUP | RETAIN, &device.topic(""), 1, b"no"),
        vec![0x50, 2, 0, 1],
        vec![0x62, 2, 0, 1],
        vec![0x70, 2, 0, 1],
    ] {
        let mut raw = door.enter(&device.connect()).await;
        deliver(&mut raw, &device, b"x").await;
        raw.send(&packet).await;
        raw.expect_close().await;
    }
    assert_eq!(bodies(&everything(hub, &door, &device).await), ["x"; 5]);
}
