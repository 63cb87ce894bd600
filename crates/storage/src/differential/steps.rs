//! A caller whose random operations depend on nothing but its seed and its answers.

use std::fmt::Debug;

use dunlin_model::command::Disposition;
use dunlin_model::{ConnectionState, Identity};
use fastrand::Rng;

use super::{Stores, draw};
use crate::StoreError;
use crate::command_queue::{Rules, conformance};
use crate::device_store::ConnectionReport;

const MODULES: [&str; 4] = ["", "/m", "/M", "/$edgeAgent"];

pub(super) struct Client {
    stores: Stores,
    random: Rng,
    devices: Vec<String>,
    /// Nobody else is there: what concerns all devices may be asked for, too.
    alone: bool,
    now: i64,
    tokens: u64,
    rules: Rules,
}

impl Client {
    pub(super) fn alone(stores: Stores, seed: u64) -> Self {
        let devices = ["a", "A", "a-", "b"].map(str::to_owned).to_vec();
        Self::new(stores, Rng::with_seed(seed), devices, true)
    }

    /// One of several, each with devices of its own.
    pub(super) fn among(stores: Stores, seed: u64, caller: u64) -> Self {
        let devices = ["x", "y"].map(|device| format!("{device}{caller}")).to_vec();
        Self::new(stores, Rng::with_seed(seed.wrapping_add(caller)), devices, false)
    }

    fn new(stores: Stores, random: Rng, devices: Vec<String>, alone: bool) -> Self {
        let mut rules = conformance::rules();
        rules.depth = 5;
        // Records of one moment have an order within their device only: each batch has all of them.
        rules.feedback.batch_records = 10_000;
        Self { stores, random, devices, alone, now: conformance::NOW, tokens: 0, rules }
    }

    /// What was done and answered, step by step, and what is there at the end.
    pub(super) async fn run(mut self, steps: usize) -> Vec<String> {
        let mut said = Vec::new();
        for _ in 0..steps {
            said.push(self.step().await);
        }
        for device in self.devices.clone() {
            for module in MODULES {
                let id = id(&format!("{device}{module}"));
                said.push(told("identity", self.stores.devices.identity_get(&id).await));
                said.push(told("twin", self.stores.twins.twin_get(&id).await));
            }
            let left = self.stores.queue.command_count(&device, self.now, &self.rules).await;
            said.push(told("left", left));
        }
        said
    }

    fn device(&mut self) -> String {
        // One that nobody has made, and what can be no id, among them.
        match self.random.usize(..20) {
            0 => "nobody".to_owned(),
            1 => "a\0".to_owned(),
            n => self.devices[n % self.devices.len()].clone(),
        }
    }

    fn id(&mut self) -> Identity {
        let device = self.random.usize(..self.devices.len());
        let module = if self.random.bool() { "" } else { MODULES[self.random.usize(..4)] };
        id(&format!("{}{module}", self.devices[device]))
    }

    async fn step(&mut self) -> String {
        match self.random.u8(..100) {
            0..18 => self.write().await,
            18..24 => self.read().await,
            24..36 => self.connections().await,
            36..54 => self.twin().await,
            54..88 => self.command().await,
            88..94 => {
                // Steps that end locks and lives to the millisecond, and others.
                let steps = [1, 30_000, 60_000, self.random.i64(0..60_000)];
                let step = steps[self.random.usize(..4)];
                let back = self.random.u8(..4) == 0;
                self.now += if back { -step } else { step };
                format!("now {}", self.now)
            }
            _ if self.alone => self.hub().await,
            _ => self.read().await,
        }
    }

    async fn write(&mut self) -> String {
        let mut groups = Vec::new();
        for _ in 0..self.random.usize(1..4) {
            let writes = self.random.usize(1..4);
            let group = (0..writes).map(|_| {
                let id = self.id();
                draw::write(&mut self.random, id)
            });
            groups.push(group.collect());
        }
        told("write", self.stores.devices.identity_write(groups).await)
    }

    async fn read(&mut self) -> String {
        let (id, device) = (self.id(), self.device());
        match self.random.u8(..3) {
            0 => told("get", self.stores.devices.identity_get(&id).await),
            1 => told("modules", self.stores.devices.module_list(&device).await),
            _ => told("twin", self.stores.twins.twin_get(&id).await),
        }
    }

    async fn connections(&mut self) -> String {
        if self.alone && self.random.u8(..4) == 0 {
            let node = draw::node(&mut self.random);
            let (at, top) = (self.random.i64(0..100), self.random.usize(..4));
            let ended = told("ended", self.stores.devices.node_end(node, at, top).await);
            return ended + &told("nodes", self.stores.devices.node_list().await);
        }
        let report = |_| {
            let (id, generation_id) = (self.id(), self.random.u8(..2).to_string());
            let epoch = self.random.u64(..5);
            // Epoch 0 tells of activity only.
            let connected = epoch > 0 && self.random.bool();
            let updated = if epoch > 0 { self.random.i64(0..100) } else { 0 };
            let last_activity = self.random.i64(0..100);
            match self.random.u8(..10) {
                0..4 => ConnectionReport::Session {
                    id,
                    generation_id,
                    epoch,
                    session: draw::session(&mut self.random),
                    keep_subscriptions: self.random.bool(),
                },
                _ => {
                    let state = ConnectionState { connected, updated, last_activity };
                    let node = draw::node(&mut self.random).to_owned();
                    ConnectionReport::State { id, generation_id, epoch, state, node }
                }
            }
        };
        let reports: Vec<_> = (0..4).map(report).collect();
        told("connections", self.stores.devices.connections_record(reports).await)
    }

    async fn twin(&mut self) -> String {
        let (id, limits) = (self.id(), draw::limits(&mut self.random));
        let now = self.random.i64(0..4_000_000_000_000);
        if self.random.bool() {
            let update = match draw::update(&mut self.random, &limits) {
                Ok(update) => update,
                Err(error) => return error.to_string(),
            };
            told("update", self.stores.twins.twin_update(&id, update, now, &limits).await)
        } else {
            let report = match draw::report(&mut self.random, &limits) {
                Ok(report) => report,
                Err(error) => return error.to_string(),
            };
            told("report", self.stores.twins.twin_report(&id, report, now, &limits).await)
        }
    }

    async fn command(&mut self) -> String {
        let device = self.device();
        let epoch = self.random.u64(..4);
        let (now, rules, queue) = (self.now, &self.rules, &self.stores.queue);
        match self.random.u8(..20) {
            0..8 => {
                let command = draw::command(&mut self.random, now);
                told("send", queue.command_send(&device, command, now, rules).await)
            }
            8..13 => {
                let tokens = self.tokens..self.tokens + self.random.u64(..4);
                self.tokens = tokens.end;
                let bytes = if self.random.bool() { 30 } else { usize::MAX };
                let tokens = tokens.map(draw::token).collect();
                let lease = queue.command_lease(&device, epoch, tokens, bytes, now, rules);
                told("lease", lease.await)
            }
            13..17 => {
                let recent = |random: &mut Rng| self.tokens.saturating_sub(random.u64(1..6));
                let tokens: Vec<_> =
                    (0..3).map(|_| draw::token(recent(&mut self.random))).collect();
                let ways = [Disposition::Complete, Disposition::Abandon, Disposition::Reject];
                let way = ways[self.random.usize(..3)];
                told("settle", queue.command_settle(&device, epoch, &tokens, way, now, rules).await)
            }
            17 => {
                let in_vain = self.random.bool();
                told("release", queue.command_release(&device, epoch, in_vain, now, rules).await)
            }
            18 => told("count", queue.command_count(&device, now, rules).await),
            _ => told("purge", queue.command_purge(&device, now, rules).await),
        }
    }

    /// What concerns more than one device.
    async fn hub(&mut self) -> String {
        let (device, name) = (self.device(), draw::text(&mut self.random));
        let (old, new) = ([self.random.u8(..2)], [self.random.u8(..2)]);
        let top = self.random.usize(..4);
        let token = draw::token(self.tokens);
        self.tokens += 1;
        let (now, rules) = (self.now, &self.rules);
        let Stores { devices, queue, .. } = &self.stores;
        match self.random.u8(..9) {
            0 => told("list", devices.device_list(&device, top).await),
            1 => told("statistics", devices.device_statistics().await),
            2 => told("setting", devices.setting_get(&name).await),
            3 => told("init", devices.setting_init(&name, &new).await),
            4 => told("replace", devices.setting_replace(&name, &old, &new).await),
            5 => told("epoch", devices.epoch_generation_next().await),
            6 => {
                let mut swept = queue.command_sweep(100, now, rules).await;
                if let Ok(swept) = &mut swept {
                    swept.returned.sort();
                }
                told("sweep", swept)
            }
            7 => {
                let mut batch = queue.feedback_lease(token, now, &rules.feedback).await;
                if let Ok(Some(batch)) = &mut batch {
                    batch.records.sort_by(|one, other| one.device_id.cmp(&other.device_id));
                }
                told("feedback", batch)
            }
            _ => {
                let token = draw::token(self.tokens.saturating_sub(self.random.u64(1..30)));
                let ways = [Disposition::Complete, Disposition::Abandon, Disposition::Reject];
                let way = ways[self.random.usize(..3)];
                told("settle", queue.feedback_settle(token, way, now, &rules.feedback).await)
            }
        }
    }
}

fn id(joined: &str) -> Identity {
    Identity::parse(joined).expect("an id")
}

/// An answer as text. A store that could not do it would make any two alike.
fn told<T: Debug>(what: &str, answer: Result<T, StoreError>) -> String {
    assert!(!matches!(answer, Err(StoreError::Unavailable { .. })), "{what}: {answer:?}");
    format!("{what} {answer:?}")
}
