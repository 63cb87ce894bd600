//! SIGKILL of `dunlin up` at seeded random moments while devices publish: whatever was acknowledged
//! is read back after the restart, in order per connection; duplicates are counted. What else goes
//! on meanwhile is in `kill_traffic`.
//!
//! `DUNLIN_KILL_ROUNDS` (10) and `DUNLIN_KILL_SEED` (random, printed) repeat a run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use dunlin::client::Client;
use dunlin_auth::connection_string::{ConnectionString, Signer};
use dunlin_auth::sas;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;

use crate::kill_commands::SETTINGS;
use crate::kill_traffic::Traffic;
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub acked: usize,
    pub lost: usize,
    pub duplicates: usize,
    /// What is there, but not as it was written.
    pub disordered: usize,
}

impl AddAssign for Verdict {
    fn add_assign(&mut self, other: Self) {
        self.acked += other.acked;
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.disordered += other.disordered;
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "acked={} lost={} dup={}", self.acked, self.lost, self.duplicates)
    }
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
    let mut since = jiff::Timestamp::now();

    let killed_while_starting = async |random: &mut fastrand::Rng| {
        let after = Duration::from_micros(random.u64(0..60_000));
        Hub::start_and_kill(folder.path(), &SETTINGS, after).await;
    };
    killed_while_starting(&mut random).await;
    let hub = Hub::start_with(folder.path(), &SETTINGS).await;
    let mut devices = Vec::new();
    for n in 0..DEVICES {
        devices.push(hub.create_device(&format!("kill-{n}")).await);
    }
    let mut traffic = Traffic::create(&hub).await;
    hub.kill().await;
    for round in 0..rounds {
        // A hub that is killed while it starts, recovering what the last one left, harms nothing.
        killed_while_starting(&mut random).await;
        let started = jiff::Timestamp::now();
        let hub = Hub::start_with(folder.path(), &SETTINGS).await;
        traffic.judge(&hub).await;
        read_back(&hub, since, &mut history).await;
        since = started;
        let running = traffic.start(&hub, &mut random);
        let after = Duration::from_micros(random.u64(0..400_000));
        let acked = publish_while(hub, &devices, round, async |hub: Hub| {
            running.flows().await;
            // sleep: the moment of the kill is what is random here; nothing is waited for by it.
            tokio::time::sleep(after).await;
            hub.kill().await;
        })
        .await;
        for (device, sent) in acked {
            history.acked.entry(device).or_default().extend(sent);
        }
        traffic = running.ended().await;
    }
    let hub = Hub::start_with(folder.path(), &SETTINGS).await;
    traffic.judge(&hub).await;
    traffic.finish(&hub).await;
    read_back(&hub, since, &mut history).await;
    hub.stop().await;

    let telemetry = [("telemetry", history.verdict())];
    let kinds: Vec<_> = telemetry.into_iter().chain(traffic.verdicts()).collect();
    let mut all = Verdict::default();
    for (kind, verdict) in &kinds {
        say(&format!("{kind} {verdict}"));
        all += *verdict;
    }
    say(&all.to_string());
    assert_eq!((all.lost, all.disordered), (0, 0), "seed {seed}: {kinds:?}");
    for (kind, verdict) in kinds {
        assert!(verdict.acked as u64 >= rounds, "{kind} hardly went on: {verdict}");
        // A message may be there twice, nothing else.
        let may_double = ["telemetry", "c2d"].contains(&kind);
        assert!(may_double || verdict.duplicates == 0, "seed {seed}: {kind} {verdict}");
    }
}

/// Publishes with all devices; as soon as one was acknowledged something ends the hub. Returns what
/// was acknowledged.
pub async fn publish_while(
    hub: Hub,
    devices: &[ConnectionString],
    round: u64,
    end: impl AsyncFnOnce(Hub),
) -> Vec<(String, Vec<Sent>)> {
    let place = Place::of(&hub);
    let flowing = Arc::new(Notify::new());
    let tasks: Vec<_> = devices
        .iter()
        .map(|device| {
            tokio::spawn(publish_until_cut(place.clone(), device.clone(), round, flowing.clone()))
        })
        .collect();
    raw::within("the first acknowledgement", flowing.notified()).await;
    end(hub).await;
    let mut all = Vec::new();
    for (device, task) in devices.iter().zip(tasks) {
        let acked = raw::within("the end of a connection", task).await.expect("no panic");
        all.push((id(device).to_owned(), acked));
    }
    all
}

/// Where a hub is, and who speaks to it there.
#[derive(Clone)]
pub struct Place {
    address: SocketAddr,
    tls: TlsConnector,
    pub client: Client,
}

impl Place {
    pub fn of(hub: &Hub) -> Self {
        let (address, tls) = (hub.mqtt_address(), raw::connector(&hub.ca_pem()));
        Self { address, tls, client: hub.client() }
    }

    /// A connection of a device that is let in by this CONNACK; a kill may come before that.
    pub async fn enter(&self, device: &ConnectionString, connack: [u8; 4]) -> io::Result<Raw> {
        let id = id(device);
        let username = format!("{}/{id}/?api-version=2021-04-12", device.hostname());
        let mut raw = Raw::try_open(self.address, &self.tls).await?;
        raw.try_send(&Connect::new(id, &username, &token(device)).bytes()).await?;
        assert_eq!(raw.packet().await?, connack, "the hub is up and knows {id}");
        Ok(raw)
    }
}

pub fn id(device: &ConnectionString) -> &str {
    let Signer::Identity(id) = &device.signer else { unreachable!("a device's") };
    id.as_str()
}

pub fn token(device: &ConnectionString) -> String {
    let audience = format!("{}/devices/{}", device.hostname(), id(device));
    sas::sign(&audience, None, &device.key, u64::MAX)
}

/// Keeps a window of messages under way; ends when the connection does.
async fn publish_until_cut(
    place: Place,
    login: ConnectionString,
    round: u64,
    flowing: Arc<Notify>,
) -> Vec<Sent> {
    let mut acked = Vec::new();
    let topic = format!("devices/{}/messages/events/", id(&login));
    let Ok(mut device) = place.enter(&login, connack(0)).await else { return acked };
    let (mut next, mut waiting) = (1, VecDeque::new());
    loop {
        while waiting.len() < WINDOW {
            let body = format!("{round}:{next}");
            let packet_id = u16::try_from(next % 65_535 + 1).expect("in range");
            let message = publish(QOS1, &topic, packet_id, body.as_bytes());
            if device.try_send(&message).await.is_err() {
                return acked;
            }
            waiting.push_back((next, packet_id));
            next += 1;
        }
        let Ok(answer) = device.packet().await else { return acked };
        let (sequence, packet_id) = waiting.pop_front().expect("something is waited for");
        assert_eq!(answer, puback(packet_id), "acknowledged in order");
        acked.push((round, sequence));
        flowing.notify_one();
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
}
