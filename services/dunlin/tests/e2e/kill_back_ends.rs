//! The back ends of the kill test: they write twins and call methods until the hub is killed.
//!
//! Every writer, devices too, writes 1, 2, 3 and so on. So what is stored says which of its writes
//! took effect, and every version says how many there were in all.

use std::collections::BTreeSet;

use dunlin::client::{Client, ClientError, MethodCall, TwinPatch};
use fastrand::Rng;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

use crate::kill::{Place, Verdict};
use crate::kill_traffic::Flow;

/// A writer's last writes that the twin shows.
const SHOWN: u64 = 8;

/// How a call may end that is not answered, by docs/methods.md.
const REFUSALS: [&str; 5] = [
    "DeviceNotOnline",
    "DeviceConnectionClosedRemotely",
    "GatewayTimeout",
    "DeviceMaximumInflightMethodExceeded",
    "ServiceUnavailable",
];

/// Who writes, and how far it has come.
#[derive(Default)]
pub struct Writer {
    pub sent: u64,
    pub acked: u64,
    pub verdict: Verdict,
}

impl Writer {
    /// The next write, as a merge patch.
    pub fn next(&mut self) -> Value {
        self.sent += 1;
        json!({ (self.sent % SHOWN).to_string(): self.sent })
    }

    pub fn ack(&mut self) {
        self.acked += 1;
        self.verdict.acked += 1;
    }

    /// What that many writes leave behind.
    fn document(count: u64) -> Value {
        let shown = count.saturating_sub(SHOWN - 1).max(1)..=count;
        shown.map(|n| ((n % SHOWN).to_string(), json!(n))).collect()
    }

    /// Returns how many of the writes took effect, and goes on from there.
    pub fn judge(&mut self, stored: &Value) -> u64 {
        let stored = if stored.is_null() { json!({}) } else { stored.clone() };
        let members = stored.as_object().into_iter().flat_map(|object| object.values());
        let found = members.filter_map(Value::as_u64).max().unwrap_or(0);
        let lost = self.acked.saturating_sub(found);
        self.verdict.lost += usize::try_from(lost).expect("few");
        let as_written = found <= self.sent && stored == Self::document(found);
        self.verdict.disordered += usize::from(!as_written);
        (self.sent, self.acked) = (found, found);
        found
    }

    /// A part of a twin says by its version how many writes took effect.
    pub fn judge_version(&mut self, version: &Value, writes: u64) {
        let version = version.as_u64().expect("a version");
        let twice = version.saturating_sub(1 + writes);
        self.verdict.duplicates += usize::try_from(twice).expect("few");
        self.verdict.disordered += usize::from(version < 1 + writes);
    }
}

/// Writes one member of the desired properties and of the tags of a device, both at a time.
pub struct BackEnd {
    id: String,
    member: String,
    pub writer: Writer,
    /// The last answer's `$version` of the desired properties, and its ETag.
    answered: Option<(u64, Value)>,
}

impl BackEnd {
    pub fn new(id: &str, member: &str) -> Self {
        let (id, member) = (id.to_owned(), member.to_owned());
        Self { id, member, writer: Writer::default(), answered: None }
    }

    /// Returns the twin, unless the hub was killed first.
    pub async fn write(&mut self, client: &Client) -> Option<Value> {
        let patch = json!({ (self.member.as_str()): self.writer.next() });
        let patch = to_raw_value(&patch).expect("JSON");
        let patch = TwinPatch::new(Some(&patch), Some(&patch));
        let twin = match client.twin_update(&self.id, &patch, None).await {
            Ok(twin) => twin,
            Err(ClientError::Unreachable { .. }) => return None,
            Err(error) => panic!("{}: {error}", self.id),
        };
        self.writer.ack();
        let version = twin["properties"]["desired"]["$version"].as_u64().expect("a version");
        self.answered = Some((version, twin["etag"].clone()));
        Some(twin)
    }

    pub async fn run(&mut self, place: &Place, flow: &Flow) {
        while self.write(&place.client).await.is_some() {
            flow.written.notify_one();
        }
    }

    /// Returns how many of its writes took effect.
    pub fn judge(&mut self, twin: &Value) -> u64 {
        let desired = &twin["properties"]["desired"];
        let found = self.writer.judge(&desired[&self.member]);
        let mut amiss = twin["tags"][&self.member] != desired[&self.member];
        if let Some((version, etag)) = &self.answered {
            // The ETag is another one if, and only if, something was written since.
            amiss |= (desired["$version"] == *version) != (twin["etag"] == *etag);
        }
        self.writer.verdict.disordered += usize::from(amiss);
        found
    }
}

/// Calls a device all the time.
pub struct Caller {
    id: String,
    /// The device does not answer it, and it waits for as long as a call may.
    patient: bool,
    next: u64,
    pub answered: BTreeSet<u64>,
    pub random: Rng,
}

impl Caller {
    pub fn new(id: &str, patient: bool) -> Self {
        let (next, answered, random) = (0, BTreeSet::new(), Rng::new());
        Self { id: id.to_owned(), patient, next, answered, random }
    }

    /// The answer, or the name of the hub's error; nothing if the hub was killed first.
    pub async fn call(&mut self, client: &Client, connect: u32) -> Option<Result<(), String>> {
        self.next += 1;
        let payload = to_raw_value(&self.next).expect("JSON");
        let call = MethodCall {
            method_name: if self.patient { "silence" } else { "echo" },
            response_timeout_in_seconds: if self.patient { 300 } else { 30 },
            connect_timeout_in_seconds: connect,
            payload: Some(&payload),
        };
        match client.method_invoke(&self.id, &call).await {
            Ok(answer) => {
                assert_eq!(answer, json!({"status": 200, "payload": self.next}));
                self.answered.insert(self.next);
                Some(Ok(()))
            }
            Err(ClientError::Refused { code, .. }) => {
                assert!(REFUSALS.contains(&code.as_str()), "{}: {code}", self.id);
                Some(Err(code))
            }
            Err(ClientError::Unreachable { .. }) => None,
            Err(error) => panic!("{}: {error}", self.id),
        }
    }

    pub async fn run(&mut self, place: &Place, flow: &Flow) {
        loop {
            let connect = if self.patient { 300 } else { self.random.u32(0..3) };
            match self.call(&place.client, connect).await {
                Some(Ok(())) => flow.called.notify_one(),
                Some(Err(_)) => {}
                None => return,
            }
        }
    }
}

#[test]
fn a_writer_sees_each_fault() {
    let after = |acked: u64, sent: u64, stored: Value, version: u64| {
        let mut writer = Writer { sent, acked, ..Writer::default() };
        let found = writer.judge(&stored);
        writer.judge_version(&json!(version), found);
        let Verdict { lost, duplicates, disordered, .. } = writer.verdict;
        (lost, duplicates, disordered)
    };
    let good = (0, 0, 0);
    assert_eq!(after(0, 0, Value::Null, 1), good);
    assert_eq!(after(2, 4, json!({"1": 1, "2": 2}), 3), good, "without the unanswered");
    assert_eq!(after(2, 4, json!({"1": 1, "2": 2, "3": 3, "4": 4}), 5), good, "with them");
    assert_eq!(after(9, 9, Writer::document(9), 10), good);
    assert_eq!(after(4, 4, json!({"1": 1, "2": 2}), 3), (2, 0, 0));
    assert_eq!(after(1, 1, Value::Null, 1), (1, 0, 0));
    assert_eq!(after(2, 2, json!({"1": 1, "2": 2}), 4), (0, 1, 0), "applied twice");
    assert_eq!(after(2, 2, json!({"1": 1, "2": 2}), 2), (0, 0, 1), "a version for two");
    assert_eq!(after(3, 3, json!({"1": 1, "3": 3}), 4), (0, 0, 1), "one in the middle is missing");
    assert_eq!(after(1, 1, json!({"1": 1, "2": 2}), 3), (0, 0, 1), "never written");
}
