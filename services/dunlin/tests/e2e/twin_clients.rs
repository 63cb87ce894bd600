//! A device, a module and their back ends use their twins at one time and at random; what all of
//! them saw of one twin must be linearizable (`twin_history`).
//!
//! `DUNLIN_TWINS_SEED` (random, said by a failure) draws the same calls again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dunlin::client::{Client, ClientError, TwinPatch};
use dunlin::test_hub::TestHub;
use dunlin_storage::testing::seeded;
use fastrand::Rng;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::method_kit::clean;
use crate::mqtt_kit::{Device, Door};
use crate::mqtt_twin::{ANSWERS, DESIRED, Told, get, report};
use crate::raw::{Raw, puback, suback, subscribe};
use crate::twin_history::check;
use crate::twin_model::{Answer, Call, Event};

const BACK_ENDS: usize = 3;
/// Of each back end. Their devices go on for as long as they do.
const CALLS: usize = 60;

scenario!(what_all_clients_see_is_one_twin);
async fn what_all_clients_see_is_one_twin(hub: &TestHub) {
    let mut random = seeded("DUNLIN_TWINS_SEED");
    let device = Device::create(hub, "d").await;
    let module = Device::create(hub, "d/m").await;
    let (of_device, of_module) =
        tokio::join!(use_twin(hub, device, random.fork()), use_twin(hub, module, random.fork()));
    for (id, history) in [("d", of_device), ("d/m", of_module)] {
        if let Err(fault) = check(&history) {
            panic!("{id}: {fault}\n{history:#?}");
        }
        let refused = history.iter().filter(|event| matches!(event.answer, Answer::Stale)).count();
        let few = 1..history.len() / 2;
        assert!(few.contains(&refused), "{refused} calls were refused");
    }
}

/// All that is ever asked of one twin.
async fn use_twin(hub: &TestHub, device: Device, mut random: Rng) -> Vec<Event> {
    let clock = Clock::default();
    let mut raw = Door::of(hub).enter(&clean(&device)).await;
    raw.send(&subscribe(1, &[(ANSWERS, 0), (DESIRED, 1)])).await;
    raw.expect(&suback(1, &[0, 1])).await;
    let back_end = || {
        let (client, id, clock) = (hub.client(), device.id.clone(), clock.clone());
        BackEnd { client, id, clock, etags: Vec::new(), events: Vec::new() }
    };
    let mut back_ends = JoinSet::new();
    for _ in 0..BACK_ENDS {
        back_ends.spawn(back_end().run(random.fork()));
    }
    let mut end = DeviceEnd { raw, clock: clock.clone(), events: Vec::new(), reported: 1, told: 1 };
    let mut history = Vec::new();
    while !back_ends.is_empty() {
        end.ask(&mut random).await;
        while let Some(events) = back_ends.try_join_next() {
            history.extend(events.expect("no panic"));
        }
    }
    // Nobody writes any more. What the device was not told yet comes now.
    let mut last = back_end();
    let desired = last.ask(Call::Get).await["properties"]["desired"]["$version"].as_u64();
    while Some(end.told) < desired {
        let told = end.next().await;
        end.take(told).await;
    }
    end.raw.expect_alive().await;
    history.extend(end.events);
    history.extend(last.events);
    history
}

/// Ticks when a call starts or ends.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

struct BackEnd {
    client: Client,
    id: String,
    clock: Clock,
    /// That it was given, the latest last.
    etags: Vec<String>,
    events: Vec<Event>,
}

impl BackEnd {
    async fn run(mut self, mut random: Rng) -> Vec<Event> {
        for _ in 0..CALLS {
            let part = |random: &mut Rng| match random.u8(..3) {
                0 => Value::Null,
                _ => patch(random, 2),
            };
            let call = match random.u8(..8) {
                0 | 1 => Call::Get,
                n => Call::Write {
                    replace: n == 2,
                    tags: part(&mut random),
                    desired: part(&mut random),
                    // Its last one, which may be current still, or one before.
                    if_match: match random.u8(..6) {
                        0 => random.choice(&self.etags).cloned(),
                        1 | 2 => self.etags.last().cloned(),
                        _ => None,
                    },
                },
            };
            self.ask(call).await;
        }
        self.events
    }

    /// Returns the twin, or null if the call was refused.
    async fn ask(&mut self, call: Call) -> Value {
        let raw = |part: &Value| -> Option<Box<RawValue>> {
            (!part.is_null()).then(|| to_raw_value(part).expect("JSON"))
        };
        let start = self.clock.tick();
        let answer = match &call {
            Call::Write { replace, tags, desired, if_match } => {
                let (tags, desired) = (raw(tags), raw(desired));
                let patch = TwinPatch::new(tags.as_deref(), desired.as_deref());
                let etag = if_match.as_deref();
                match replace {
                    true => {
                        let twin = to_raw_value(&patch).expect("JSON");
                        self.client.twin_replace(&self.id, &twin, etag).await
                    }
                    false => self.client.twin_update(&self.id, &patch, etag).await,
                }
            }
            _ => self.client.twin_get(&self.id).await,
        };
        let end = self.clock.tick();
        let (twin, answer) = match answer {
            Ok(twin) => {
                self.etags.push(twin["etag"].as_str().expect("an ETag").to_owned());
                (twin.clone(), Answer::Twin(twin))
            }
            Err(ClientError::Refused { status: 412, .. }) => (Value::Null, Answer::Stale),
            Err(error) => panic!("{call:?}: {error}"),
        };
        self.events.push(Event { call, answer, start, end });
        twin
    }
}

/// A merge patch of few keys, so that patches meet.
fn patch(random: &mut Rng, depth: u8) -> Value {
    let members = (0..random.usize(..4)).map(|_| {
        let key = random.choice(["a", "b", "c"]).expect("three");
        let value = match random.u8(..8) {
            0 | 1 => Value::Null,
            2 => json!([random.u8(..3)]),
            3 => json!({}),
            4 | 5 if depth > 0 => patch(random, depth - 1),
            _ => random.u16(..).into(),
        };
        (key.to_owned(), value)
    });
    Value::Object(members.collect())
}

/// The side of a device, or of a module.
struct DeviceEnd {
    raw: Raw,
    clock: Clock,
    events: Vec<Event>,
    /// The versions of its properties that it has heard of.
    reported: u64,
    told: u64,
}

impl DeviceEnd {
    /// Asks for a few things at once, which are answered in their order.
    async fn ask(&mut self, random: &mut Rng) {
        let (mut bytes, mut waiting) = (Vec::new(), VecDeque::new());
        for rid in 0..random.u8(1..5) {
            let rid = rid.to_string();
            let if_version = match random.u8(..6) {
                0 => Some(self.reported.saturating_sub(1)),
                1 => Some(self.reported),
                _ => None,
            };
            let call = match random.u8(..3) {
                0 => Call::Read,
                _ => Call::Report { patch: patch(random, 2), if_version },
            };
            bytes.extend(match &call {
                Call::Report { patch, if_version: None } => report(&rid, &patch.to_string()),
                Call::Report { patch, if_version: Some(version) } => {
                    report(&format!("{rid}&$version={version}"), &patch.to_string())
                }
                _ => get(&rid),
            });
            waiting.push_back((call, rid, self.clock.tick()));
        }
        self.raw.send(&bytes).await;
        while let Some((call, rid, start)) = waiting.front() {
            let told = self.next().await;
            let Some((status, got, version)) = told.answer() else {
                self.take(told).await;
                continue;
            };
            assert_eq!(got, rid);
            let answer = match (status, version) {
                (200, None) => Answer::Properties(told.body.clone()),
                (204, Some(version)) => {
                    self.reported = version;
                    Answer::Version(version)
                }
                (412, None) => Answer::Stale,
                other => panic!("{call:?} was answered {other:?}: {}", told.body),
            };
            let (start, end) = (*start, self.clock.tick());
            self.events.push(Event { call: call.clone(), answer, start, end });
            waiting.pop_front();
        }
    }

    async fn next(&mut self) -> Told {
        Told::read(&self.raw.packet().await.expect("a packet"))
    }

    /// Is told of a change.
    async fn take(&mut self, told: Told) {
        let version = told.body["$version"].as_u64().expect("a version");
        assert!(told.topic.ends_with(&format!("/?$version={version}")), "{}", told.topic);
        self.told = version;
        let tick = self.clock.tick();
        let answer = Answer::Patch(told.body);
        self.events.push(Event { call: Call::Told, answer, start: tick, end: tick });
        self.raw.send(&puback(told.packet_id)).await;
    }
}
