//! The devices and back ends of a process: spread over threads, led through phases together.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use crate::backend;
use crate::device::{self, Shared};
use crate::history::{Pen, Recorder};
use crate::outcome::{Slice, Tally, Totals};
use crate::plan::{Plan, Side};

/// What devices and back ends do now.
#[derive(Clone, Copy, Debug)]
pub enum Phase {
    Idle,
    /// Everyone publishes one message; each time the phase is entered.
    Burst,
    Work(Schedule),
    /// Nothing more is sent; feedback is still read.
    Drain(Schedule),
    /// Everyone disconnects.
    Stop,
}

#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub start: Instant,
    pub until: Instant,
}

impl Schedule {
    /// From now on.
    fn of(seconds: f64) -> Self {
        let start = Instant::now();
        Self { start, until: start + Duration::from_secs_f64(seconds) }
    }
}

/// A phase for all processes of a run: its times count from when it is entered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    Idle,
    Burst,
    /// For so many seconds.
    Work(f64),
    /// For so many seconds at most.
    Drain(f64),
}

impl From<Order> for Phase {
    fn from(order: Order) -> Self {
        match order {
            Order::Idle => Self::Idle,
            Order::Burst => Self::Burst,
            Order::Work(seconds) => Self::Work(Schedule::of(seconds)),
            Order::Drain(seconds) => Self::Drain(Schedule::of(seconds)),
        }
    }
}

/// Devices that run.
pub struct Fleet {
    threads: Vec<JoinHandle<Result<()>>>,
    tallies: Vec<Arc<Tally>>,
    phase: watch::Sender<Phase>,
    recorder: Option<Recorder>,
}

impl Fleet {
    /// Starts connecting. `history`: writes one to this file, under this name.
    pub fn start(plan: Plan, threads: usize, history: Option<(&Path, &str)>) -> Result<Self> {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let count = if threads == 0 { processors() } else { threads }.min(plan.devices().max(1));
        let recorder = history.map(|(path, who)| Recorder::create(path, who)).transpose()?;
        let (phase, follow) = watch::channel(Phase::Idle);
        let mut fleet = Self { threads: Vec::new(), tallies: Vec::new(), phase, recorder };
        let plan = Arc::new(plan);
        for thread in 0..count {
            let tally = Arc::new(Tally::default());
            fleet.tallies.push(tally.clone());
            let pen = fleet.recorder.as_ref().map(Recorder::pen).unwrap_or_default();
            let (plan, phase) = (plan.clone(), follow.clone());
            let run = move || of_this_thread(plan, phase, tally, pen, thread, count);
            let name = format!("devices-{thread}");
            fleet.threads.push(std::thread::Builder::new().name(name).spawn(run)?);
        }
        Ok(fleet)
    }

    /// Whether the history can be written.
    pub fn check(&self) -> Result<()> {
        self.recorder.as_ref().map_or(Ok(()), Recorder::check)
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    pub fn totals(&self) -> Totals {
        Totals::of(self.tallies.iter().map(|tally| &**tally))
    }

    /// What was counted since the last cut.
    pub fn cut(&self) -> Slice {
        let mut slice = Slice::default();
        self.tallies.iter().for_each(|tally| slice.add(&tally.cut()));
        slice
    }

    /// Disconnects everyone; what was counted since the last cut. `drained`: what the history waits
    /// for was waited for.
    pub fn stop(mut self, drained: bool) -> Result<Slice> {
        self.enter(Phase::Stop);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a client thread panicked"))??;
        }
        if let Some(recorder) = self.recorder.take() {
            recorder.finish(drained)?;
        }
        Ok(self.cut())
    }
}

/// A thread with a runtime of its own: devices never move between threads, so that nothing but
/// counters is shared.
fn of_this_thread(
    plan: Arc<Plan>,
    phase: watch::Receiver<Phase>,
    tally: Arc<Tally>,
    pen: Pen,
    thread: usize,
    threads: usize,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (scratch, silent, waiting, awaited) = Default::default();
    let pen = RefCell::new(pen);
    let shared = Rc::new(Shared { plan, phase, tally, pen, scratch, waiting, awaited, silent });
    let work = async {
        let sides = 0..shared.plan.sides.len();
        let devices = sides.map(|side| devices(shared.clone(), side, thread, threads));
        let back_ends = backend::run(shared.clone(), thread, threads);
        tokio::try_join!(try_join_all(devices), back_ends)
    };
    LocalSet::new().block_on(&runtime, work)?;
    Ok(())
}

/// The numbers of a group's devices that run on this thread.
pub fn of_thread(side: &Side, thread: usize, threads: usize) -> impl Iterator<Item = usize> {
    let numbers = side.numbers.clone();
    numbers.filter(move |number| number % threads == thread)
}

/// A group's devices on this thread, to the end of all of them.
async fn devices(shared: Rc<Shared>, side: usize, thread: usize, threads: usize) -> Result<()> {
    let start = Instant::now();
    let plan = shared.plan.clone();
    let mut stop = shared.phase.clone();
    let mut devices = JoinSet::new();
    for number in of_thread(&plan.sides[side], thread, threads) {
        let turn = tokio::select! {
            turn = plan.sides[side].turn(number, start) => turn?,
            () = stopped(&mut stop) => break,
        };
        devices.spawn_local(device::run(shared.clone(), side, number, turn));
        while let Some(ended) = devices.try_join_next() {
            ended.context("a device's task panicked")?;
        }
    }
    while let Some(ended) = devices.join_next().await {
        ended.context("a device's task panicked")?;
    }
    // Silent devices have no task.
    stopped(&mut stop).await;
    let silent = shared.silent.take();
    for _ in silent.iter().filter(|socket| !is_open(socket)) {
        shared.tally.lost("closed by the server (seen at the end)");
    }
    Ok(())
}

/// Until everyone is to stop; also when nobody is there to say so.
pub async fn stopped(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| matches!(phase, Phase::Stop)).await;
}

/// Whether the server still holds its side.
fn is_open(socket: &std::net::TcpStream) -> bool {
    match socket.peek(&mut [0]) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Of a device's first connection in this process: above those of earlier runs.
pub fn first_epoch() -> u32 {
    /// Minutes from 1970 to 2026.
    const START: u64 = 29_453_760;
    let minutes = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60;
    // Leaves a device 256 connections a minute, until 2057.
    u32::try_from(minutes.saturating_sub(START)).unwrap_or(0) << 8
}

#[cfg(test)]
pub fn shared_for_tests() -> Result<Rc<Shared>> {
    use crate::scenario::{Group, Scenario};
    let group = Group { count: 2, ..Group::default() };
    let scenario = Scenario { groups: vec![group], ..Scenario::default() };
    let (_, phase) = watch::channel(Phase::Idle);
    shared_with(crate::target::Target::at_port(1)?, &scenario, phase)
}

#[cfg(test)]
pub fn shared_with(
    target: crate::target::Target,
    scenario: &crate::scenario::Scenario,
    phase: watch::Receiver<Phase>,
) -> Result<Rc<Shared>> {
    let plan = Arc::new(Plan::new(scenario, &Arc::new(target), &crate::plan::Share::ALL)?);
    let (tally, pen, scratch, waiting, awaited, silent) = Default::default();
    Ok(Rc::new(Shared { plan, phase, tally, pen, scratch, waiting, awaited, silent }))
}
