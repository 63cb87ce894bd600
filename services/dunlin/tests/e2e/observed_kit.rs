//! What the tests of traces and metrics share: a device's day that uses every path of the hub once.

use std::collections::BTreeMap;
use std::time::Duration;

use dunlin::test_hub::TestHub;
use reqwest::Method;

use crate::hostile_web::{VERSION, Web};
use crate::method_kit::{answer, called, take_methods};
use crate::mqtt_commands::{acknowledge, listen};
use crate::mqtt_kit::{Device, Door, deliver};
use crate::mqtt_twin::{ANSWERS, report};
use crate::raw::{DISCONNECT, suback, subscribe, within};

/// Of the back end that calls the method: it has begun a trace.
pub const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What devices and back ends sent, and what nobody else is to see of it.
pub const PAYLOADS: [&str; 5] =
    ["spoken-by-mqtt", "spoken-by-https", "reported-value", "called-with-this", "ordered-so"];

/// Returns the device, and the token it used.
pub async fn day(hub: &TestHub) -> (Device, String) {
    let [mqtt, https, reported, called_with, ordered] = PAYLOADS;
    let (door, client) = (Door::of(hub), hub.client());
    let device = Device::create(hub, "d").await;
    let wrong = Device { primary: device.secondary.clone(), id: "nobody".into(), ..device.clone() };
    door.refuses(&wrong.connect(), 5).await;
    let token = device.token();
    let mut raw = door.enter(&device.connect_with(&token)).await;
    take_methods(&mut raw).await;
    deliver(&mut raw, &device, mqtt.as_bytes()).await;
    let web = Web::new(hub).with_token(&token);
    let target = format!("/devices/d/messages/events?{VERSION}");
    let answers = web.say(&web.with_body("POST", &target, https.as_bytes()), false).await;
    assert_eq!(answers[0].status, 204);

    raw.send(&subscribe(2, &[(ANSWERS, 0)])).await;
    raw.expect(&suback(2, &[0])).await;
    raw.send(&report("1", &format!(r#"{{"a":"{reported}"}}"#))).await;
    let told = raw.published().await;
    assert!(told.topic.starts_with("$iothub/twin/res/204/"), "{}", told.topic);

    let path = format!("/twins/d/methods?{VERSION}&secret-of-the-query=1");
    let body = format!(r#"{{"methodName":"m","payload":"{called_with}"}}"#);
    let request = client.request(Method::POST, &path).header("traceparent", CALLER);
    let request = request.header("content-type", "application/json").body(body);
    let back_end = client.clone();
    let call = tokio::spawn(async move { back_end.call(request).await });
    let rid = called(&mut raw).await.rid;
    raw.send(&answer(200, &rid, "1")).await;
    within("the call", call).await.expect("a task").expect("an answer");

    listen(&mut raw, &device, 1).await;
    let path = "/dunlin/v1/devices/d/messages/devicebound";
    client.call(client.request(Method::POST, path).body(ordered)).await.expect("sent");
    let message = raw.published().await;
    assert_eq!(message.text(), ordered);
    acknowledge(&mut raw, &message).await;
    raw.send(&DISCONNECT).await;
    raw.expect_close().await;
    (device, token)
}

/// Metrics of all nodes, one text each.
pub async fn scraped(hub: &TestHub) -> Vec<String> {
    let http = dunlin::client::http().build().expect("a client");
    let mut texts = Vec::new();
    for address in hub.admin_addrs() {
        let response = http.get(format!("http://{address}/metrics")).send().await;
        texts.push(response.expect("answered").text().await.expect("text"));
    }
    texts
}

/// The sum over all nodes of each metric with its labels, but for the buckets.
pub async fn metrics(hub: &TestHub) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for text in scraped(hub).await {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect(line);
            if !name.contains("_bucket{") {
                *sums.entry(name.to_owned()).or_default() += value.parse::<f64>().expect(line);
            }
        }
    }
    sums
}

/// The same, once the day has come to its end: the device is gone and its message settled.
pub async fn metrics_after_the_day(hub: &TestHub) -> BTreeMap<String, f64> {
    let over = async {
        let mut again = tokio::time::interval(Duration::from_millis(20));
        loop {
            again.tick().await;
            let metrics = metrics(hub).await;
            let is = |name: &str, want: f64| metrics.get(name).is_some_and(|value| *value == want);
            if is("dunlin_connections{protocol=\"mqtt\"}", 0.0)
                && is("dunlin_c2d_messages_total{event=\"completed\"}", 1.0)
                // These are told and done in their own time.
                && metrics.keys().any(|name| name.contains("\"RecordConnections\""))
                && metrics.keys().any(|name| name.contains("\"release\""))
                && metrics.keys().any(|name| name.contains("\"node_renew\""))
                && metrics.keys().any(|name| name.contains("\"command_sweep\""))
            {
                return metrics;
            }
        }
    };
    within("the end of the day", over).await
}
