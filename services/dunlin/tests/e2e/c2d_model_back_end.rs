//! The back end of the C2D model check: what it does, and what it is told. The clock is its to set.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use dunlin::client::{Client, ClientError, CommandMessage, Received};
use dunlin::test_hub::TestHub;
use dunlin_model::command::{Ack, Outcome};
use dunlin_storage::command_queue::conformance::Watch;
use dunlin_storage::command_queue::conformance::model::{Model, Record};
use fastrand::Rng;
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::c2d_model::{DEVICES, Time, rules};
use crate::raw::within;

/// Longer than a lock lasts.
const OVER: i64 = 61_000;

/// A message that was taken.
struct Sent {
    device: &'static str,
    id: String,
    ack: Ack,
    expires: i64,
}

pub struct BackEnd {
    time: Time,
    random: Rng,
    next: u32,
    /// In their order.
    sent: Vec<Sent>,
    /// Messages of each device, by the answers.
    purged: BTreeMap<&'static str, u64>,
    /// Feedback of batches that were completed.
    told: Vec<Record>,
}

impl BackEnd {
    pub fn new(time: Time, random: Rng) -> Self {
        let (sent, told) = (Vec::new(), Vec::new());
        Self { time, random, next: 0, sent, purged: BTreeMap::new(), told }
    }

    /// Does so many things at random.
    pub async fn run(&mut self, hub: &TestHub, steps: usize) {
        let client = hub.client();
        for _ in 0..steps {
            let device = DEVICES[self.random.usize(..DEVICES.len())];
            match self.random.u32(..100) {
                0..70 => self.send(&client, device).await,
                70..73 => {
                    let purged = client.c2d_purge(device).await.expect("purged");
                    let count = purged["totalMessagesPurged"].as_u64().expect("a number");
                    *self.purged.entry(device).or_default() += count;
                }
                73..85 => self.feedback(&client).await,
                85..88 => self.time.step(-self.random.i64(0..300_000)),
                88..92 => self.time.step(self.random.i64(0..90_000)),
                _ => self.time.step(self.random.i64(0..10_000)),
            }
        }
    }

    async fn send(&mut self, client: &Client, device: &'static str) {
        let id = format!("{device}-{}", self.next);
        self.next += 1;
        let ack = Ack::ALL[self.random.usize(..4)];
        let expires = self.time.now() + self.random.i64(1..300_000);
        let time = jiff::Timestamp::from_millisecond(expires).expect("a time").to_string();
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("iothub-messageid", &*id), ("iothub-ack", ack.as_str()), ("iothub-expiry", &time)]
        {
            headers.insert(name, value.parse().expect("a header"));
        }
        let message = CommandMessage { headers, body: id.clone().into_bytes() };
        match client.c2d_send(device, message).await {
            Ok(_) => self.sent.push(Sent { device, id, ack, expires }),
            Err(ClientError::Refused { code, .. }) if code == "DeviceMaximumQueueDepthExceeded" => {
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads a batch, and completes or abandons it, or lets its time run out.
    async fn feedback(&mut self, client: &Client) {
        let Some(batch) = client.feedback_receive().await.expect("an answer") else { return };
        match self.random.u32(..4) {
            0 => {}
            1 => {
                let path = format!("/messages/serviceBound/feedback/{}/abandon", batch.lock_token);
                client.call(client.api(Method::POST, &path)).await.expect("abandoned");
            }
            _ => self.complete(client, batch).await,
        }
    }

    async fn complete(&mut self, client: &Client, batch: Received) {
        client.feedback_complete(&batch.lock_token).await.expect("completed");
        let records: Vec<Value> = serde_json::from_slice(&batch.body).expect("JSON");
        self.told.extend(records.iter().map(|record| {
            let text = |name: &str| record[name].as_str().expect("text").to_owned();
            let outcome = Outcome::parse(&text("statusCode")).expect("an outcome");
            let time: jiff::Timestamp = text("enqueuedTimeUtc").parse().expect("a time");
            (text("deviceId"), text("originalMessageId"), outcome, time.as_millisecond())
        }));
    }

    /// Every lock is over, also of a time from which the clock was set back.
    pub fn let_locks_end(&self) {
        self.time.step(self.time.latest() - self.time.now() + OVER);
    }

    /// Reads all the feedback there is, when everything has ended.
    pub async fn finish(&mut self, hub: &TestHub, watch: &Watch) {
        let ended = async {
            let mut again = tokio::time::interval(Duration::from_millis(20));
            while watch.model().await.ends.len() < self.sent.len() {
                again.tick().await;
            }
        };
        within("the end of every message", ended).await;
        self.let_locks_end();
        let client = hub.client();
        while let Some(batch) = client.feedback_receive().await.expect("an answer") {
            self.complete(&client, batch).await;
        }
    }

    /// Each message that was taken has ended, as its sender may expect, and he was told if he asked.
    pub fn check(&self, model: &Model) {
        assert_eq!(model.ends.len(), self.sent.len());
        let (mut told, mut purged) = (Vec::new(), BTreeMap::new());
        for Sent { device, id, ack, expires } in &self.sent {
            let end = model.ends.get(id).copied().flatten();
            let end = end.unwrap_or_else(|| panic!("{id} has not ended"));
            let hand_outs = model.handed_out.iter().filter(|one| one.id == *id).count();
            match end {
                Outcome::Purged => *purged.entry(*device).or_default() += 1,
                Outcome::Expired => assert!(*expires <= self.time.latest(), "{id}"),
                Outcome::DeliveryCountExceeded => {
                    assert!(hand_outs >= rules().max_delivery_count as usize, "{id}");
                }
                Outcome::Success | Outcome::Rejected => assert!(hand_outs > 0, "{id}"),
            }
            if ack.wants(end) {
                told.push((*device, &**id, end));
            }
        }
        self.purged.iter().filter(|(_, count)| **count > 0).for_each(|(device, count)| {
            assert_eq!(purged.remove(device), Some(*count), "{device}");
        });
        assert!(purged.is_empty(), "{purged:?} more than was said");

        assert_eq!(self.told, model.told, "what is read is what was given");
        let mut got: Vec<_> = self.told.iter().map(|one| (&*one.0, &*one.1, one.2)).collect();
        got.sort_unstable();
        told.sort_unstable();
        assert_eq!(got, told, "what is told is what was asked for");

        for device in DEVICES {
            let sent = self.sent.iter().filter(|sent| sent.device == device).map(|sent| &sent.id);
            let mut known = HashSet::new();
            let first = model.handed_out.iter().filter(|one| one.device == device);
            let first: Vec<_> = first.map(|one| &one.id).filter(|id| known.insert(*id)).collect();
            let want: Vec<_> = sent.filter(|id| known.contains(id)).collect();
            assert_eq!(first, want, "{device}: the order of first hand-outs");
        }
    }

    /// How many messages ended in each way.
    pub fn tell(&self, model: &Model) {
        let ends = model.ends.values().flatten();
        let count = |outcome: Outcome| ends.clone().filter(|end| **end == outcome).count();
        let counts = Outcome::ALL.map(|outcome| format!("{} {}", outcome.as_str(), count(outcome)));
        eprintln!("{} sent: {}", self.sent.len(), counts.join(", "));
    }
}
