//! SIGKILL of `dunlin up` at seeded random moments while devices publish: whatever was acknowledged
//! is read back after the restart, in order per connection; duplicates are counted.
//!
//! `DUNLIN_KILL_ROUNDS` (10) and `DUNLIN_KILL_SEED` (random, printed) repeat a run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dunlin_auth::connection_string::{ConnectionString, Signer};
use dunlin_auth::sas;
use tokio::sync::Notify;

use crate::process::Hub;
use crate::raw::{self, Connect, QOS1, Raw, connack, puback, publish};

const DEVICES: usize = 8;
/// Unacknowledged messages of a device.
const WINDOW: usize = 20;

/// One connection of one device, and the next: (round, sequence).
type Sent = (u64, u64);

#[derive(Default)]
pub struct History {
    pub acked: BTreeMap<String, BTreeSet<Sent>>,
    /// What was read back, by place, so that reading a part twice counts once.
    read: BTreeMap<(u64, u64), (String, Sent)>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub acked: usize,
    pub lost: usize,
    pub duplicates: usize,
    pub disordered: usize,
}

impl History {
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::default();
        let mut seen: BTreeMap<&str, BTreeSet<Sent>> = BTreeMap::new();
        let mut last: BTreeMap<(&str, u64), u64> = BTreeMap::new();
        for (device, (round, sequence)) in self.read.values() {
            if !seen.entry(device).or_default().insert((*round, *sequence)) {
                verdict.duplicates += 1;
                continue;
            }
            let last = last.entry((device, *round)).or_default();
            verdict.disordered += usize::from(*sequence < *last);
            *last = *sequence;
        }
        let none = BTreeSet::new();
        for (device, acked) in &self.acked {
            let seen = seen.get(device.as_str()).unwrap_or(&none);
            verdict.acked += acked.len();
            verdict.lost += acked.difference(seen).count();
        }
        verdict
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let rounds = number("DUNLIN_KILL_ROUNDS").unwrap_or(10);
    let seed = number("DUNLIN_KILL_SEED").unwrap_or_else(|| fastrand::u64(..));
    say(&format!("kill: {rounds} rounds, DUNLIN_KILL_SEED={seed}"));
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempfile::tempdir().expect("a folder");
    let mut history = History::default();
    let mut devices = Vec::new();

    let mut since = jiff::Timestamp::now();
    for round in 0..rounds {
        // A hub that is killed while it starts, recovering what the last one left, harms nothing.
        Hub::start_and_kill(folder.path(), Duration::from_micros(random.u64(0..60_000))).await;
        let started = jiff::Timestamp::now();
        let hub = Hub::start(folder.path()).await;
        if devices.is_empty() {
            for n in 0..DEVICES {
                devices.push(hub.create_device(&format!("kill-{n}")).await);
            }
        }
        read_back(&hub, since, &mut history).await;
        since = started;
        let acked = kill_while_publishing(hub, &devices, round, &mut random).await;
        for (device, sent) in acked {
            history.acked.entry(device).or_default().extend(sent);
        }
    }
    let hub = Hub::start(folder.path()).await;
    read_back(&hub, since, &mut history).await;
    hub.stop().await;

    let Verdict { acked, lost, duplicates, disordered } = history.verdict();
    say(&format!("acked={acked} lost={lost} dup={duplicates}"));
    assert!(acked as u64 >= rounds, "the devices were hardly heard: {acked} messages");
    assert_eq!((lost, disordered), (0, 0), "seed {seed}");
}

/// Publishes with all devices until the hub is killed; returns what was acknowledged.
async fn kill_while_publishing(
    hub: Hub,
    devices: &[ConnectionString],
    round: u64,
    random: &mut fastrand::Rng,
) -> Vec<(String, Vec<Sent>)> {
    let after = Duration::from_micros(random.u64(0..400_000));
    publish_while(hub, devices, round, async |hub: Hub| {
        // sleep: the moment of the kill is what is random here; nothing is waited for by it.
        tokio::time::sleep(after).await;
        hub.kill().await;
    })
    .await
}

/// Publishes with all devices; as soon as one was acknowledged something ends the hub. Returns what
/// was acknowledged.
pub async fn publish_while(
    hub: Hub,
    devices: &[ConnectionString],
    round: u64,
    end: impl AsyncFnOnce(Hub),
) -> Vec<(String, Vec<Sent>)> {
    let (address, ca) = (hub.mqtt_address(), hub.ca_pem());
    let flowing = Arc::new(Notify::new());
    let tasks: Vec<_> = devices
        .iter()
        .map(|device| {
            let publishing = publish_until_cut(address, ca.clone(), device.clone(), round);
            tokio::spawn(publishing.run(flowing.clone()))
        })
        .collect();
    raw::within("the first acknowledgement", flowing.notified()).await;
    end(hub).await;
    let mut all = Vec::new();
    for (device, task) in devices.iter().zip(tasks) {
        let Signer::Identity(id) = &device.signer else { unreachable!("a device's") };
        let acked = raw::within("the end of a connection", task).await.expect("no panic");
        all.push((id.to_string(), acked));
    }
    all
}

struct Publishing {
    address: SocketAddr,
    ca: String,
    device: ConnectionString,
    round: u64,
}

fn publish_until_cut(
    address: SocketAddr,
    ca: String,
    device: ConnectionString,
    round: u64,
) -> Publishing {
    Publishing { address, ca, device, round }
}

impl Publishing {
    /// Keeps a window of messages under way; ends when the connection does.
    async fn run(self, flowing: Arc<Notify>) -> Vec<Sent> {
        let mut acked = Vec::new();
        let Signer::Identity(id) = &self.device.signer else { unreachable!("a device's") };
        let host = self.device.hostname();
        let token = sas::sign(&format!("{host}/devices/{id}"), None, &self.device.key, u64::MAX);
        let username = format!("{host}/{id}/?api-version=2021-04-12");
        let topic = format!("devices/{id}/messages/events/");
        // The kill may come before the connection is made.
        let connector = raw::connector(&self.ca);
        let Ok(mut device) = Raw::try_open(self.address, &connector).await else { return acked };
        let connect = Connect::new(id.as_str(), &username, &token).bytes();
        if device.try_send(&connect).await.is_err() {
            return acked;
        }
        match device.packet().await {
            Ok(answer) => assert_eq!(answer, connack(0), "the hub is up and knows the device"),
            Err(_) => return acked,
        }
        let (mut next, mut waiting) = (1, VecDeque::new());
        loop {
            while waiting.len() < WINDOW {
                let body = format!("{}:{next}", self.round);
                let packet_id = u16::try_from(next % 65_535 + 1).expect("in range");
                if device
                    .try_send(&publish(QOS1, &topic, packet_id, body.as_bytes()))
                    .await
                    .is_err()
                {
                    return acked;
                }
                waiting.push_back((next, packet_id));
                next += 1;
            }
            let Ok(answer) = device.packet().await else { return acked };
            let (sequence, packet_id) = waiting.pop_front().expect("something is waited for");
            assert_eq!(answer, puback(packet_id), "acknowledged in order");
            acked.push((self.round, sequence));
            flowing.notify_one();
        }
    }
}

/// Reads what the log has got since then.
pub async fn read_back(hub: &Hub, since: jiff::Timestamp, history: &mut History) {
    let since = since.to_string();
    let output =
        hub.command(&["events", "monitor", "--from", &since, "--timeout", "1", "--json"]).await;
    for line in output.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("an event a line");
        let event = &line["event"];
        let place = ["partition", "offset"].map(|name| event[name].as_u64().expect(name));
        let body = event["payload"].as_str().expect("text");
        let (round, sequence) = body.split_once(':').expect("round:sequence");
        let sent = (round.parse().expect("a number"), sequence.parse().expect("a number"));
        let device = event["origin"].as_str().expect("a device").to_owned();
        history.read.insert((place[0], place[1]), (device, sent));
    }
}

/// For whoever runs it: past the test harness's capture with `--nocapture`.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[test]
fn the_verdict_sees_each_fault() {
    let sent = |history: &mut History, place: u64, at: Sent| {
        history.read.insert((0, place), ("d".to_owned(), at));
    };
    let mut history = History::default();
    history.acked.insert("d".to_owned(), BTreeSet::from([(0, 1), (0, 2), (1, 1)]));
    sent(&mut history, 0, (0, 1));
    sent(&mut history, 1, (0, 2));
    sent(&mut history, 2, (1, 1));
    let good = Verdict { acked: 3, ..Verdict::default() };
    assert_eq!(history.verdict(), good, "another connection starts at 1 again");
    sent(&mut history, 3, (0, 2));
    assert_eq!(history.verdict().duplicates, 1);
    sent(&mut history, 4, (1, 3));
    sent(&mut history, 5, (1, 2));
    assert_eq!(history.verdict().disordered, 1);
    history.read.remove(&(0, 2));
    assert_eq!(history.verdict().lost, 1);
    assert!(Path::new(env!("CARGO_BIN_EXE_dunlin")).exists());
}
