//! Frames, good and bad (RFC 6455, 5): what is carried arrives however it is cut, and who breaks a
//! rule is told by the code of a Close.

use dunlin::test_hub::TestHub;
use dunlin_storage::testing::seeded;

use crate::mqtt_kit::{Device, Door, bodies, deliver, events};
use crate::raw::{PINGREQ, PINGRESP, connack, puback, within};
use crate::websocket_kit::{BINARY, CLOSE, CONTINUE, FIN, PING, PONG, TEXT, Ws, frame, head};

scenario!(packets_and_frames_need_not_align);
async fn packets_and_frames_need_not_align(hub: &TestHub) {
    let (door, device) = (Door::websocket(hub), Device::create(hub, "d").await);
    let connect = device.connect().bytes();
    let packets = [&connect[..], &device.message(1, b"one"), &PINGREQ].concat();
    let pong = frame(PONG, b"unasked");
    let bytewise = packets.iter().flat_map(|byte| frame(BINARY, &[*byte])).collect();
    let mut pieces = frame(BINARY & !FIN, &packets[..7]);
    for piece in packets[7..].chunks(5) {
        pieces.extend([&frame(CONTINUE, piece)[..], &frame(CONTINUE, b""), &pong].concat());
    }
    pieces.extend(frame(CONTINUE | FIN, b""));
    let frames = [
        frame(BINARY, &packets),
        bytewise,
        pieces,
        [frame(BINARY, b""), frame(BINARY, &packets), frame(BINARY, b"")].concat(),
        [frame(BINARY, &packets[..3]), pong, frame(BINARY, &packets[3..])].concat(),
        // A length need not be in its shortest form.
        [&[BINARY, 0xfe, 0, 2, 0, 0, 0, 0][..], &connect[..2], &frame(BINARY, &packets[2..])]
            .concat(),
    ];
    let count = frames.len() * 2;
    for bytes in frames {
        for chunk in [bytes.len(), 1] {
            let mut ws = Ws::open(&door).await;
            for bytes in bytes.chunks(chunk) {
                ws.send(bytes).await;
            }
            let mut answers = Vec::new();
            while answers.len() < 10 {
                let (first, payload) = ws.frame().await.expect("an answer");
                assert_eq!(first, BINARY);
                answers.extend(payload);
            }
            // The ping overtakes the message that is still to be durable.
            assert_eq!(answers[..4], connack(0));
            assert!(answers[4..].ends_with(&puback(1)) || answers[4..].ends_with(&PINGRESP));
        }
    }
    assert_eq!(bodies(&events(hub, "d", count).await), vec!["one"; count]);
}

scenario!(a_message_of_any_length);
async fn a_message_of_any_length(hub: &TestHub) {
    let (door, device) = (Door::websocket(hub), Device::create(hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    let mut sent = Vec::new();
    for length in [0, 60, 125, 126, 4_096, 65_400, 65_536, 200_000] {
        let body = "x".repeat(length);
        deliver(&mut raw, &device, body.as_bytes()).await;
        sent.push(body);
    }
    assert_eq!(bodies(&events(hub, "d", sent.len()).await), sent);
    // Many at once, a frame each, and all of them in one.
    let many: Vec<_> = (1..=300).map(|n| device.message(n, n.to_string().as_bytes())).collect();
    let mut ws = Ws::open(&door).await;
    ws.send(&frame(BINARY, &device.connect().bytes())).await;
    ws.expect(BINARY, &connack(0)).await;
    ws.send(&many.iter().flat_map(|packet| frame(BINARY, packet)).collect::<Vec<_>>()).await;
    ws.send(&frame(BINARY, &many.concat())).await;
    let mut acks = Vec::new();
    while acks.len() < 600 * 4 {
        let (first, payload) = ws.frame().await.expect("acknowledgements");
        assert_eq!(first, BINARY);
        acks.extend(payload);
    }
    assert_eq!(acks, (1..=300).flat_map(puback).collect::<Vec<_>>().repeat(2));
}

scenario!(pings_are_answered);
async fn pings_are_answered(hub: &TestHub) {
    let (door, device) = (Door::websocket(hub), Device::create(hub, "d").await);
    let mut ws = Ws::open(&door).await;
    let most = [b'p'; 125];
    for payload in [&b""[..], b"hello", &most] {
        ws.send(&frame(PING, payload)).await;
        ws.expect(PONG, payload).await;
    }
    // In the midst of a packet, a message and a frame's bytes.
    let connect = device.connect().bytes();
    let ping = frame(PING, b"within");
    ws.send(&[&frame(BINARY & !FIN, &connect[..9])[..], &ping[..4]].concat()).await;
    ws.send(&[&ping[4..], &frame(CONTINUE | FIN, &connect[9..])].concat()).await;
    ws.expect(PONG, b"within").await;
    ws.expect(BINARY, &connack(0)).await;
}

/// What a rule forbids, and the code of the Close that it gets.
fn forbidden() -> Vec<(&'static str, Vec<u8>, u16)> {
    let unmasked = |first| [head(first, 2, 0), vec![0xc0, 0]].concat();
    let started = |then: Vec<u8>| [frame(BINARY & !FIN, &PINGREQ[..1]), then].concat();
    let mut all = vec![
        ("text", frame(TEXT, b"hello"), 1003),
        ("text in pieces", frame(TEXT & !FIN, b"hello"), 1003),
        ("text in a message", started(frame(TEXT, b"hello")), 1003),
        ("unmasked", unmasked(BINARY), 1002),
        ("unmasked ping", unmasked(PING), 1002),
        ("unmasked close", unmasked(CLOSE), 1002),
        ("a message in a message", started(frame(BINARY, &PINGREQ[1..])), 1002),
        ("going on with nothing", frame(CONTINUE | FIN, &PINGREQ), 1002),
        ("going on, not last, with nothing", frame(CONTINUE, &PINGREQ), 1002),
        ("a ping in pieces", frame(PING & !FIN, b"x"), 1002),
        ("a close in pieces", frame(CLOSE & !FIN, b""), 1002),
        ("a long ping", frame(PING, &[0; 126]), 1002),
        ("a long pong", frame(PONG, &[0; 200]), 1002),
        ("a long close", frame(CLOSE, &[3; 126]), 1002),
        ("a ping of 2^63", [head(PING, 1 << 63, 0x80), vec![0; 4]].concat(), 1002),
        ("a length of 64 bits", [head(BINARY, 1 << 63, 0x80), vec![0; 4]].concat(), 1002),
        ("all ones", vec![0xff; 14], 1002),
        ("half a close code", frame(CLOSE, &[3]), 1002),
        ("a reason that is no text", frame(CLOSE, &[3, 0xe8, 0xff]), 1007),
    ];
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535_u16] {
        all.push(("a code that may not be sent", frame(CLOSE, &code.to_be_bytes()), 1002));
    }
    for bit in [0x40, 0x20, 0x10] {
        all.push(("a reserved bit", frame(BINARY | bit, &PINGREQ), 1002));
        all.push(("a reserved bit of a ping", frame(PING | bit, b""), 1002));
    }
    for opcode in (3..8).chain(11..16) {
        all.push(("a reserved opcode", frame(FIN | opcode, &PINGREQ), 1002));
    }
    all
}

scenario!(who_breaks_a_rule_is_told);
async fn who_breaks_a_rule_is_told(hub: &TestHub) {
    let (door, device) = (Door::websocket(hub), Device::create(hub, "d").await);
    let bystander = Device::create(hub, "bystander").await;
    let mut other = door.enter(&bystander.connect()).await;
    for (what, bytes, code) in forbidden() {
        // Of a stranger; of a device, behind a good frame and with more to come.
        let mut ws = Ws::open(&door).await;
        ws.send(&bytes).await;
        ws.expect_close(code, what).await;
        let mut ws = Ws::open(&door).await;
        ws.send(&frame(BINARY, &device.connect().bytes())).await;
        ws.expect(BINARY, &connack(0)).await;
        ws.send(&[&frame(BINARY, &PINGREQ)[..], &bytes, &frame(BINARY, &PINGREQ)].concat()).await;
        ws.expect_close_after(code, what).await;
    }
    deliver(&mut other, &bystander, b"undisturbed").await;
}

scenario!(a_close_is_answered);
async fn a_close_is_answered(hub: &TestHub) {
    let (door, device) = (Door::websocket(hub), Device::create(hub, "d").await);
    for (payload, code) in [
        (&b""[..], 1000),
        (b"\x03\xe8", 1000),
        (b"\x03\xe9going away", 1001),
        (b"\x03\xf3", 1011),
        (b"\x0b\xb8", 3000),
        (b"\x13\x87\xe2\x82\xac", 4999),
    ] {
        let mut ws = Ws::open(&door).await;
        ws.send(&frame(BINARY, &device.connect().bytes())).await;
        ws.expect(BINARY, &connack(0)).await;
        // What comes behind it is not looked at.
        let message = frame(BINARY, &device.message(1, b"too late"));
        ws.send(&[frame(CLOSE, payload), message, frame(TEXT, b"")].concat()).await;
        ws.expect_close(code, &format!("{payload:x?}")).await;
    }
    let mut raw = door.enter(&device.connect()).await;
    deliver(&mut raw, &device, b"the only one").await;
    assert_eq!(bodies(&events(hub, "d", 1).await), ["the only one"]);
}

/// A frame of any length is taken as it comes: it is never held, and MQTT bounds what is in it.
#[tokio::test]
async fn a_frame_of_any_length() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::websocket(&hub), Device::create(&hub, "d").await);
    let endless = [head(BINARY, i64::MAX as u64, 0x80), vec![0; 4]].concat();
    let mut ws = Ws::open(&door).await;
    ws.send(&[&endless[..], &device.connect().bytes()].concat()).await;
    ws.expect(BINARY, &connack(0)).await;
    ws.send(&device.message(1, b"x")).await;
    ws.expect(BINARY, &puback(1)).await;
    ws.send(&crate::raw::header(0x32, 268_435_455)).await;
    ws.expect_close(1008, "a packet longer than any").await;
    let mut ws = Ws::open(&door).await;
    ws.send(&[&endless[..], &crate::raw::header(0x10, 81_920)].concat()).await;
    ws.expect_close(1008, "a CONNECT longer than any").await;
    hub.stop().await;
}

/// Frames at random, and good ones with bytes changed. `DUNLIN_WEBSOCKET_SEED` repeats a run.
#[tokio::test]
async fn random_frames() {
    let mut random = seeded("DUNLIN_WEBSOCKET_SEED");
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::websocket(&hub), Device::create(&hub, "d").await);
    let bystander = Device::create(&hub, "bystander").await;
    let mut other = door.enter(&bystander.connect()).await;
    let message = device.message(1, b"x");
    for _ in 0..200 {
        let mut ws = Ws::open(&door).await;
        let mut bytes = frame(BINARY, &device.connect().bytes());
        for _ in 0..random.usize(1..20) {
            match random.u8(..4) {
                0 => bytes.extend(frame(random.u8(..), &vec![0; random.usize(..300)])),
                1 => bytes.extend((0..random.usize(1..40)).map(|_| random.u8(..))),
                _ => bytes.extend(frame(BINARY, &message[..random.usize(..message.len())])),
            }
        }
        for _ in 0..random.usize(..3) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        for chunk in bytes.chunks(random.usize(1..bytes.len())) {
            let _ = ws.try_send(chunk).await;
        }
        ws.shut().await;
        while ws.frame().await.is_some() {}
        within("the bystander", deliver(&mut other, &bystander, b"x")).await;
    }
    hub.stop().await;
}
