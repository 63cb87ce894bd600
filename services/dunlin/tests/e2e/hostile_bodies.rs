//! Hostile bodies to the HTTPS port: requests that are cut off, lengths that lie, and JSON that is
//! no identity. Each gets a refusal or a closed connection, and nothing comes of it.

use dunlin::test_hub::TestHub;
use serde_json::json;
use tokio::task::JoinSet;

use crate::hostile_web::{VERSION, check_refusal, site};
use crate::mqtt_kit::{Device, Door, everything};

/// Requests that are cut off at the same time.
const AT_ONCE: usize = 32;

scenario!(every_truncation_of_a_request);
async fn every_truncation_of_a_request(hub: &TestHub) {
    let web = site(hub).await;
    let put = web.with_body("PUT", &format!("/devices/new?{VERSION}"), br#"{"deviceId":"new"}"#);
    let batch = br#"[{"body":"eA==","properties":{"iothub-app-a":"1"}}]"#;
    let more = format!(
        "Content-Type: application/vnd.microsoft.iothub.json\r\nContent-Length: {}\r\n",
        batch.len()
    );
    let events = format!("/devices/bystander/messages/events?{VERSION}");
    let post = web.request("POST", &events, &more, batch);
    for (whole, ends) in [(&put, 0..put.len()), (&post, 0..post.len())] {
        for first in ends.clone().step_by(AT_ONCE) {
            let ask = |end: usize| {
                let (web, part) = (web.clone(), whole[..end].to_vec());
                async move { (end, web.say(&part, true).await) }
            };
            let asking: JoinSet<_> = (first..ends.end).take(AT_ONCE).map(ask).collect();
            for (end, answers) in asking.join_all().await {
                assert!(answers.iter().all(|one| one.status / 100 == 4), "{end}: {answers:?}");
            }
            web.works().await;
        }
    }
    let device = hub.client().device_get("new").await;
    assert!(device.is_err(), "a request that was cut off has had an effect");
    let bystander = Device::read(hub, "bystander").await;
    assert!(everything(hub, &Door::of(hub), &bystander).await.is_empty());
    for (whole, status) in [(&put, 200), (&post, 204)] {
        assert_eq!(web.say(whole, false).await[0].status, status, "the whole one is good");
    }
}

scenario!(lengths_that_lie);
async fn lengths_that_lie(hub: &TestHub) {
    let web = site(hub).await;
    let target = format!("/devices/new?{VERSION}");
    // More is announced than comes.
    let more = "Content-Length: 1000\r\n";
    let answers = web.say(&web.request("PUT", &target, more, b"{}"), true).await;
    answers.iter().for_each(|answer| check_refusal("cut off", answer));
    // Too much is announced: refused unread. (The connection ends with it.)
    let more = format!("Content-Length: {}\r\n", u64::MAX);
    let answers = web.say(&web.request("PUT", &target, &more, b"{}"), true).await;
    answers.iter().for_each(|answer| check_refusal("u64::MAX", answer));
    let large = web.with_body("PUT", &target, &vec![b' '; (1 << 20) + 1]);
    let answers = web.say(&large, false).await;
    assert_eq!(answers[0].expect_refusal("1 MiB and a byte"), "MessageTooLarge");
    // Less than comes: the rest would be the next request.
    let inner = web.request("DELETE", &format!("/devices/bystander?{VERSION}"), "", b"");
    let more = "Content-Length: 2\r\n";
    let two = web.request("PUT", &target, more, &[b"{}", &inner[..]].concat());
    let answers = web.say(&two, false).await;
    assert_eq!(
        (answers.len(), answers[0].status),
        (1, 200),
        "after Connection: close comes nothing"
    );
    // Both lengths: one meaning for all who read it, or none.
    let smuggled = [b"0\r\n\r\n", &inner[..]].concat();
    for more in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let answers = web.say(&web.request("POST", &target, more, &smuggled), false).await;
        assert!(answers.len() <= 1, "{more}: {answers:?}");
        answers.iter().for_each(|answer| check_refusal(more, answer));
    }
    web.works().await;
}

scenario!(bodies_that_are_no_identity);
async fn bodies_that_are_no_identity(hub: &TestHub) {
    let web = site(hub).await;
    let target = format!("/devices/new?{VERSION}");
    for body in [
        &b"\xff\xfe{}"[..],
        b"{\"deviceId\":\"\xff\"}",
        b"{\"deviceId\":\"\xc0\x80\"}",
        br#"{"deviceId":"\ud800"}"#,
        br#"{"deviceId":"new","deviceId":"new"}"#,
        br#"{"status":"enabled","status":"disabled"}"#,
        br#"{"authentication":{"type":"sas","type":"none"}}"#,
        br#"{"authentication":{"symmetricKey":{"primaryKey":"","primaryKey":""}}}"#,
        br#"{"status":1e999}"#,
        br#"{"status":99999999999999999999999999}"#,
        br#"{"status":NaN}"#,
        b"{\"status\":\"enabled\0\"}",
        b"{} {}",
        b"{}\0",
        b"\xef\xbb\xbf{}",
        b"null",
        b"true",
        b"1",
        b"\"x\"",
        b"",
    ] {
        let answers = web.say(&web.with_body("PUT", &target, body), false).await;
        answers[0].expect_refusal(&String::from_utf8_lossy(body));
    }
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("{\"authentication\":", "}")] {
        let deep = format!("{{\"x\":{}1{}}}", open.repeat(10_000), close.repeat(10_000));
        for body in [deep.clone(), open.repeat(10_000)] {
            let answers = web.say(&web.with_body("PUT", &target, body.as_bytes()), false).await;
            // What nobody reads is passed over without recursion, and so may be deep.
            if answers[0].status == 200 {
                hub.client().device_delete("new", "*").await.expect("it was made");
            } else {
                answers[0].expect_refusal(open);
            }
        }
    }
    // Every field as every type. What is allowed creates the device, which then goes again.
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!("x"),
        json!(""),
        json!("\u{0}"),
        json!([]),
        json!([{}]),
        json!({}),
        json!({"type": []}),
        json!("x".repeat(5_000)),
    ];
    let fields = [
        "deviceId",
        "moduleId",
        "status",
        "statusReason",
        "authentication",
        "capabilities",
        "capabilities/iotEdge",
        "authentication/type",
        "authentication/symmetricKey",
        "authentication/symmetricKey/primaryKey",
        "authentication/symmetricKey/secondaryKey",
        "authentication/x509Thumbprint",
        "authentication/x509Thumbprint/primaryThumbprint",
        "etag",
        "generationId",
        "statusUpdatedTime",
        "cloudToDeviceMessageCount",
        "connectionState",
    ];
    for (field, value) in fields.iter().flat_map(|field| values.iter().map(move |v| (field, v))) {
        let body = field.rsplit('/').fold(value.clone(), |inner, name| json!({ name: inner }));
        let body = body.to_string();
        let answers = web.say(&web.with_body("PUT", &target, body.as_bytes()), false).await;
        if answers[0].status == 200 {
            hub.client().device_delete("new", "*").await.expect("it was made");
        } else {
            answers[0].expect_refusal(&body);
        }
    }
    web.works().await;
}
