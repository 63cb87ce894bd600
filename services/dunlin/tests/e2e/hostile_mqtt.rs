//! Hostile input to the MQTT port below and before MQTT: TLS records, and lengths that are not
//! kept. Malformed packets are in `mqtt_malformed`.

use dunlin::test_hub::TestHub;
use dunlin_storage::testing::seeded;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::mqtt_kit::{Device, Door, deliver};
use crate::raw::{Connect, Will, frame, header, subscribe, unsubscribe, within};

/// Records at random and known ones changed, on both ports, as they are.
/// `DUNLIN_TLS_SEED` repeats a run.
#[tokio::test]
async fn bytes_that_are_no_tls() {
    let mut random = seeded("DUNLIN_TLS_SEED");
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    let mut bystander = door.enter(&device.connect()).await;
    let hello = client_hello().await;
    for round in 0..400 {
        let mut bytes = match round % 4 {
            0 => (0..random.usize(1..200)).map(|_| random.u8(..)).collect(),
            // A record header, and what it may announce.
            1 => {
                let mut record = vec![random.u8(20..25), 3, random.u8(0..5)];
                record.extend(random.u16(..).to_be_bytes());
                record.extend((0..random.usize(0..100)).map(|_| random.u8(..)));
                record
            }
            2 => hello[..random.usize(1..hello.len())].to_vec(),
            _ => hello.clone(),
        };
        if round % 4 == 3 {
            for _ in 0..random.usize(1..8) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
        }
        let address = if round % 2 == 0 { hub.mqtt_addr() } else { hub.https_addr() };
        let mut tcp = TcpStream::connect(address).await.expect("a connection");
        let _ = tcp.write_all(&bytes).await;
        let _ = tcp.shutdown().await;
        // An alert, the hub's part of a handshake, or nothing; then the end.
        let mut came = Vec::new();
        let _ = within("the close", tcp.read_to_end(&mut came)).await;
        if round % 20 == 0 {
            deliver(&mut bystander, &device, b"x").await;
        }
    }
    deliver(&mut bystander, &device, b"x").await;
    hub.stop().await;
}

/// What the tests' own TLS client says first.
async fn client_hello() -> Vec<u8> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let connector = crate::raw::connector("");
    let client = tokio::spawn(async move {
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        let tcp = TcpStream::connect(address).await.expect("a connection");
        // There is no server: it ends when the listener does.
        let _ = connector.connect(name, tcp).await;
    });
    let (mut tcp, _) = listener.accept().await.expect("a client");
    let mut hello = vec![0; 5];
    tcp.read_exact(&mut hello).await.expect("a record");
    let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
    hello.resize(5 + length, 0);
    tcp.read_exact(&mut hello[5..]).await.expect("a record");
    drop(tcp);
    client.await.expect("a client");
    hello
}

/// Packets that end too early for what is in them, with a length that says so; and whose bytes end
/// too early for their length.
#[tokio::test]
async fn every_truncation_of_a_packet() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    let other = Device::create(&hub, "bystander").await;
    let mut bystander = door.enter(&other.connect()).await;
    for (packet, whole) in [
        (subscribe(1, &[("devices/d/messages/devicebound/#", 1)]), &[][..]),
        // Up to the end of its first filter it is one.
        (subscribe(1, &[("a", 1), ("b/c", 0)]), &[6]),
        (unsubscribe(1, &["devices/d/messages/devicebound/#"]), &[]),
        (unsubscribe(1, &["a", "b/c"]), &[5]),
    ] {
        let body = &packet[2..];
        for end in (0..body.len()).filter(|end| !whole.contains(end)) {
            for (bytes, ends) in
                [(frame(packet[0], &body[..end]), false), (packet[..end + 2].to_vec(), true)]
            {
                let mut raw = door.enter(&device.connect()).await;
                raw.send(&bytes).await;
                if ends {
                    raw.end().await;
                }
                raw.expect_close().await;
            }
            deliver(&mut bystander, &other, b"x").await;
        }
    }
    let topic = "devices/d/messages/events/".to_owned();
    let will = Will { topic, body: b"gone".to_vec(), qos: 1, retain: true };
    let connect = Connect { will: Some(will), ..device.connect() };
    for end in 0..connect.body().len() {
        door.ignores(&frame(0x10, &connect.body()[..end])).await;
        if end % 16 == 0 {
            deliver(&mut bystander, &other, b"x").await;
        }
    }
    // Whole, it is one that the hub lets in.
    door.enter(&connect).await;
    hub.stop().await;
}

/// A stranger may not announce a CONNECT longer than any that means something.
#[tokio::test]
async fn a_connect_of_any_length() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    for length in [81_920, 262_144, 268_435_455] {
        door.ignores(&header(0x10, length)).await;
    }
    let mut raw = door.enter(&device.connect()).await;
    // Nor a device a packet longer than the longest message.
    raw.send(&header(0x32, 268_435_455)).await;
    raw.expect_close().await;
    let mut raw = door.enter(&device.connect()).await;
    deliver(&mut raw, &device, b"x").await;
    hub.stop().await;
}
