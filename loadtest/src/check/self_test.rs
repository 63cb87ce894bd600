//! Makes up histories of runs in which nothing was lost, with all that may happen in one: lost
//! connections, messages sent again, requests without an answer. The tests plant faults in them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use fastrand::Rng;

use crate::history::{Ask, Disposition, Kind, Line, Outcome, Pen, Place, Recorder, id};

const PARTITIONS: u32 = 4;
const BACK_ENDS: u32 = 3;
/// Lines of each device.
const LINES_EACH: u64 = 1_000;

/// Who writes a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Device,
    BackEnd,
    Log,
}

/// What all devices share.
pub struct World {
    pub random: Rng,
    time: u64,
    offsets: [u64; PARTITIONS as usize],
}

impl World {
    pub fn new(random: Rng) -> Self {
        Self { random, time: 1_700_000_000_000_000, offsets: Default::default() }
    }

    fn one_in(&mut self, many: u32) -> bool {
        self.random.u32(..many) == 0
    }
}

/// A device, as far as it has come.
pub struct Life {
    pub name: String,
    partition: u32,
    /// It speaks HTTPS: its dispositions are confirmed, and it may reject.
    https: bool,
    connected: bool,
    epoch: u32,
    /// Messages, reports of this connection.
    sent: u64,
    reports: u64,
    reported: u64,
    desired: u64,
    /// Requests of back ends.
    requests: u32,
    /// Messages that were not acknowledged before their connection was lost.
    again: Vec<(u32, u64)>,
}

/// A life in its world, and where its lines go.
struct Step<'a> {
    life: &'a mut Life,
    world: &'a mut World,
    out: &'a mut dyn FnMut(Side, &Line<'_>),
}

impl Life {
    pub fn new(name: String, random: &mut Rng) -> Self {
        Self {
            name,
            partition: random.u32(..PARTITIONS),
            https: random.bool(),
            connected: false,
            epoch: 0,
            sent: 0,
            reports: 0,
            reported: 1,
            desired: 1,
            requests: 0,
            again: Vec::new(),
        }
    }

    /// Something happens to it.
    pub fn step(&mut self, world: &mut World, out: &mut dyn FnMut(Side, &Line<'_>)) {
        let what = world.random.u32(..100);
        let mut step = Step { life: self, world, out };
        if !step.life.connected {
            step.connect();
        }
        match what {
            0..60 => step.telemetry(),
            60..70 => step.report(),
            70..80 => step.desire(),
            80..92 => step.message(),
            92..98 => step.call(),
            _ => step.disconnect(),
        }
    }
}

impl Step<'_> {
    fn write(&mut self, side: Side, epoch: u32, sequence: u64, kind: Kind) {
        self.world.time += self.world.random.u64(1..100);
        let (time, device) = (self.world.time, &*self.life.name);
        (self.out)(side, &Line { time, device, epoch, sequence, kind });
    }

    fn device(&mut self, sequence: u64, kind: Kind) {
        self.write(Side::Device, self.life.epoch, sequence, kind);
    }

    fn back_end(&mut self, id: u64, kind: Kind) {
        self.write(Side::BackEnd, (id >> 32) as u32, id, kind);
    }

    fn connect(&mut self) {
        let life = &mut *self.life;
        (life.connected, life.epoch, life.sent, life.reports) = (true, life.epoch + 1, 0, 0);
        self.device(0, Kind::Connect);
    }

    fn disconnect(&mut self) {
        self.life.connected = false;
        self.device(0, Kind::Disconnect);
    }

    /// A new connection in the place of this one.
    fn lose_connection(&mut self) {
        self.disconnect();
        self.connect();
    }

    fn telemetry(&mut self) {
        let mut messages = std::mem::take(&mut self.life.again);
        for _ in 0..self.world.random.u32(1..20) {
            self.life.sent += 1;
            messages.push((self.life.epoch, self.life.sent));
        }
        let (mut logged, mut acked) = (messages.len(), messages.len());
        let lost = self.world.one_in(20);
        if lost {
            logged = self.world.random.usize(..=messages.len());
            acked = self.world.random.usize(..=logged);
        }
        for (epoch, sequence) in &messages {
            self.write(Side::Device, *epoch, *sequence, Kind::Send);
        }
        for (epoch, sequence) in &messages[..logged] {
            let partition = self.life.partition;
            let next = &mut self.world.offsets[partition as usize];
            let place = Place { partition, offset: *next };
            *next += 1;
            self.write(Side::Log, *epoch, *sequence, Kind::Logged(place));
        }
        for (epoch, sequence) in &messages[..acked] {
            self.write(Side::Device, *epoch, *sequence, Kind::Ack);
        }
        if lost {
            self.disconnect();
            if self.world.random.bool() {
                self.life.again = messages.split_off(acked);
            }
        }
    }

    fn report(&mut self) {
        self.life.reports += 1;
        let report = self.life.reports;
        self.device(report, Kind::Report);
        if self.world.one_in(20) {
            // It may have taken effect.
            self.life.reported += self.world.random.u64(..2);
            return self.disconnect();
        }
        self.life.reported += 1;
        self.device(report, Kind::Reported { version: self.life.reported });
    }

    fn request(&mut self) -> u64 {
        self.life.requests += 1;
        id(self.world.random.u32(..BACK_ENDS), self.life.requests)
    }

    fn desire(&mut self) {
        let patch = self.request();
        self.back_end(patch, Kind::Desire);
        if self.world.one_in(20) {
            self.life.desired += self.world.random.u64(..2);
            return;
        }
        self.life.desired += 1;
        let version = self.life.desired;
        self.back_end(patch, Kind::Desired { version });
        if self.world.random.bool() {
            self.device(version, Kind::Told);
        }
    }

    fn message(&mut self) {
        let asks = [Ask::None, Ask::Positive, Ask::Negative, Ask::Full];
        let ask = asks[self.world.random.usize(..asks.len())];
        let of_failure = matches!(ask, Ask::Negative | Ask::Full);
        let message = self.request();
        self.back_end(message, Kind::C2d { ask });
        if self.world.one_in(20) {
            return;
        }
        self.back_end(message, Kind::Accepted);
        // It may come several times before it is settled.
        let come = self.world.random.u32(..3);
        for _ in 0..come {
            self.device(message, Kind::Received);
            if self.life.https {
                self.settle(message, Disposition::Abandon);
            } else {
                // A PUBACK that the hub has not read.
                self.settle(message, Disposition::Complete);
                self.lose_connection();
            }
        }
        let outcome = match self.world.random.u32(..4) {
            0 if of_failure => {
                let ends = [Outcome::Expired, Outcome::DeliveryCountExceeded, Outcome::Purged];
                ends[self.world.random.usize(..ends.len())]
            }
            1 if self.life.https => {
                self.device(message, Kind::Received);
                self.settle(message, Disposition::Reject);
                Outcome::Rejected
            }
            _ => {
                self.device(message, Kind::Received);
                self.settle(message, Disposition::Complete);
                Outcome::Success
            }
        };
        let told = match outcome {
            Outcome::Success => matches!(ask, Ask::Positive | Ask::Full),
            _ => of_failure,
        };
        if told {
            self.back_end(message, Kind::Feedback(outcome));
            if self.world.one_in(30) {
                self.back_end(message, Kind::Feedback(outcome));
            }
        }
    }

    fn settle(&mut self, message: u64, disposition: Disposition) {
        self.device(message, Kind::Settle(disposition));
        if self.life.https {
            self.device(message, Kind::Settled(disposition));
        }
    }

    fn call(&mut self) {
        let call = self.request();
        self.back_end(call, Kind::Call);
        if self.world.one_in(10) {
            return;
        }
        self.device(call, Kind::Called);
        if !self.world.one_in(10) {
            self.back_end(call, Kind::Answer { status: 200 });
        }
    }
}

/// Histories of two workers, the back ends and the log's reader, with about so many lines.
pub fn write(folder: &Path, lines: u64) -> Result<Vec<PathBuf>> {
    let names = ["worker-0", "worker-1", "back-ends", "log"];
    let paths = names.map(|name| folder.join(format!("{name}.history")));
    let mut recorders = Vec::new();
    for (path, name) in paths.iter().zip(names) {
        recorders.push(Recorder::create(path, name)?);
    }
    let mut pens: Vec<Pen> = recorders.iter().map(Recorder::pen).collect();
    let mut world = World::new(Rng::with_seed(lines));
    let count = usize::try_from(lines / LINES_EACH + 1)?;
    let mut lives: Vec<_> =
        (0..count).map(|n| Life::new(format!("load-{n:06}"), &mut world.random)).collect();
    let mut written = 0;
    while written < lines {
        let number = world.random.usize(..count);
        lives[number].step(&mut world, &mut |side, line| {
            let pen = match side {
                Side::Device => number % 2,
                Side::BackEnd => 2,
                Side::Log => 3,
            };
            pens[pen].write(line);
            written += 1;
        });
    }
    drop(pens);
    for recorder in recorders {
        recorder.finish(true)?;
    }
    Ok(paths.into())
}
