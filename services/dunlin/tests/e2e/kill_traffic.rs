//! What goes on beside telemetry while the hub is killed: devices (`kill_device`) and their back
//! ends (`kill_back_ends`), C2D messages (`kill_commands`), and what of it must be there when the
//! hub is up again.

use std::sync::Arc;

use fastrand::Rng;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::kill::{Place, Verdict};
use crate::kill_back_ends::{BackEnd, Caller};
use crate::kill_commands::Commands;
use crate::kill_device::Device;
use crate::process::Hub;
use crate::raw::within;

const DEVICES: usize = 4;

/// A device, its back ends, and what each knows.
struct Subject {
    device: Device,
    back_ends: [BackEnd; 2],
    callers: [Caller; 2],
}

impl Subject {
    async fn create(hub: &Hub, id: &str) -> Self {
        let login = hub.create_device(id).await;
        Self {
            device: Device::create(&Place::of(hub), login).await,
            back_ends: ["a", "b"].map(|member| BackEnd::new(id, member)),
            callers: [false, true].map(|patient| Caller::new(id, patient)),
        }
    }

    /// Until the hub is killed.
    async fn run(mut self, place: Place, flow: Arc<Flow>) -> Self {
        let Self { device, back_ends: [first, second], callers: [quick, patient] } = &mut self;
        tokio::join!(
            device.run(&place, &flow),
            first.run(&place, &flow),
            second.run(&place, &flow),
            quick.run(&place, &flow),
            patient.run(&place, &flow),
        );
        self
    }

    /// After the restart, while nobody else writes.
    async fn judge(&mut self, place: &Place) {
        let twin = place.client.twin_get(self.device.id()).await.expect("a twin");
        let [desired, reported] = ["desired", "reported"].map(|part| &twin["properties"][part]);
        let written = self.back_ends.iter_mut().map(|back_end| back_end.judge(&twin)).sum();
        self.back_ends[0].writer.judge_version(&desired["$version"], written);
        let reports = self.device.judge_reports(reported);
        // A new twin has version 2.
        let verdict = &mut self.device.reports.verdict;
        verdict.disordered += usize::from(twin["version"] != 2 + written + reports);

        let [first, _] = &mut self.back_ends;
        let write = async || first.write(&place.client).await.expect("written");
        self.device.judge_session(place, write, &mut self.callers[0]).await;
    }
}

/// Says of each kind of traffic that it has begun.
#[derive(Default)]
pub struct Flow {
    pub reported: Notify,
    pub subscribed: Notify,
    pub written: Notify,
    pub called: Notify,
    /// A C2D message was sent; received over MQTT; settled over HTTPS; its feedback was completed.
    pub sent: Notify,
    pub received: Notify,
    pub settled: Notify,
    pub heard: Notify,
}

pub struct Traffic {
    subjects: Vec<Subject>,
    commands: Commands,
}

impl Traffic {
    pub async fn create(hub: &Hub) -> Self {
        let mut subjects = Vec::new();
        for n in 0..DEVICES {
            subjects.push(Subject::create(hub, &format!("twin-{n}")).await);
        }
        Self { subjects, commands: Commands::create(hub).await }
    }

    pub fn start(self, hub: &Hub, random: &mut Rng) -> Running {
        let (place, flow) = (Place::of(hub), Arc::new(Flow::default()));
        let start = |mut subject: Subject| {
            subject.device.random = random.fork();
            subject.callers[0].random = random.fork();
            tokio::spawn(subject.run(place.clone(), flow.clone()))
        };
        let tasks = self.subjects.into_iter().map(start).collect();
        let commands = tokio::spawn(self.commands.run(place.clone(), flow.clone(), random.fork()));
        Running { tasks, commands, flow }
    }

    pub async fn judge(&mut self, hub: &Hub) {
        let place = Place::of(hub);
        for subject in &mut self.subjects {
            subject.judge(&place).await;
        }
        self.commands.judge(&place).await;
    }

    /// After the last kill, and behind `judge`: what must come to an end does.
    pub async fn finish(&self, hub: &Hub) {
        self.commands.finish(&Place::of(hub)).await;
    }

    pub fn verdicts(&self) -> [(&'static str, Verdict); 5] {
        let mut all = ["reported", "desired", "subscriptions", "methods", "c2d"]
            .map(|kind| (kind, Verdict::default()));
        all[4].1 = self.commands.verdict();
        for Subject { device, back_ends, callers } in &self.subjects {
            all[0].1 += device.reports.verdict;
            back_ends.iter().for_each(|back_end| all[1].1 += back_end.writer.verdict);
            all[2].1 += device.subscriptions;
            let answered = &callers[0].answered;
            all[3].1 += Verdict {
                acked: answered.len(),
                lost: answered.difference(&device.ran).count(),
                duplicates: device.ran_again,
                disordered: 0,
            };
        }
        all
    }
}

/// Traffic until the hub is killed.
pub struct Running {
    tasks: Vec<JoinHandle<Subject>>,
    commands: JoinHandle<Commands>,
    flow: Arc<Flow>,
}

impl Running {
    /// Waits until there was some of each kind.
    pub async fn flows(&self) {
        let Flow { reported, subscribed, written, called, sent, received, settled, heard } =
            &*self.flow;
        for kind in [reported, subscribed, written, called, sent, received, settled, heard] {
            within("traffic", kind.notified()).await;
        }
    }

    /// Nothing hangs: whatever was open when the hub was killed has ended.
    pub async fn ended(self) -> Traffic {
        let mut subjects = Vec::new();
        for task in self.tasks {
            subjects.push(within("the end of a device's traffic", task).await.expect("no panic"));
        }
        let commands = within("the end of C2D messages", self.commands).await.expect("no panic");
        Traffic { subjects, commands }
    }
}
