//! Clients that are slow on purpose, and more of them than there is room for. Only connections are
//! concerned, so these run all-in-one only.

use std::time::Duration;

use dunlin::test_hub::TestHub;
use dunlin_runtime::Role;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::hostile_web::Web;
use crate::mqtt_kit::{Device, Door, beside, deliver, door_beside};
use crate::raw::within;
use crate::websocket_kit::{BINARY, TARGET, handshake, head as head_of};

/// A second for every step.
async fn impatient(hub: &TestHub) -> dunlin::hub::Hub {
    let events = hub.stores().events.clone();
    beside(hub, &Role::ALL, events, |config| {
        config.gateway.tls_handshake_seconds = 1;
        config.gateway.mqtt_connect_seconds = 1;
        config.gateway.http_head_seconds = 1;
        config.gateway.http_body_seconds = 1;
    })
    .await
}

#[tokio::test]
async fn every_step_of_a_request_has_an_end() {
    let hub = TestHub::all_in_one().await;
    let impatient = impatient(&hub).await;
    let web = Web::new(&hub);
    let addresses = impatient.gateway.expect("a gateway");
    // No ClientHello.
    for address in [addresses.mqtt, addresses.https] {
        let mut tcp = TcpStream::connect(address).await.expect("a connection");
        let _ = within("the end of a silent connection", tcp.read(&mut [0; 1])).await;
    }
    // No head, half a head, half a body, and nothing after an answer.
    let head = format!(
        "PUT /devices/d?api-version=2021-04-12 HTTP/1.1\r\nHost: h\r\nAuthorization: {}\r\n",
        web.token
    );
    let body = format!("{head}Content-Length: 100\r\n\r\n{{");
    let chunk = format!("{head}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n");
    let done = format!("{head}Content-Length: 2\r\n\r\n{{}}");
    for sent in ["", &head[..50], &head, &body, &chunk, &done] {
        let mut stream = web.open_at(addresses.https).await;
        stream.write_all(sent.as_bytes()).await.expect("sent");
        let mut came = Vec::new();
        let _ = within("the end of a slow request", stream.read_to_end(&mut came)).await;
        let came = String::from_utf8_lossy(&came).into_owned();
        assert_eq!(came.starts_with("HTTP/1.1 200"), sent == done, "{sent:?} got {came}");
        assert!(!came.starts_with("HTTP/1.1 5"), "{sent:?} got {came}");
    }
    // Answers that nobody reads, long enough to fill what the kernel holds.
    let reason = "x".repeat(128);
    for number in 0..100 {
        let body = serde_json::json!({ "statusReason": reason });
        hub.client().device_put(&format!("d{number}"), &body, None).await.expect("created");
    }
    let mut stream = web.open_at(addresses.https).await;
    let asked = format!("GET{}\r\n", &head["PUT".len()..].replacen("/devices/d?", "/devices?", 1));
    let given_up = async { while stream.write_all(asked.as_bytes()).await.is_ok() {} };
    within("the end of who does not read", given_up).await;
    impatient.stop().await;
    hub.stop().await;
}

/// A byte now and then buys no time: a step has its end however busy a stranger seems.
#[tokio::test]
async fn a_trickle_has_an_end() {
    let hub = TestHub::all_in_one().await;
    let impatient = impatient(&hub).await;
    let web = Web::new(&hub);
    let addresses = impatient.gateway.expect("a gateway");
    let head = format!(
        "PUT /devices/d?api-version=2021-04-12 HTTP/1.1\r\nHost: h\r\nAuthorization: {}\r\n",
        web.token
    );
    let connect = [&[0x10, 0x80, 0x08, 0, 4][..], b"MQTT", &[4, 0xc2, 0, 60, 4, 0]].concat();
    let record = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc];
    let upgrade = handshake(TARGET, &[]);
    // A frame as long as the packet; the mask changes nothing.
    let frame = [upgrade.as_bytes(), &head_of(BINARY, 1_027, 0x80), &[0; 4], &connect].concat();
    let body = format!("{head}Content-Length: 9999\r\n\r\n");
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\nfff\r\n");
    // No TLS: the rest of a ClientHello that never is whole.
    let hello = async |address| {
        let tcp = TcpStream::connect(address).await.expect("a connection");
        trickle("a ClientHello", tcp, &record).await;
    };
    let on = async |what: &str, address, begin: &[u8]| {
        trickle(what, web.open_at(address).await, begin).await;
    };
    tokio::join!(
        hello(addresses.mqtt),
        hello(addresses.https),
        on("a head", addresses.https, b"GET / HTTP/1.1\r\nX: "),
        on("a head with lines", addresses.https, head.as_bytes()),
        on("a body", addresses.https, body.as_bytes()),
        on("chunks", addresses.https, chunked.as_bytes()),
        on("a CONNECT", addresses.mqtt, &connect),
        on("a CONNECT over WebSocket", addresses.https, &frame),
    );
    impatient.stop().await;
    hub.stop().await;
}

/// Begins so, and goes on with a byte at a time until the hub has closed.
async fn trickle(what: &str, mut stream: impl AsyncRead + AsyncWrite + Unpin, begin: &[u8]) {
    let mut each = tokio::time::interval(Duration::from_millis(50));
    let mut came = [0; 1_024];
    stream.write_all(begin).await.expect("sent");
    let ended = async {
        loop {
            tokio::select! {
                read = stream.read(&mut came) => {
                    if !matches!(read, Ok(1..)) {
                        return;
                    }
                }
                _ = each.tick() => {
                    let sent = async {
                        stream.write_all(b"x").await?;
                        stream.flush().await
                    };
                    if sent.await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    within(&format!("the end of {what}"), ended).await;
}

/// The oldest of those that do nothing goes when there is one too many; who does something stays.
#[tokio::test]
async fn the_oldest_makes_room() {
    let hub = TestHub::all_in_one().await;
    let events = hub.stores().events.clone();
    let small = beside(&hub, &Role::ALL, events, |config| {
        config.gateway.workers = 1;
        config.gateway.max_unfinished = 4;
    })
    .await;
    let (device, other) = (Device::create(&hub, "d").await, Device::create(&hub, "e").await);
    let door: Door = door_beside(&hub, &small);
    let mut connected = door.enter(&device.connect()).await;
    let web = Web::new(&hub);
    let https = small.gateway.expect("a gateway").https;
    let events = format!(
        "GET /dunlin/v1/events HTTP/1.1\r\nHost: h\r\nAuthorization: {}\r\n\r\n",
        web.token
    );
    // A request that is being served is no idle connection.
    let mut monitor = web.open_at(https).await;
    monitor.write_all(events.as_bytes()).await.expect("sent");
    let mut first = [0; 12];
    within("the head", monitor.read_exact(&mut first)).await.expect("the head");
    assert_eq!(&first, b"HTTP/1.1 200");

    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(web.open_at(https).await);
    }
    let mut halves = Vec::new();
    for _ in 0..20 {
        halves.push(door.say(b"\x10\x7f\0\x04MQTT").await);
    }
    // All but the last four have been told to go.
    for mut gone in idle.drain(..16) {
        assert!(!matches!(within("the close", gone.read(&mut [0; 1])).await, Ok(1..)));
    }
    for mut gone in halves.drain(..16) {
        gone.expect_close().await;
    }
    for stream in &mut idle {
        let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("still there");
        let mut came = Vec::new();
        let _ = within("an answer", stream.read_to_end(&mut came)).await;
        assert!(came.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&came));
    }
    let mut newcomer = door.enter(&other.connect()).await;
    deliver(&mut newcomer, &other, b"x").await;
    deliver(&mut connected, &device, b"x").await;
    let mut more = vec![0; 4_096];
    let read = within("an event", monitor.read(&mut more)).await.expect("the stream goes on");
    assert!(read > 0);
    small.stop().await;
    hub.stop().await;
}
