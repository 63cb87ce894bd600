//! The first packet: what a CONNECT must be, and how it is answered. Only the connection itself is
//! concerned, so these run all-in-one only.

use dunlin::test_hub::TestHub;
use dunlin_runtime::Role;

use crate::mqtt_kit::{Device, Door, beside, bodies, deliver, door_beside, everything};
use crate::raw::{self, Connect, DISCONNECT, PINGREQ, PINGRESP, QOS1, connack, puback};

#[tokio::test]
async fn another_level_gets_connack_1() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    for level in [0, 1, 3, 5, 6, 0x84, 0xff] {
        door.refuses(&Connect { level, ..device.connect() }, 1).await;
    }
    // As MQTT 5 really has it: with properties behind the keep-alive.
    let mut packet = raw::field(b"MQTT");
    packet.extend([5, 0xc2, 0, 60, 0]);
    for text in ["d", "name", "password"] {
        packet.extend(raw::field(text.as_bytes()));
    }
    let mut five = door.say(&raw::frame(0x10, &packet)).await;
    five.expect(&connack(1)).await;
    five.expect_close().await;
    hub.stop().await;
}

#[tokio::test]
async fn another_protocol_is_closed() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    for (protocol, level) in [("MQIsdp", 3), ("MQIsdp", 4), ("mqtt", 4), ("MQTT\0", 4), ("", 4)] {
        door.ignores(&Connect { protocol, level, ..device.connect() }.bytes()).await;
    }
    for bytes in
        [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], b"AMQP\0\x01\0\0", b"\n", b"\0"]
    {
        door.ignores(bytes).await;
    }
    hub.stop().await;
}

#[tokio::test]
async fn nothing_comes_before_connect() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    let firsts = [
        device.message(1, b"x"),
        raw::publish(0, &device.topic(""), 0, b"x"),
        raw::subscribe(1, &[("a", 0)]),
        raw::unsubscribe(1, &["a"]),
        puback(1).to_vec(),
        connack(0).to_vec(),
        PINGREQ.to_vec(),
        PINGRESP.to_vec(),
        DISCONNECT.to_vec(),
        vec![0x50, 2, 0, 1],
        vec![0x62, 2, 0, 1],
        vec![0x70, 2, 0, 1],
        vec![0x90, 3, 0, 1, 0],
        vec![0xb0, 2, 0, 1],
        vec![0xf0, 0],
    ];
    for first in firsts {
        door.ignores(&first).await;
        // Nor does a CONNECT help that comes behind it.
        door.ignores(&[first, device.connect().bytes()].concat()).await;
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_second_connect_closes() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    let mut once = door.enter(&device.connect()).await;
    once.send(&device.connect().bytes()).await;
    once.expect_close().await;
    // Both in one breath: the first is good, and answered.
    let mut twice = door.say(&[device.connect().bytes(), device.connect().bytes()].concat()).await;
    twice.expect(&connack(0)).await;
    twice.expect_close().await;
    hub.stop().await;
}

#[tokio::test]
async fn connect_flags_must_agree() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    let good = device.connect();
    // The reserved flag, and those of a will that is not there.
    for flags in [0x01, 0x08, 0x10, 0x18, 0x20, 0x38] {
        door.ignores(&Connect { flags, ..good.clone() }.bytes()).await;
    }
    // A will flag, but the fields are those of a CONNECT without a will.
    door.ignores(&Connect { flags: 0x04, ..good.clone() }.bytes()).await;
    let mut will = device.will(b"x");
    will.qos = 3;
    door.ignores(&Connect { will: Some(will), ..good.clone() }.bytes()).await;
    // A password, but no user name.
    door.ignores(&Connect { username: None, ..good.clone() }.bytes()).await;
    // Flags of a user name or a password that do not come.
    let (username, password) = (None, None);
    let bare = Connect { username, password, ..good.clone() };
    for flags in [0x80, 0xc0] {
        door.ignores(&Connect { flags, ..bare.clone() }.bytes()).await;
    }
    door.ignores(&Connect { flags: 0x40, password: None, ..good.clone() }.bytes()).await;
    // A user name, a password or a will that no flag announces.
    let with_will = Connect { will: Some(device.will(b"x")), ..good.clone() };
    for (whole, flags) in [(&good, 0x80), (&good, 0), (&with_will, 0xc0)] {
        let mut body = whole.body();
        body[7] = flags;
        door.ignores(&raw::frame(0x10, &body)).await;
    }
    // No ClientId, no keep-alive, and something behind the end.
    for length in 7..12 {
        door.ignores(&raw::frame(0x10, &bare.body()[..length])).await;
    }
    door.ignores(&raw::frame(0x10, &[good.body(), vec![0]].concat())).await;
    door.enter(&good).await;
    hub.stop().await;
}

#[tokio::test]
async fn an_empty_client_id_gets_connack_2() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    for clean in [false, true] {
        let client_id = String::new();
        door.refuses(&Connect { clean, client_id, ..device.connect() }, 2).await;
    }
    hub.stop().await;
}

#[tokio::test]
async fn plain_client_ids() {
    let hub = TestHub::all_in_one().await;
    let door = Door::of(&hub);
    let longest = "x".repeat(128);
    for id in [
        "0",
        "0123456789abcdefghijklm",
        "nopqrstuvwxyzABCDEFGHIJ",
        "KLMNOPQRSTUVWXYZ",
        &longest,
        "-:.+%_#*?!(),=@;$'",
    ] {
        let device = Device::create(&hub, id).await;
        let mut raw = door.enter(&device.connect()).await;
        deliver(&mut raw, &device, b"x").await;
    }
    hub.stop().await;
}

#[tokio::test]
async fn connect_must_come_in_time() {
    let hub = TestHub::all_in_one().await;
    let device = Device::create(&hub, "d").await;
    let events = hub.stores().events.clone();
    let quick =
        beside(&hub, &Role::ALL, events, |config| config.gateway.mqtt_connect_seconds = 1).await;
    let door = door_beside(&hub, &quick);
    let mut connected = door.enter(&device.connect()).await;
    // Far less than the usual 60 s: the tests' own deadline would end them first.
    door.ignores(b"").await;
    let connect = device.connect().bytes();
    door.ignores(&connect[..connect.len() - 1]).await;
    // One that keeps talking gets no more time than another.
    let mut talker = door.say(&raw::frame(0x10, &[0; 16_000])[..3]).await;
    let mut beat = tokio::time::interval(std::time::Duration::from_millis(50));
    let talked = async {
        loop {
            beat.tick().await;
            if talker.try_send(b"\0").await.is_err() {
                break;
            }
        }
    };
    raw::within("the end of a talker", talked).await;
    connected.expect_alive().await;
    quick.stop().await;
    hub.stop().await;
}

#[tokio::test]
async fn connack_comes_first() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    // A client need not wait for CONNACK.
    let all = [
        device.connect().bytes(),
        PINGREQ.to_vec(),
        raw::subscribe(3, &[("a", 0)]),
        device.message(4, b"hasty"),
    ];
    let mut raw = door.say(&all.concat()).await;
    raw.expect(&connack(0)).await;
    let mut answers = Vec::new();
    for _ in 1..all.len() {
        answers.push(raw.packet().await.expect("an answer"));
    }
    answers.sort();
    assert_eq!(answers, [puback(4).to_vec(), vec![0x90, 3, 0, 3, 0x80], PINGRESP.to_vec()]);
    assert_eq!(bodies(&everything(&hub, &door, &device).await), ["hasty"]);
    hub.stop().await;
}

#[tokio::test]
async fn nothing_after_a_refusal_is_processed() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    let bad = device.connect_with("SharedAccessSignature sr=localhost&sig=AAAA&se=9999999999");
    for (refused, code) in [(bad, 5), (Connect { level: 5, ..device.connect() }, 1)] {
        let bytes = [refused.bytes(), device.message(1, b"no"), PINGREQ.to_vec()].concat();
        let mut raw = door.say(&bytes).await;
        raw.expect(&connack(code)).await;
        raw.expect_close().await;
    }
    assert_eq!(bodies(&everything(&hub, &door, &device).await), [""; 0]);
    hub.stop().await;
}

#[tokio::test]
async fn connect_byte_by_byte() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    let topic = device.topic("a=b");
    let stream = [
        device.connect().bytes(),
        raw::publish(QOS1, &topic, 1, &[b'x'; 200]),
        raw::publish(QOS1, &topic, 2, b"two"),
    ];
    let mut raw = door.open().await;
    // Each byte is a TLS record of its own.
    for byte in stream.concat() {
        raw.send(&[byte]).await;
    }
    for answer in [connack(0), puback(1), puback(2)] {
        raw.expect(&answer).await;
    }
    hub.stop().await;
}
