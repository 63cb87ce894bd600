//! From HTTP to WebSocket: who is let through, and what everybody else is told.

use dunlin::test_hub::TestHub;

use crate::hostile_kit::{header, owner_token};
use crate::hostile_web::Web;
use crate::mqtt_kit::{Device, Door};
use crate::raw::{DISCONNECT, connack, puback};
use crate::websocket_kit::{ACCEPT, BINARY, PING, PONG, TARGET, Ws, frame, handshake};

scenario!(it_is_answered);
async fn it_is_answered(hub: &TestHub) {
    let (door, device) = (Door::websocket(hub), Device::create(hub, "d").await);
    for (target, offered, want) in [
        (TARGET, "mqtt", "mqtt"),
        (TARGET, "MQTT", "MQTT"),
        (TARGET, "mQtT", "mQtT"),
        (TARGET, "mqttv3.1, Mqtt ,mqtt", "Mqtt"),
        (TARGET, "AMQPWSB10,mqtt", "mqtt"),
        ("/$iothub/websocket?iothub-no-client-cert=true", "mqtt", "mqtt"),
        ("/$iothub/websocket?", "mqtt", "mqtt"),
        ("/$iothub/websocket?x=%zz&y", "mqtt", "mqtt"),
        ("/%24iothub/websocket", "mqtt", "mqtt"),
        ("/%24iothub%2fwebsocket?a=b", "mqtt", "mqtt"),
        ("https://localhost/$iothub/websocket", "mqtt", "mqtt"),
    ] {
        let request = handshake(target, &[("Sec-WebSocket-Protocol", offered)]);
        let (mut ws, head) = Ws::shake(&door, request.as_bytes()).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{request}: {head}");
        assert_eq!(header(&head, "sec-websocket-protocol"), Some(want));
        assert_eq!(header(&head, "sec-websocket-accept"), Some(ACCEPT));
        assert_eq!(header(&head, "upgrade"), Some("websocket"));
        assert!(header(&head, "connection").is_some_and(|it| it.eq_ignore_ascii_case("upgrade")));
        assert_eq!(header(&head, "sec-websocket-extensions"), None);
        assert_eq!(
            (header(&head, "content-length"), header(&head, "transfer-encoding")),
            (None, None)
        );
        ws.send(&frame(BINARY, &device.connect().bytes())).await;
        ws.expect(BINARY, &connack(0)).await;
        ws.send(&frame(BINARY, &DISCONNECT)).await;
        ws.expect_close(1000, target).await;
    }
    // Offers on two lines, and what SDKs' libraries send along.
    let lines = [
        ("Sec-WebSocket-Protocol", "mqttv3.1"),
        ("Sec-WebSocket-Protocol", "Mqtt"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "WebSocket"),
        ("Origin", "https://localhost"),
    ];
    let (_, head) = Ws::shake(&door, handshake(TARGET, &lines).as_bytes()).await;
    assert_eq!(header(&head, "sec-websocket-protocol"), Some("Mqtt"), "{head}");
    assert_eq!(header(&head, "sec-websocket-extensions"), None);
}

scenario!(others_are_told_why);
async fn others_are_told_why(hub: &TestHub) {
    let web = Web::new(hub);
    let refused = |name, value| (handshake(TARGET, &[(name, value)]), 400);
    let post = handshake(TARGET, &[]).replacen("GET", "POST", 1);
    let body = handshake(TARGET, &[("Content-Length", "2")]) + "{}";
    let old = handshake(TARGET, &[]).replacen("HTTP/1.1", "HTTP/1.0", 1);
    for (request, status) in [
        refused("Sec-WebSocket-Protocol", ""),
        refused("Sec-WebSocket-Protocol", "mqttv3.1"),
        refused("Sec-WebSocket-Protocol", "mqtt2, xmqtt"),
        refused("Sec-WebSocket-Key", ""),
        refused("Sec-WebSocket-Key", "dGhlIHNhbXBsZQ=="),
        refused("Sec-WebSocket-Key", "not base64 of 16 bytes!!"),
        refused("Upgrade", ""),
        refused("Upgrade", "h2c"),
        refused("Connection", ""),
        refused("Connection", "keep-alive"),
        (handshake(TARGET, &[("Sec-WebSocket-Version", "")]), 426),
        (handshake(TARGET, &[("Sec-WebSocket-Version", "8")]), 426),
        (handshake(TARGET, &[("Sec-WebSocket-Version", "14")]), 426),
        (post, 405),
        (body, 400),
        (old, 400),
    ] {
        // A second request ends the connection: the first has not spoiled it.
        let both =
            format!("{request}GET /nothing HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let answers = web.say(both.as_bytes(), false).await;
        assert_eq!(answers[0].status, status, "{request}: {answers:?}");
        assert_eq!(answers[0].expect_refusal(&request), "ArgumentInvalid");
        let head = &answers[0].head;
        let version = (status == 426).then_some("13");
        assert_eq!(header(head, "sec-websocket-version"), version, "{head}");
        assert_eq!(header(head, "allow"), (status == 405).then_some("GET"), "{head}");
        let old = request.contains("HTTP/1.0");
        assert_eq!(answers.get(1).map(|answer| answer.status), (!old).then_some(404), "{request}");
    }
    let other =
        handshake(TARGET, &[("Sec-WebSocket-Protocol", "chat"), ("Connection", "Upgrade, close")]);
    let message = String::from_utf8(web.say(other.as_bytes(), false).await.remove(0).body);
    assert!(message.expect("text").contains("subprotocol mqtt"));
    // Near it is not there: the REST API answers.
    for target in
        ["/$iothub/websocket/", "/$iothub/websockets", "/iothub/websocket", "//$iothub/websocket"]
    {
        let request = handshake(target, &[("Connection", "Upgrade, close")]);
        assert_eq!(web.say(request.as_bytes(), false).await[0].status, 404, "{target}");
    }
}

scenario!(it_may_follow_requests);
async fn it_may_follow_requests(hub: &TestHub) {
    let (door, device) = (Door::websocket(hub), Device::create(hub, "d").await);
    let get = format!(
        "GET /devices/d?api-version=2021-04-12 HTTP/1.1\r\nHost: h\r\nAuthorization: {}\r\n\r\n",
        owner_token(hub)
    );
    // Requests, the handshake and the first frames, all in one write.
    let all = [
        get.repeat(3).as_bytes(),
        handshake(TARGET, &[("Sec-WebSocket-Key", "")]).as_bytes(),
        handshake(TARGET, &[]).as_bytes(),
        &frame(PING, b"early"),
        &frame(BINARY, &device.connect().bytes()),
        &frame(BINARY, &device.message(1, b"early")),
    ]
    .concat();
    let stream = Web::new(hub).open_at(door.address).await;
    let mut ws = Ws::over(stream);
    ws.send(&all).await;
    for status in [200, 200, 200, 400, 101] {
        let answer = ws.answer().await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    ws.expect(PONG, b"early").await;
    ws.expect(BINARY, &connack(0)).await;
    ws.expect(BINARY, &puback(1)).await;
    // And the answer does not wait for another.
    let mut ws = Ws::over(Web::new(hub).open_at(door.address).await);
    ws.send(&[handshake(TARGET, &[]).as_bytes(), &frame(PING, b"alone")].concat()).await;
    assert_eq!(ws.answer().await.status, 101);
    ws.expect(PONG, b"alone").await;
}

scenario!(every_truncation);
async fn every_truncation(hub: &TestHub) {
    let (door, device) = (Door::websocket(hub), Device::create(hub, "d").await);
    let web = Web::new(hub);
    let mut bytes = handshake(TARGET, &[]).into_bytes();
    let whole = bytes.len();
    bytes.extend(frame(BINARY, &device.connect().bytes()));
    for end in 0..whole {
        let answers = web.say(&bytes[..end], true).await;
        assert!(answers.iter().all(|answer| answer.status == 400), "{end}: {answers:?}");
    }
    for end in whole..bytes.len() {
        let (mut ws, head) = Ws::shake(&door, &bytes[..end]).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        ws.shut().await;
        // Whatever the hub still says, it says in frames, and ends.
        while ws.frame().await.is_some() {}
    }
    door.enter(&device.connect()).await;
}
