//! Devices that prove who they are by a client certificate, over MQTT and over WebSocket.

use dunlin::test_hub::TestHub;
use dunlin_model::event::header;
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use serde_json::json;

use crate::mqtt_kit::{Device, Door, deliver, events, set_status};
use crate::raw::{self, CONNACK_PRESENT, Connect, QOS1, connack, puback, publish};
use crate::x509_ca::{by_ca, verified};
use crate::x509_kit::{Card, authority, between, connect, named, register, thumbprints};

/// Both heads that carry MQTT.
fn doors(hub: &TestHub) -> [Door; 2] {
    [Door::of(hub), Door::websocket(hub)]
}

scenario!(either_thumbprint_lets_a_device_in);
async fn either_thumbprint_lets_a_device_in(hub: &TestHub) {
    let [first, second] = ["first", "second"].map(|name| Card::self_signed(named(name)));
    register(hub, "d", &thumbprints(&first.sha1(), &second.sha256().to_uppercase())).await;
    register(hub, "d/m", &thumbprints("", &first.sha256())).await;
    let mut sent = 0;
    for door in doors(hub) {
        for card in [&first, &second] {
            let mut raw = card.at(hub, &door).enter(&connect("d")).await;
            raw.send(&publish(QOS1, "devices/d/messages/events/", 1, b"x")).await;
            assert_eq!(raw.packet().await.expect("an answer"), puback(1));
            sent += 1;
        }
        let mut raw = first.at(hub, &door).enter(&connect("d/m")).await;
        raw.send(&publish(QOS1, "devices/d/modules/m/messages/events/", 1, b"x")).await;
        assert_eq!(raw.packet().await.expect("an answer"), puback(1));
        sent += 1;
        // Its own certificate, and none of the other's.
        second.at(hub, &door).refuses(&connect("d/m"), 5).await;
        // An empty password is none.
        let empty = Connect { password: Some(Vec::new()), ..connect("d") };
        first.at(hub, &door).enter(&empty).await;
    }
    for event in events(hub, "d", sent).await {
        let of = |name| event.headers.iter().find(|header| header.name == name);
        let value = |name| of(name).and_then(|header| header.value.as_deref());
        let scope = if of(header::CONNECTION_MODULE_ID).is_some() { "module" } else { "device" };
        let want = format!(r#"{{"scope":"{scope}","type":"x509","issuer":"external"}}"#);
        assert_eq!(value(header::AUTH_METHOD), Some(want.as_str()));
    }
}

scenario!(whoever_shows_something_else_is_refused);
async fn whoever_shows_something_else_is_refused(hub: &TestHub) {
    let [own, other] = ["own", "own"].map(|name| Card::self_signed(named(name)));
    let over = Card::self_signed(between(named("own"), 2020, 2021));
    let to_come = Card::self_signed(between(named("own"), 2080, 2090));
    register(hub, "d", &thumbprints(&own.sha1(), "")).await;
    register(hub, "over", &thumbprints(&over.sha1(), &to_come.sha256())).await;
    let sas = Device::create(hub, "sas").await;
    register(hub, "none", &json!({"authentication": {"type": "none"}})).await;
    for door in doors(hub) {
        other.at(hub, &door).refuses(&connect("d"), 5).await;
        own.at(hub, &door).refuses(&connect("D"), 5).await;
        own.at(hub, &door).refuses(&connect("d/m"), 5).await;
        door.refuses(&connect("d"), 5).await;
        over.at(hub, &door).refuses(&connect("over"), 5).await;
        to_come.at(hub, &door).refuses(&connect("over"), 5).await;
        // The one kind where the other is registered. A token outdoes the certificate beside it.
        own.at(hub, &door).refuses(&connect("sas"), 5).await;
        own.at(hub, &door).refuses(&connect("none"), 5).await;
        let token = Connect { password: sas.connect().password, ..connect("d") };
        door.refuses(&token, 5).await;
        own.at(hub, &door).refuses(&token, 5).await;
        let mut raw = own.at(hub, &door).enter(&sas.connect()).await;
        deliver(&mut raw, &sas, b"by token").await;
        set_status(hub, "d", "disabled").await;
        own.at(hub, &door).refuses(&connect("d"), 5).await;
        set_status(hub, "d", "enabled").await;
        own.at(hub, &door).enter(&connect("d")).await;
    }
}

scenario!(a_new_thumbprint_ends_the_connection_by_the_old_one);
async fn a_new_thumbprint_ends_the_connection_by_the_old_one(hub: &TestHub) {
    let [old, new] = ["d", "d"].map(|name| Card::self_signed(named(name)));
    register(hub, "d", &thumbprints(&old.sha256(), "")).await;
    let door = Door::of(hub);
    let mut connected = old.at(hub, &door).enter(&connect("d")).await;
    let both = thumbprints(&old.sha256(), &new.sha256());
    hub.client().device_put("d", &both, Some("*")).await.expect("replaced");
    connected.expect_close().await;
    let mut connected = old.at(hub, &door).enter(&connect("d")).await;
    let only_new = thumbprints(&new.sha1(), "");
    hub.client().device_put("d", &only_new, Some("*")).await.expect("replaced");
    connected.expect_close().await;
    old.at(hub, &door).refuses(&connect("d"), 5).await;
    new.at(hub, &door).enter(&connect("d")).await;
}

scenario!(a_certificate_is_good_over_https);
async fn a_certificate_is_good_over_https(hub: &TestHub) {
    let [own, other] = ["own", "own"].map(|name| Card::self_signed(named(name)));
    register(hub, "d", &thumbprints(&own.sha1(), "")).await;
    let sas = Device::create(hub, "sas").await;
    let path = |id: &str| format!("/devices/{id}/messages/events?api-version=2021-04-12");
    let none = String::new();
    let token = |device: &Device| format!("Authorization: {}\r\n", device.token());
    for (what, card, id, header, status) in [
        ("its own", Some(&own), "d", &none, 204),
        ("an empty header beside it", Some(&own), "d", &"Authorization: \r\n".to_owned(), 204),
        ("another's", Some(&other), "d", &none, 401),
        ("nothing", None, "d", &none, 401),
        ("of another device", Some(&own), "D", &none, 401),
        ("of a device with keys", Some(&own), "sas", &none, 401),
        ("a token beside it", Some(&own), "sas", &token(&sas), 204),
        ("another's token", Some(&own), "d", &token(&sas), 401),
    ] {
        let door = Door::websocket(hub);
        let door = card.map_or(door.clone(), |card| card.at(hub, &door));
        let tls = raw::open_tls(door.address, &door.tls).await.expect("TLS");
        let mut https = raw::Raw::over(tls);
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: localhost\r\n{header}Content-Length: 1\r\n\
             Connection: close\r\n\r\nx",
            path(id)
        );
        https.send(request.as_bytes()).await;
        let answer = String::from_utf8_lossy(&https.rest().await).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
    }
    let stored = events(hub, "d", 2).await;
    let method = |name| stored[0].headers.iter().find(|header| header.name == name);
    let want = r#"{"scope":"device","type":"x509","issuer":"external"}"#;
    assert_eq!(method(header::AUTH_METHOD).and_then(|header| header.value.as_deref()), Some(want));
}

scenario!(a_resumed_tls_session_is_the_same_device);

/// A resumed TLS session shows no certificate again: the one of its first handshake counts, and is
/// judged anew.
async fn a_resumed_tls_session_is_the_same_device(hub: &TestHub) {
    let ca = Card::self_signed(authority("ca"));
    for (number, version) in [&TLS12, &TLS13].into_iter().enumerate() {
        verified(hub, "ca", &ca).await;
        let [known, vouched] = ["known", "vouched"].map(|name| format!("{name}-{number}"));
        let own = Card::self_signed(named("whoever"));
        register(hub, &known, &thumbprints(&own.sha1(), "")).await;
        let leaf = ca.sign(named(&vouched));
        register(hub, &vouched, &by_ca()).await;
        let clients = [(known.as_str(), own), (vouched.as_str(), leaf)].map(|(id, card)| {
            let mut door = Door::of(hub);
            door.tls =
                raw::connector_showing_by(&[version], hub.ca_pem(), card.chain, card.key.clone());
            (id, door)
        });
        for (id, door) in &clients {
            assert_ne!(again(id, door, &[connack(0)]).await, Some(HandshakeKind::Resumed));
            let resumed = again(id, door, &[connack(0), CONNACK_PRESENT]).await;
            assert_eq!(resumed, Some(HandshakeKind::Resumed), "{id} by {version:?}");
        }
        let other = thumbprints(&Card::self_signed(named("other")).sha1(), "");
        hub.client().device_put(&known, &other, Some("*")).await.expect("replaced");
        hub.client().certificate_delete("ca", "*").await.expect("deleted");
        for (id, door) in &clients {
            let resumed = again(id, door, &[connack(5)]).await;
            assert_eq!(resumed, Some(HandshakeKind::Resumed), "{id} by {version:?}");
        }
    }
}

/// Connects, is answered so, and goes; how TLS began.
async fn again(id: &str, door: &Door, answers: &[[u8; 4]]) -> Option<HandshakeKind> {
    let tls = raw::open_tls(door.address, &door.tls).await.expect("TLS");
    let kind = tls.get_ref().1.handshake_kind();
    let mut device = raw::Raw::over(tls);
    device.send(&connect(id).bytes()).await;
    let answer = device.packet().await.expect("an answer");
    assert!(answers.iter().any(|one| answer == one), "{id}: {answer:x?}");
    device.close().await;
    kind
}

/// What the hub would hold for as long as a connection lives is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn more_certificates_than_a_device_needs_are_no_handshake() {
    let hub = TestHub::all_in_one().await;
    let card = Card::self_signed(named("d"));
    register(&hub, "d", &thumbprints(&card.sha1(), "")).await;
    let many = |count: usize, length: usize| {
        let rest = vec![vec![0x30; length]; count - 1];
        let chain = card.chain.iter().cloned().chain(rest).collect();
        let mut door = Door::of(&hub);
        door.tls = raw::connector_showing(hub.ca_pem(), chain, card.key.clone());
        door
    };
    many(8, 100).enter(&connect("d")).await;
    for (count, length) in [(9, 100), (2, 16_384)] {
        let door = many(count, length);
        // With TLS 1.3 a client hears of it only when it reads.
        if let Ok(tls) = raw::open_tls(door.address, &door.tls).await {
            let mut refused = raw::Raw::over(tls);
            let _ = refused.try_send(&connect("d").bytes()).await;
            refused.expect_close().await;
        }
    }
    hub.stop().await;
}
