//! Packets that no client may send: each closes its own connection, and no other. Only connections
//! are concerned, so these run all-in-one only.

use dunlin::test_hub::TestHub;
use dunlin_storage::testing::seeded;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::mqtt_kit::{Device, Door, bodies, deliver, events, everything};
use crate::raw::{
    DISCONNECT, DUP, PINGREQ, PINGRESP, QOS1, Raw, connack, field, frame, puback, publish,
    subscribe, unsubscribe, within,
};

struct Site {
    hub: TestHub,
    door: Door,
    device: Device,
    bystander: Device,
}

impl Site {
    async fn new() -> Self {
        let hub = TestHub::all_in_one().await;
        let door = Door::of(&hub);
        let device = Device::create(&hub, "d").await;
        let bystander = Device::create(&hub, "bystander").await;
        Self { hub, door, device, bystander }
    }

    /// Each packet closes the connection it comes on without a word; a bystander goes on publishing
    /// all the while, and nothing else is stored.
    async fn each_closes(&self, packets: &[Vec<u8>]) {
        let mut bystander = self.door.enter(&self.bystander.connect()).await;
        for packet in packets {
            let mut raw = self.door.enter(&self.device.connect()).await;
            raw.send(packet).await;
            let rest = raw.rest().await;
            assert!(rest.is_empty(), "{packet:x?} got {rest:x?}");
            deliver(&mut bystander, &self.bystander, b"x").await;
        }
        assert_eq!(bodies(&everything(&self.hub, &self.door, &self.device).await), [""; 0]);
    }

    async fn stop(self) {
        self.hub.stop().await;
    }
}

/// Every value of the low four bits but the valid ones.
fn with_flags(packet: &[u8], valid: &[u8]) -> Vec<Vec<u8>> {
    (0..16)
        .filter(|flags| !valid.contains(flags))
        .map(|flags| [&[packet[0] & 0xf0 | flags], &packet[1..]].concat())
        .collect()
}

fn bad_flags(device: &Device) -> Vec<Vec<u8>> {
    let mut packets: Vec<_> = [
        (device.connect().bytes(), &[0][..]),
        (puback(1).to_vec(), &[0]),
        (vec![0x50, 2, 0, 1], &[0]),
        (vec![0x60, 2, 0, 1], &[2]),
        (vec![0x70, 2, 0, 1], &[0]),
        (subscribe(1, &[("a", 0)]), &[2]),
        (unsubscribe(1, &["a"]), &[2]),
        (PINGREQ.to_vec(), &[0]),
        (DISCONNECT.to_vec(), &[0]),
    ]
    .iter()
    .flat_map(|(packet, valid)| with_flags(packet, valid))
    .collect();
    // QoS 3, and DUP of QoS 0.
    for flags in [0x06, 0x07, 0x06 | DUP, 0x07 | DUP, DUP, DUP | 1] {
        packets.push(publish(flags, &device.topic(""), 1, b"x"));
    }
    packets
}

#[tokio::test]
async fn flags_of_the_first_byte() {
    let site = Site::new().await;
    site.each_closes(&bad_flags(&site.device)).await;
    for connect in with_flags(&site.device.connect().bytes(), &[0]) {
        site.door.ignores(&connect).await;
    }
    site.stop().await;
}

/// Bytes that are no text: no UTF-8, an overlong U+0000, a surrogate, a character cut off, U+0000.
const NO_TEXT: [&[u8]; 6] =
    [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xe2\x82", b"\xf4\x90\x80\x80", b"\0"];

fn bad_text(device: &Device) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for bad in NO_TEXT {
        let topic = [device.topic("k=").as_bytes(), bad].concat();
        packets.push(frame(0x30, &field(&topic)));
        packets.push(frame(0x32, &[&field(&topic)[..], &[0, 1], b"x"].concat()));
        let filter = field(&[b"a/", bad].concat());
        packets.push(frame(0x82, &[&[0, 1], &filter[..], &[0]].concat()));
        packets.push(frame(0x82, &[&[0, 1], &field(b"a")[..], &[0], &filter[..], &[0]].concat()));
        packets.push(frame(0xa2, &[&[0, 1], &filter[..]].concat()));
        packets.push(frame(0xa2, &[&[0, 1], &field(b"a")[..], &filter[..]].concat()));
    }
    packets
}

#[tokio::test]
async fn text_is_utf_8_without_nul() {
    let site = Site::new().await;
    site.each_closes(&bad_text(&site.device)).await;
    let (username, password) = (site.device.username(), site.device.token());
    for bad in NO_TEXT {
        // ClientId, will topic, user name: one of them is bad.
        for at in 0..3 {
            let mut texts =
                [b"d", &b"devices/d/messages/events/"[..], username.as_bytes()].map(<[u8]>::to_vec);
            texts[at].extend(bad);
            let [client_id, topic, username] = texts.map(|text| field(&text));
            let body = [
                &field(b"MQTT")[..],
                &[4, 0xc4, 0, 60],
                &client_id,
                &topic,
                &field(b"will"),
                &username,
                &field(password.as_bytes()),
            ];
            site.door.ignores(&frame(0x10, &body.concat())).await;
        }
    }
    site.stop().await;
}

fn packet_id_0s(device: &Device) -> Vec<Vec<u8>> {
    vec![
        publish(QOS1, &device.topic(""), 0, b"x"),
        subscribe(0, &[("a", 0)]),
        unsubscribe(0, &["a"]),
        puback(0).to_vec(),
    ]
}

#[tokio::test]
async fn packet_id_0() {
    let site = Site::new().await;
    site.each_closes(&packet_id_0s(&site.device)).await;
    site.stop().await;
}

fn bad_lengths(device: &Device) -> Vec<Vec<u8>> {
    let topic = device.topic("");
    let overrun = [&[0xff, 0xff], topic.as_bytes()].concat();
    vec![
        // A remaining length of more than four bytes.
        vec![0xc0, 0x80, 0x80, 0x80, 0x80],
        vec![0x30, 0xff, 0xff, 0xff, 0xff, 1],
        // Too long.
        vec![0xc0, 1, 0],
        vec![0xe0, 1, 0],
        vec![0x40, 3, 0, 1, 0],
        vec![0x62, 3, 0, 1, 0],
        // Too short: no packet id, or half of one.
        vec![0x40, 0],
        vec![0x40, 1, 0],
        vec![0x82, 0],
        vec![0x82, 1, 0],
        vec![0xa2, 0],
        vec![0xa2, 1, 0],
        // No filter, a filter without QoS, a filter beyond the end.
        vec![0x82, 2, 0, 1],
        vec![0xa2, 2, 0, 1],
        frame(0x82, &[&[0, 1], &field(b"a")[..]].concat()),
        frame(0x82, &[&[0, 1], &field(b"a")[..], &[0], &field(b"b")].concat()),
        frame(0x82, &[0, 1, 0, 2, b'a', 0]),
        frame(0x82, &[0, 1, 0]),
        frame(0xa2, &[0, 1, 0, 2, b'a']),
        frame(0xa2, &[0, 1, 0]),
        // A topic that is not there or beyond the end, a packet id that does not fit in.
        frame(0x30, b""),
        frame(0x30, b"\0"),
        frame(0x30, &overrun),
        frame(0x32, &overrun),
        frame(0x32, &field(topic.as_bytes())),
        frame(0x32, &[&field(topic.as_bytes())[..], &[0]].concat()),
    ]
}

#[tokio::test]
async fn lengths_that_do_not_fit() {
    let site = Site::new().await;
    site.each_closes(&bad_lengths(&site.device)).await;
    site.door.ignores(&[0x10, 0xff, 0xff, 0xff, 0xff, 1]).await;
    site.stop().await;
}

#[tokio::test]
async fn requested_qos_over_2() {
    let site = Site::new().await;
    let packets: Vec<_> = [0x03, 0x04, 0x08, 0x10, 0x20, 0x40, 0x41, 0x80, 0xff]
        .iter()
        .flat_map(|qos| [subscribe(1, &[("a", *qos)]), subscribe(1, &[("a", 0), ("b", *qos)])])
        .collect();
    site.each_closes(&packets).await;
    site.stop().await;
}

#[tokio::test]
async fn topics_have_a_character() {
    let site = Site::new().await;
    let packets = [
        publish(0, "", 0, b"x"),
        publish(QOS1, "", 1, b"x"),
        subscribe(1, &[("", 0)]),
        subscribe(1, &[("a", 0), ("", 0)]),
        unsubscribe(1, &[""]),
        unsubscribe(1, &["a", ""]),
    ];
    site.each_closes(&packets).await;
    site.stop().await;
}

fn servers_packets() -> Vec<Vec<u8>> {
    vec![
        connack(0).to_vec(),
        vec![0x90, 3, 0, 1, 0],
        vec![0xb0, 2, 0, 1],
        PINGRESP.to_vec(),
        vec![0x00, 0],
        vec![0xf0, 0],
    ]
}

#[tokio::test]
async fn what_only_a_server_sends() {
    let site = Site::new().await;
    site.each_closes(&servers_packets()).await;
    site.stop().await;
}

/// Offenders come and go by the dozen while a bystander publishes without a pause.
#[tokio::test]
async fn only_the_offender_is_closed() {
    let site = Site::new().await;
    let mut packets = bad_flags(&site.device);
    packets.extend(bad_text(&site.device));
    packets.extend(packet_id_0s(&site.device));
    packets.extend(bad_lengths(&site.device));
    packets.extend(servers_packets());
    let (ended, mut is_ended) = tokio::sync::oneshot::channel();
    let (door, bystander) = (site.door.clone(), site.bystander.clone());
    let publishing = tokio::spawn(async move {
        let mut raw = door.enter(&bystander.connect()).await;
        let mut sent = 0;
        while is_ended.try_recv().is_err() {
            deliver(&mut raw, &bystander, format!("{sent}").as_bytes()).await;
            sent += 1;
        }
        sent
    });
    let mut offenders = Vec::new();
    for n in 0..8 {
        offenders.push(Device::create(&site.hub, &format!("offender-{n}")).await);
    }
    for packets in packets.chunks(offenders.len()) {
        let mut connections: Vec<Raw> = Vec::new();
        for (offender, _) in offenders.iter().zip(packets) {
            connections.push(site.door.enter(&offender.connect()).await);
        }
        for (raw, packet) in connections.iter_mut().zip(packets) {
            raw.send(packet).await;
        }
        for mut raw in connections {
            raw.expect_close().await;
        }
    }
    ended.send(()).expect("still publishing");
    let sent: usize = publishing.await.expect("undisturbed");
    let want: Vec<_> = (0..sent).map(|n| n.to_string()).collect();
    assert!(sent > 0);
    assert_eq!(bodies(&events(&site.hub, "bystander", sent).await), want);
    site.stop().await;
}

/// A stream that ends anywhere is waited for, and forgotten when its connection is gone.
#[tokio::test]
async fn every_truncation_is_waited_for() {
    let site = Site::new().await;
    let mut bystander = site.door.enter(&site.bystander.connect()).await;
    let connect = site.device.connect().bytes();
    let message = publish(QOS1, &site.device.topic("a=b"), 1, b"never whole");
    let stream = [&connect[..], &message].concat();
    for end in 0..stream.len() {
        let mut raw = site.door.say(&stream[..end]).await;
        if end >= connect.len() {
            // It is in before the next one comes: who is late would take that one's place.
            raw.expect(&connack(0)).await;
        }
        raw.abandon();
        if end % 16 == 0 {
            deliver(&mut bystander, &site.bystander, b"x").await;
        }
    }
    assert_eq!(bodies(&everything(&site.hub, &site.door, &site.device).await), [""; 0]);
    site.stop().await;
}

/// Bytes at random, at first and after a good CONNECT, and a good stream with bytes changed.
/// `DUNLIN_MQTT_SEED` repeats a run.
#[tokio::test]
async fn random_bytes() {
    let mut random = seeded("DUNLIN_MQTT_SEED");
    let site = Site::new().await;
    let mut bystander = site.door.enter(&site.bystander.connect()).await;
    let connect = site.device.connect().bytes();
    let good = [
        site.device.message(1, b"one"),
        PINGREQ.to_vec(),
        subscribe(2, &[("a", 1)]),
        unsubscribe(3, &["a"]),
        puback(4).to_vec(),
        site.device.message(5, b"two"),
    ]
    .concat();
    for round in 0..300 {
        let mut bytes = match round % 4 {
            0 => Vec::new(),
            // The CONNECT itself may be hit.
            1 => [&connect[..], &good].concat(),
            _ => connect.clone(),
        };
        match round % 4 {
            1 => {
                for _ in 0..random.usize(1..6) {
                    let at = random.usize(..bytes.len());
                    bytes[at] = random.u8(..);
                }
            }
            // A packet type, a length that fits, and anything in it.
            2 => {
                for _ in 0..random.usize(1..5) {
                    let body: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..)).collect();
                    bytes.extend(frame(random.u8(..), &body));
                }
            }
            _ => bytes.extend((0..random.usize(1..200)).map(|_| random.u8(..))),
        }
        site.door.say(&bytes).await.abandon();
        if round % 10 == 0 {
            // As they are, without TLS.
            let mut tcp = TcpStream::connect(site.door.address).await.expect("a connection");
            tcp.write_all(&bytes).await.expect("sent");
            deliver(&mut bystander, &site.bystander, b"x").await;
        }
    }
    bystander.expect_alive().await;
    // The identity is as good as before, once none of the connections above is late any more: until
    // then one may take the place of this.
    let usable = async {
        loop {
            let mut raw = site.door.say(&site.device.connect().bytes()).await;
            let _ = raw.try_send(&site.device.message(1, b"as if nothing had been")).await;
            let answers = (raw.packet().await.ok(), raw.packet().await.ok());
            if answers == (Some(connack(0).to_vec()), Some(puback(1).to_vec())) {
                break;
            }
        }
    };
    within("a usable identity", usable).await;
    site.stop().await;
}
