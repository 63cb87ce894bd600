//! Direct methods: what passes unchanged, and what passes nowhere.

use dunlin::test_hub::TestHub;

use crate::method_kit::{answer, call, called, ended, invoke, listening};
use crate::mqtt_kit::{Device, Door};
use crate::raw::{QOS1, field, frame, publish};

/// Each way, as it was written.
const PASSES: [&str; 10] = [
    "null",
    "0",
    r#""""#,
    r#"{"b":1, "a":[1.50, -0, 1e400],"b" : 2}"#,
    "12345678901234567890123456789012345678901234567890",
    "{\"a\":\t{\r\n\"b\":[]}}",
    r#""\ud83d\ude00 \u0000 \/""#,
    r#""$%&+#/?{}=äöü😀""#,
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
    "true",
];

scenario!(payloads_pass_as_they_are_written);
async fn payloads_pass_as_they_are_written(hub: &TestHub) {
    let (door, client) = (Door::of(hub), hub.client());
    let device = Device::create(hub, "d").await;
    let mut raw = listening(&door, &device).await;
    for (n, payload) in PASSES.into_iter().enumerate() {
        let status = [200, 0, -1, 404, i64::MAX, i64::MIN][n % 6];
        let call = invoke(&client, "d", call("echo", 0, payload));
        let sent = called(&mut raw).await;
        assert_eq!(sent.payload, payload);
        raw.send(&answer(status, &sent.rid, payload)).await;
        let want = format!(r#"{{"status":{status},"payload":{payload}}}"#);
        assert_eq!(ended(call).await, Ok(want));
    }
    // As deep as it will: nobody on the way builds it.
    let deep = [vec!["["; 50_000], vec!["]"; 50_000]].concat().concat();
    let open = invoke(&client, "d", call("m", 0, &deep));
    let sent = called(&mut raw).await;
    assert!(sent.payload == deep);
    raw.send(&answer(200, &sent.rid, &deep)).await;
    assert!(ended(open).await == Ok(format!(r#"{{"status":200,"payload":{deep}}}"#)));
    // Nothing is null, in both directions; so is what is left out.
    for body in [r#"{"methodName":"echo"}"#, r#"{"payload":null,"methodName":"echo"}"#] {
        let call = invoke(&client, "d", body);
        let sent = called(&mut raw).await;
        assert_eq!((sent.method.as_str(), sent.payload.as_str()), ("echo", "null"));
        raw.send(&answer(200, &sent.rid, "")).await;
        assert_eq!(ended(call).await, Ok(r#"{"status":200,"payload":null}"#.to_owned()));
    }
}

scenario!(payloads_have_128_kib);
async fn payloads_have_128_kib(hub: &TestHub) {
    let (door, client) = (Door::of(hub), hub.client());
    let device = Device::create(hub, "d").await;
    let mut raw = listening(&door, &device).await;
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let most = text(131_072);
    let open = invoke(&client, "d", call("m", 0, &most));
    let sent = called(&mut raw).await;
    assert!(sent.payload == most, "{} bytes", sent.payload.len());
    raw.send(&answer(200, &sent.rid, &most)).await;
    let want = format!(r#"{{"status":200,"payload":{most}}}"#);
    assert!(ended(open).await == Ok(want));

    let open = invoke(&client, "d", call("m", 0, &text(131_073)));
    assert_eq!(ended(open).await, Err("MessageTooLarge".to_owned()));
    let open = invoke(&client, "d", call("m", 0, "1"));
    let sent = called(&mut raw).await;
    assert_eq!(sent.payload, "1", "what was too large has not come");
    raw.send(&answer(200, &sent.rid, text(131_073))).await;
    assert_eq!(ended(open).await, Err("InvalidResponseWhileProxying".to_owned()));
    raw.expect_alive().await;
}

scenario!(large_payloads_side_by_side);
async fn large_payloads_side_by_side(hub: &TestHub) {
    let (door, client) = (Door::of(hub), hub.client());
    let mut raw = listening(&door, &Device::create(hub, "d").await).await;
    let payloads: Vec<_> =
        (0..8).map(|n| format!("\"{}\"", n.to_string().repeat(131_070))).collect();
    let open: Vec<_> =
        payloads.iter().map(|payload| invoke(&client, "d", call("m", 0, payload))).collect();
    for _ in &open {
        let sent = called(&mut raw).await;
        raw.send(&answer(200, &sent.rid, &sent.payload)).await;
    }
    for (payload, call) in payloads.iter().zip(open) {
        let want = format!(r#"{{"status":200,"payload":{payload}}}"#);
        let ended = ended(call).await.map_err(|code| format!("{code} for {payload:.3}"));
        assert!(ended == Ok(want), "{:?}", ended.err());
    }
}

// None of it is the hub's failure, and none hurts anybody else.
scenario!(devices_that_answer_nonsense);
async fn devices_that_answer_nonsense(hub: &TestHub) {
    let (door, client) = (Door::of(hub), hub.client());
    let device = Device::create(hub, "d").await;
    let mut raw = listening(&door, &device).await;
    for payload in [
        &b" "[..],
        b"done.",
        b"{}\0",
        b"{\"a\":1,}",
        b"{}{}",
        b"\"\xff\"",
        b"\xef\xbb\xbf{}",
        b"'a'",
        b"[",
        b"01",
        b"-Infinity",
        &[b'['; 100_000],
    ] {
        for status in [200, 500] {
            let open = invoke(&client, "d", call("m", 0, "[]"));
            let rid = called(&mut raw).await.rid;
            raw.send(&answer(status, &rid, payload)).await;
            let ended = ended(open).await;
            assert_eq!(ended, Err("InvalidResponseWhileProxying".to_owned()), "{payload:.20?}");
        }
    }
    // An integer is a status, but there is no room for it.
    for status in ["9223372036854775808", "-9223372036854775809", &"9".repeat(400)] {
        let open = invoke(&client, "d", call("m", 0, "[]"));
        let rid = called(&mut raw).await.rid;
        let topic = format!("$iothub/methods/res/{status}/?$rid={rid}");
        raw.send(&publish(0, &topic, 0, b"1")).await;
        assert_eq!(ended(open).await, Err("InvalidResponseWhileProxying".to_owned()), "{status}");
    }
    raw.expect_alive().await;

    let mut bystander = listening(&door, &Device::create(hub, "bystander").await).await;
    // Nobody waits for an answer of that name.
    for rid in ["", "RIDRID", "-1", "../RID", "RID/", "%RID", "\u{feff}RID"] {
        let open = invoke(&client, "d", call("m", 0, "[]"));
        let right = called(&mut raw).await.rid;
        raw.send(&answer(200, &rid.replace("RID", &right), "1")).await;
        raw.expect_alive().await;
        raw.send(&answer(200, &right, "2")).await;
        assert_eq!(ended(open).await, Ok(r#"{"status":200,"payload":2}"#.to_owned()), "{rid}");
    }
    for topic in [
        "$iothub/methods/res/abc/?$rid=RID",
        "$iothub/methods/res//?$rid=RID",
        "$iothub/methods/res/?$rid=RID",
        "$iothub/methods/res/99999999999999999999x/?$rid=RID",
        "$iothub/methods/res/200.5/?$rid=RID",
        "$iothub/methods/res/0x10/?$rid=RID",
        "$iothub/methods/res/200/x/?$rid=RID",
        "$iothub/methods/res/200",
        "$iothub/methods/res/200/",
        "$iothub/methods/res/200/?",
        "$iothub/methods/res/200/?$rid",
        "$iothub/methods/res/200/?rid=RID",
        "$iothub/methods/POST/m/?$rid=RID",
        "$iothub/methods/res/+/?$rid=RID",
        "$iothub/methods/res/200/?$rid=RID\0",
    ] {
        let open = invoke(&client, "d", call("m", 0, "[]"));
        let rid = called(&mut raw).await.rid;
        raw.send(&publish(QOS1, &topic.replace("RID", &rid), 3, b"1")).await;
        raw.expect_close().await;
        let gone = Err("DeviceConnectionClosedRemotely".to_owned());
        assert_eq!(ended(open).await, gone, "{topic}");
        raw = listening(&door, &device).await;
    }
    // No text at all.
    raw.send(&frame(0x30, &field(b"$iothub/methods/res/200/?$rid=\xff"))).await;
    raw.expect_close().await;
    bystander.expect_alive().await;
}
