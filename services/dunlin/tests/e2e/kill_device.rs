//! A device of the kill test: it reports, changes its subscriptions and answers calls until the hub
//! is killed. Its session is kept (CleanSession=0).

use std::collections::BTreeSet;

use dunlin_auth::ConnectionString;
use serde_json::Value;

use crate::kill::{self, Place, Verdict};
use crate::kill_back_ends::{Caller, Writer};
use crate::kill_traffic::Flow;
use crate::method_kit::{METHODS, answer};
use crate::mqtt_twin::{ANSWERS, DESIRED, Told, get, report};
use crate::raw::{CONNACK_PRESENT, Raw, connack, puback, suback, subscribe, unsuback, unsubscribe};

/// Reports that wait for their answers; the hub reads no further at 16.
const WINDOW: usize = 4;

/// One topic filter: the QoS it was subscribed with when last that was acknowledged, and what was
/// asked for since.
struct Filter {
    name: &'static str,
    acked: Option<u8>,
    asked: Option<Option<u8>>,
}

impl Filter {
    fn new(name: &'static str) -> Self {
        Self { name, acked: None, asked: None }
    }

    /// Asks for a QoS, or for none at all.
    fn ask(&mut self, qos: Option<u8>) -> Vec<u8> {
        self.asked = Some(qos);
        match qos {
            Some(qos) => subscribe(1, &[(self.name, qos)]),
            None => unsubscribe(1, &[self.name]),
        }
    }

    /// The acknowledgement has come.
    fn ack(&mut self, packet: &[u8]) {
        let asked = self.asked.take().expect("it was asked for");
        let want = asked.map_or(unsuback(1).to_vec(), |qos| suback(1, &[qos]));
        assert_eq!(packet, want, "{}", self.name);
        self.acked = asked;
    }

    /// Whether what is seen is what was acknowledged, or asked for since.
    fn may_be(&self, seen: impl Fn(Option<u8>) -> bool) -> bool {
        seen(self.acked) || self.asked.is_some_and(seen)
    }
}

pub struct Device {
    login: ConnectionString,
    pub random: fastrand::Rng,
    pub reports: Writer,
    pub subscriptions: Verdict,
    desired: Filter,
    methods: Filter,
    /// Calls that it has run, and how many of them again.
    pub ran: BTreeSet<u64>,
    pub ran_again: usize,
}

impl Device {
    /// A new one, which is subscribed to everything.
    pub async fn create(place: &Place, login: ConnectionString) -> Self {
        let mut device = Self {
            login,
            random: fastrand::Rng::new(),
            reports: Writer::default(),
            subscriptions: Verdict::default(),
            desired: Filter::new(DESIRED),
            methods: Filter::new(METHODS),
            ran: BTreeSet::new(),
            ran_again: 0,
        };
        let mut raw = place.enter(&device.login, connack(0)).await.expect("let in");
        // This one stays.
        raw.send(&subscribe(1, &[(ANSWERS, 0)])).await;
        raw.expect(&suback(1, &[0])).await;
        device.desired.asked = Some(Some(1));
        device.methods.asked = Some(Some(0));
        device.settle(&mut raw).await;
        device
    }

    pub fn id(&self) -> &str {
        kill::id(&self.login)
    }

    /// Asks again for what was not acknowledged.
    async fn settle(&mut self, raw: &mut Raw) {
        for filter in [&mut self.desired, &mut self.methods] {
            if let Some(asked) = filter.asked {
                raw.send(&filter.ask(asked)).await;
                filter.ack(&raw.packet().await.expect("an acknowledgement"));
                self.subscriptions.acked += 1;
            }
        }
    }

    /// Until the hub is killed.
    pub async fn run(&mut self, place: &Place, flow: &Flow) {
        let Ok(mut raw) = place.enter(&self.login, CONNACK_PRESENT).await else { return };
        let mut next: Vec<u8> = (0..WINDOW).flat_map(|_| self.report()).collect();
        loop {
            if raw.try_send(&next).await.is_err() {
                return;
            }
            let Ok(packet) = raw.packet().await else { return };
            next = match packet[0] {
                0x90 | 0xb0 => {
                    let pending = [&mut self.desired, &mut self.methods];
                    let asked = pending.into_iter().find(|filter| filter.asked.is_some());
                    asked.expect("it was asked for").ack(&packet);
                    self.subscriptions.acked += 1;
                    flow.subscribed.notify_one();
                    Vec::new()
                }
                _ => self.told(&packet, flow),
            };
        }
    }

    fn report(&mut self) -> Vec<u8> {
        let patch = self.reports.next().to_string();
        report(&self.reports.sent.to_string(), &patch)
    }

    /// Takes a PUBLISH of the hub's; returns what it does next.
    fn told(&mut self, packet: &[u8], flow: &Flow) -> Vec<u8> {
        let told = Told::read(packet);
        let Some((status, rid, version)) = told.answer() else {
            return match told.topic.strip_prefix("$iothub/methods/POST/") {
                Some(call) => self.called(call, &told.body),
                None if told.qos == 1 => puback(told.packet_id).to_vec(),
                None => Vec::new(),
            };
        };
        // Answered in order, and each raises the version by one.
        self.reports.ack();
        let n = self.reports.acked;
        assert_eq!((status, rid, version), (204, n.to_string().as_str(), Some(n + 1)));
        flow.reported.notify_one();
        let mut next = self.report();
        let settled = self.desired.asked.is_none() && self.methods.asked.is_none();
        if settled && self.random.u8(..4) == 0 {
            let qos = [None, Some(0), Some(1)][self.random.usize(..3)];
            let filter = if self.random.bool() { &mut self.desired } else { &mut self.methods };
            next.extend(filter.ask(qos));
        }
        next
    }

    /// Runs a method and answers, unless it is to keep silent.
    fn called(&mut self, call: &str, payload: &Value) -> Vec<u8> {
        let (method, rid) = call.split_once("/?$rid=").expect("its request");
        if method == "silence" {
            return Vec::new();
        }
        self.ran_again += usize::from(!self.ran.insert(payload.as_u64().expect("a number")));
        answer(200, rid, payload.to_string())
    }

    /// Returns how many reports took effect.
    pub fn judge_reports(&mut self, reported: &Value) -> u64 {
        let mut stored = reported.clone();
        let members = stored.as_object_mut().expect("an object");
        members.retain(|name, _| !name.starts_with('$'));
        let found = self.reports.judge(&stored);
        self.reports.judge_version(&reported["$version"], found);
        found
    }

    /// After a restart, and without a word of the device: it is told and called as it had
    /// subscribed. `write` changes its desired properties and returns its twin.
    pub async fn judge_session(
        &mut self,
        place: &Place,
        write: impl AsyncFnOnce() -> Value,
        caller: &mut Caller,
    ) {
        let mut raw = place.enter(&self.login, CONNACK_PRESENT).await.expect("let in");
        let twin = write().await;
        // It would be told of the change before it gets this answer.
        raw.send(&get("twin")).await;
        let mut told_with = None;
        let body = loop {
            let told = Told::read(&raw.packet().await.expect("an answer"));
            if told.answer().is_some() {
                break told.body;
            }
            told_with = Some(told.qos);
        };
        for part in ["desired", "reported"] {
            let mut stored = twin["properties"][part].clone();
            stored.as_object_mut().expect("an object").remove("$metadata");
            assert_eq!(body[part], stored, "the device reads what its back ends read");
        }
        let told = self.desired.may_be(|qos| qos == told_with);
        let answered = {
            let mut call = std::pin::pin!(caller.call(&place.client, 0));
            loop {
                tokio::select! {
                    end = &mut call => break end.expect("an answer"),
                    packet = raw.packet() => {
                        let answer = self.told(&packet.expect("a call"), &Flow::default());
                        raw.send(&answer).await;
                    }
                }
            }
        };
        let called = self.methods.may_be(|qos| qos.is_some() == answered.is_ok());
        self.subscriptions.lost += [told, called].into_iter().filter(|kept| !kept).count();
        self.settle(&mut raw).await;
    }
}

#[test]
fn a_subscription_is_what_was_acknowledged_or_asked_for_since() {
    let mut filter = Filter::new(DESIRED);
    let states =
        |filter: &Filter| [None, Some(0), Some(1)].map(|qos| filter.may_be(|it| it == qos));
    assert_eq!(states(&filter), [true, false, false]);
    filter.ask(Some(1));
    assert_eq!(states(&filter), [true, false, true]);
    filter.ack(&suback(1, &[1]));
    assert_eq!(states(&filter), [false, false, true]);
    filter.ask(None);
    filter.ack(&unsuback(1));
    assert_eq!(states(&filter), [true, false, false]);
}
