//! C2D messages in the kill test: devices with their back ends (`kill_receiver`), and one that reads
//! feedback, until the hub is killed. What must come of it says `kill_ledger`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dunlin_model::command::Outcome;
use fastrand::Rng;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::kill::{Place, Verdict};
use crate::kill_receiver::{Device, Kind, answered, number};
use crate::kill_traffic::Flow;
use crate::process::Hub;
use crate::raw::DEADLINE;

/// Settings of the hub: what is handed out and not settled comes again before the test is over, and
/// a message that is handed out in vain ends before it, as `kill_ledger` knows.
pub const SETTINGS: [(&str, &str); 4] = [
    ("DUNLIN__C2D__LOCK_SECONDS", "10"),
    ("DUNLIN__C2D__MAX_DELIVERY_COUNT", "5"),
    ("DUNLIN__C2D__FEEDBACK_BATCH_SECONDS", "0"),
    ("DUNLIN__C2D__FEEDBACK_LOCK_SECONDS", "10"),
];

pub struct Commands(Vec<Device>);

impl Commands {
    pub async fn create(hub: &Hub) -> Self {
        let mut devices = Vec::new();
        for (n, kind) in [Kind::Mqtt, Kind::Mqtt, Kind::Slow, Kind::Https].into_iter().enumerate() {
            devices.push(Device::create(hub, &format!("c2d-{n}"), kind).await);
        }
        Self(devices)
    }

    /// Until the hub is killed.
    pub async fn run(self, place: Place, flow: Arc<Flow>, mut random: Rng) -> Self {
        let run = |device: &Device| {
            tokio::spawn(device.clone().run(place.clone(), flow.clone(), random.fork()))
        };
        let tasks: Vec<_> = self.0.iter().map(run).collect();
        while self.read_feedback(&place, &flow, random.u8(..8) > 0).await.is_some() {}
        for task in tasks {
            task.await.expect("no panic");
        }
        self
    }

    /// One batch, which is completed or forgotten. Whether there was one.
    async fn read_feedback(&self, place: &Place, flow: &Flow, complete: bool) -> Option<bool> {
        let received = answered(place.client.feedback_receive().await)?.expect("received");
        let Some(batch) = received else { return Some(false) };
        let records: Vec<Value> = serde_json::from_slice(&batch.body).expect("JSON");
        let told = records.iter().map(|record| {
            let text = |name: &str| record[name].as_str().expect("text");
            let device = self.0.iter().find(|device| device.id() == text("deviceId"));
            let outcome = Outcome::parse(text("statusCode")).expect("an outcome");
            (device.expect("its device"), number(text("originalMessageId").as_bytes()), outcome)
        });
        let told: Vec<_> = told.collect();
        let ends: BTreeSet<_> =
            told.iter().map(|(device, number, _)| (device.id(), number)).collect();
        assert_eq!(ends.len(), told.len(), "a batch tells of an end once");
        let sequence = number(batch.headers["iothub-sequencenumber"].as_bytes());
        for (device, number, outcome) in &told {
            device.ledger().told(*number, *outcome, sequence);
        }
        if complete {
            let completed = place.client.feedback_complete(&batch.lock_token).await;
            answered(completed)?.expect("completed");
            for (device, number, _) in told {
                device.ledger().heard(number);
            }
            flow.heard.notify_one();
        }
        Some(true)
    }

    /// After the restart, while nobody else does anything.
    pub async fn judge(&self, place: &Place) {
        for device in &self.0 {
            device.judge(place).await;
        }
    }

    /// After the last restart: everything ends, and is told of.
    pub async fn finish(&self, place: &Place) {
        // What does not end in time shows in the verdict.
        for device in &self.0 {
            let _ = timeout(DEADLINE, device.finish(place)).await;
        }
        let flow = Flow::default();
        let told = async {
            while self.read_feedback(place, &flow, true).await.expect("the hub is up")
                || !self.0.iter().all(|device| device.ledger().is_settled())
            {
                // sleep: between two looks; what somebody else has read comes again in some seconds.
                sleep(Duration::from_millis(50)).await;
            }
        };
        let _ = timeout(DEADLINE, told).await;
        self.0.iter().for_each(|device| device.ledger().finished());
    }

    pub fn verdict(&self) -> Verdict {
        let mut all = Verdict::default();
        self.0.iter().for_each(|device| all += device.ledger().verdict);
        all
    }
}
