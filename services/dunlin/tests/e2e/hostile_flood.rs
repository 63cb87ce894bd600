//! Floods of connections that never say who they are, against the real binary: devices are served
//! all the while, and the hub's memory and descriptors stay within bounds.
//!
//! `DUNLIN_FLOOD` sets the size of a flood (10,000: a process may have 20,000 descriptors here).
//! Each prints what it measured.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dunlin_auth::ConnectionString;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::hostile_kit::{Prey, Victim};
use crate::raw::{Raw, connack, within};

/// A new device must be in by then, whoever else is at the door.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);
/// What a flood may cost the hub in memory at its height, in MiB, and what of it may stay.
const GROWTH: u64 = 96;
const REMAINS: u64 = 40;
/// Once the lobbies are full, memory is flat: what may come on top then, in MiB.
const UNSTEADY: u64 = 16;
/// Connections of a flood that are opened at once.
const BATCH: usize = 1_000;

/// One flood at a time: each takes half of what this process may open.
static FLOODED: Mutex<()> = Mutex::const_new(());

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    /// A TCP connection, and never a byte.
    Silent,
    /// The beginning of a ClientHello, a byte at a time.
    HalfHello,
    /// TLS, and half of the first packet or request.
    HalfRequest,
}

enum Held {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A ClientHello's record and handshake header, and nothing of what they announce.
const HELLO: [u8; 11] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

#[derive(Clone)]
struct Attacker {
    attack: Attack,
    address: SocketAddr,
    tls: TlsConnector,
    half: &'static [u8],
}

impl Attacker {
    /// From an address of its own, as there are not enough ports to one. `None`: it was thrown out
    /// on the way, by those after it.
    async fn open(self, number: usize) -> Option<Held> {
        let socket = TcpSocket::new_v4().expect("a socket");
        let lowest = u8::try_from(2 + number / 1_000).expect("a small flood");
        socket.bind((Ipv4Addr::new(127, 0, 2, lowest), 0).into()).expect("an address");
        let mut tcp = socket.connect(self.address).await.ok()?;
        match self.attack {
            Attack::Silent => Some(Held::Tcp(tcp)),
            Attack::HalfHello => {
                tcp.write_all(&HELLO[..6]).await.ok()?;
                Some(Held::Tcp(tcp))
            }
            Attack::HalfRequest => {
                let name = ServerName::try_from("localhost").expect("a name");
                let mut tls = self.tls.connect(name, tcp).await.ok()?;
                tls.write_all(self.half).await.ok()?;
                Some(Held::Tls(Box::new(tls)))
            }
        }
    }
}

/// Descriptors of the database's readers, which it opens when it needs them: four of three files.
const READERS: usize = 12;

/// One more byte on every connection; those that were evicted do not take it.
async fn trickle(held: &mut [Held]) {
    for one in held {
        let _ = match one {
            Held::Tcp(tcp) => tcp.write_all(&HELLO[6..7]).await,
            Held::Tls(tls) => tls.write_all(b"x").await,
        };
    }
}

/// A device that publishes without a pause until it is told to stop; its count and its longest wait.
fn publish_on(victim: Victim, stop: Arc<AtomicBool>) -> JoinHandle<(usize, Duration)> {
    tokio::spawn(async move {
        let (mut raw, _) = victim.enter().await;
        let (mut sent, mut longest) = (0, Duration::ZERO);
        while !stop.load(Ordering::Relaxed) {
            longest = longest.max(victim.deliver(&mut raw, b"undisturbed").await);
            sent += 1;
        }
        (sent, longest)
    })
}

async fn flood(port: &str, attack: Attack) {
    let _turn = FLOODED.lock().await;
    let size = std::env::var("DUNLIN_FLOOD").ok().and_then(|text| text.parse().ok());
    let size: usize = size.unwrap_or(10_000);
    let prey = Prey::start(&[("DUNLIN__GATEWAY__WORKERS", "2")]).await;
    let publisher = prey.create_device("publisher").await;
    let newcomer = prey.create_device("newcomer").await;
    newcomer.enter().await;
    let stop = Arc::new(AtomicBool::new(false));
    // The log's files are open when a message has been stored.
    let mut first = publisher.enter().await.0;
    publisher.deliver(&mut first, b"the first").await;
    let baseline = prey.descriptors();
    drop(first);
    let publishing = publish_on(publisher, stop.clone());
    let before = prey.resident();
    let attacker = Attacker {
        attack,
        address: prey.address(port),
        tls: prey.tls().clone(),
        half: if port == "mqtt_port" {
            b"\x10\x7f\0\x04MQTT\x04\xc2"
        } else {
            b"GET /devices?api-version=2021-04-12 HTTP/1.1\r\nHost: localhost\r\nX-Sl"
        },
    };

    let (mut held, mut longest) = (Vec::new(), Duration::ZERO);
    let (mut full, mut highest, mut descriptors) = (0, 0, 0);
    for first in (0..size).step_by(BATCH) {
        let mut opening = JoinSet::new();
        for number in first..(first + BATCH).min(size) {
            opening.spawn(attacker.clone().open(number));
        }
        // In the midst of them.
        longest = longest.max(newcomer.enter().await.1);
        let opened = within("a part of the flood", opening.join_all()).await;
        held.extend(opened.into_iter().flatten());
        highest = highest.max(prey.resident());
        descriptors = descriptors.max(prey.descriptors());
        // More than twice what the lobbies hold.
        if first <= size / 2 {
            full = highest;
        }
    }
    trickle(&mut held).await;
    longest = longest.max(newcomer.enter().await.1);
    highest = highest.max(prey.resident());

    stop.store(true, Ordering::Relaxed);
    let (sent, longest_ack) = publishing.await.expect("a device that was not disturbed");
    let opened = held.len();
    drop(held);
    // Descriptors go at once, memory goes back to the system by and by.
    let settled = within("descriptors and memory to be given back", async {
        loop {
            let after = prey.resident();
            if after <= before + REMAINS && prey.descriptors() <= baseline + READERS {
                return after;
            }
            // sleep: they are polled, there is nothing to wait on.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let after = settled.await;
    eprintln!(
        "{attack:?} on {port}: {opened} of {size} opened, at most {descriptors} descriptors, {baseline} before \
         and after; a new device in within {longest:?}; {sent} messages, PUBACK within {longest_ack:?}; resident \
         {before} MiB before, {full} half-way, {highest} at the height, {after} after"
    );
    assert!(sent > 0);
    assert!(longest < CONNECTED_WITHIN, "a new device waited {longest:?}");
    assert!(highest < before + GROWTH, "{before} MiB before, {highest} at the height");
    assert!(highest < full + UNSTEADY, "{full} MiB half-way, {highest} at the height");
    prey.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_to_mqtt() {
    flood("mqtt_port", Attack::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_to_https() {
    flood("https_port", Attack::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_handshakes_to_mqtt() {
    flood("mqtt_port", Attack::HalfHello).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_handshakes_to_https() {
    flood("https_port", Attack::HalfHello).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_connect() {
    flood("mqtt_port", Attack::HalfRequest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_request() {
    flood("https_port", Attack::HalfRequest).await;
}

/// Where a process may have few descriptors, strangers that fill them make room for one another and
/// for devices, and what the hub itself needs stays free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_descriptors() {
    let prey = Prey::start_limited(512).await;
    let (publisher, newcomer) =
        (prey.create_device("publisher").await, prey.create_device("newcomer").await);
    let stop = Arc::new(AtomicBool::new(false));
    let publishing = publish_on(publisher, stop.clone());
    let mut held = Vec::new();
    for number in 0..1_000 {
        let port = if number % 2 == 0 { "mqtt_port" } else { "https_port" };
        let attacker = Attacker {
            attack: Attack::Silent,
            address: prey.address(port),
            tls: prey.tls().clone(),
            half: b"",
        };
        held.extend(attacker.open(number).await);
        if number % 100 == 99 {
            newcomer.enter().await;
        }
    }
    // Opening files still works.
    assert!(prey.run(&["device", "list"]).await.status.success());
    stop.store(true, Ordering::Relaxed);
    assert!(publishing.await.expect("undisturbed").0 > 0);
    drop(held);
    prey.stop().await;
}

/// More devices than a process may have leave HTTPS its own share, an eighth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_do_not_shut_https_out() {
    // 128 stay free.
    let (limit, room) = (224, 84);
    let prey = Prey::start_limited(limit).await;
    let client = prey.client();
    let mut connected = Vec::new();
    for number in 0..room + 12 {
        let id = format!("d{number}");
        let made = client.device_put(&id, &serde_json::json!({}), None).await.expect("created");
        let key = made["authentication"]["symmetricKey"]["primaryKey"].as_str().expect("a key");
        let login = format!("HostName=localhost;DeviceId={id};SharedAccessKey={key}");
        let login = ConnectionString::parse(&login).expect("a connection string");
        let device = Victim::new(&id, login, &prey.place());
        match Raw::try_open(prey.address("mqtt_port"), prey.tls()).await {
            Ok(mut raw) => {
                raw.send(&device.connect().bytes()).await;
                raw.expect(&connack(0)).await;
                connected.push(raw);
            }
            Err(_) => assert_eq!(connected.len(), room, "there is still room"),
        }
    }
    assert_eq!(connected.len(), room);
    // On a new connection.
    assert!(prey.run(&["device", "list"]).await.status.success());
    for raw in &mut connected {
        raw.expect_alive().await;
    }
    prey.stop().await;
}
