//! A run while it goes on: takes what is counted, samples processes, shows how it goes; becomes the
//! report.

use std::collections::{BTreeMap, VecDeque};

use anyhow::Result;
use tokio::time::Instant;

use super::live::Live;
use super::series::{Point, Process, Series};
use super::{Head, Place, Report, Sample};
use crate::outcome::{Event, Slice};
use crate::process::{self, Cpu, Look, Memory, Own, Watch};

/// Memory is settled when this many looks, a second apart, lie within `STEADY_KIB`.
const STEADY_LOOKS: usize = 6;
const STEADY_KIB: u64 = 256;
const SETTLE_AT_MOST: f64 = 90.0;

pub struct Course {
    pub(super) head: Head,
    pub(super) place: Place,
    start: Instant,
    pub(super) series: Series,
    pub(super) phases: Vec<Phase>,
    pub(super) samples: Vec<Sample>,
    pub(super) watch: Watch,
    live: Live,
    /// Since the last tick, which was at `from`.
    now: Slice,
    from: f64,
    connections: u64,
    /// By the PID of each process of the simulator, this one among them.
    own: BTreeMap<u32, Own>,
    /// As of the last tick: the simulator's, and of each that is watched; the machine's.
    before: Vec<Cpu>,
    machine: f64,
    /// The watched processes' memory in this phase, of late.
    recent: VecDeque<u64>,
}

/// A part of a run.
#[derive(Debug)]
pub struct Phase {
    pub name: String,
    pub from: f64,
    pub until: f64,
    pub slice: Slice,
    pub used: Used,
}

/// What was used since the start; of a phase that is over: in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// By the simulator.
    pub own: Cpu,
    /// By what is watched.
    pub server: Cpu,
    pub switches: u64,
}

impl Used {
    fn since(self, before: Self) -> Self {
        Self {
            own: self.own - before.own,
            server: self.server - before.server,
            switches: self.switches.saturating_sub(before.switches),
        }
    }
}

impl Course {
    /// `watch`: PIDs or names of the server's processes. `quiet`: does not show how it goes.
    pub fn new(head: Head, watch: &[String], quiet: bool) -> Result<Self> {
        let own = process::own()?;
        Ok(Self {
            head,
            place: Place::here(),
            start: Instant::now(),
            series: Series::default(),
            phases: Vec::new(),
            samples: Vec::new(),
            watch: Watch::new(watch)?,
            live: Live::new(quiet),
            now: Slice::default(),
            from: 0.0,
            connections: 0,
            own: BTreeMap::from([(own.pid, own)]),
            before: Vec::new(),
            machine: process::machine()?,
            recent: VecDeque::new(),
        })
    }

    /// A new phase begins; what was counted up to now has been added.
    pub fn enter(&mut self, name: &str) -> Result<()> {
        let used = self.end_phase()?;
        let at = self.elapsed();
        let slice = Slice::default();
        self.phases.push(Phase { name: name.to_owned(), from: at, until: at, slice, used });
        self.recent.clear();
        Ok(())
    }

    /// Ends the phase that is on, if any; what was used up to now.
    fn end_phase(&mut self) -> Result<Used> {
        let look = self.look()?;
        let used = Used { own: self.own_cpu(), server: look.cpu(), switches: look.switches };
        let until = self.elapsed();
        if let Some(phase) = self.phases.last_mut() {
            phase.until = until;
            phase.used = used.since(phase.used);
        }
        Ok(used)
    }

    /// What was counted since the last time, by the tallies of this process or of one worker.
    pub fn add(&mut self, slice: &Slice, own: Option<Own>) {
        self.now.add(slice);
        if let Some(phase) = self.phases.last_mut() {
            phase.slice.add(slice);
        }
        self.own.extend(own.map(|own| (own.pid, own)));
    }

    /// Once a second, after what was counted has been added.
    pub fn tick(&mut self) -> Result<()> {
        let look = self.look()?;
        let until = self.elapsed();
        let slice = std::mem::take(&mut self.now);
        let opened = self.connections + slice.event(Event::Up);
        self.connections = opened.saturating_sub(slice.event(Event::Down));
        let rss = self.own.values().map(|own| own.rss).sum();
        let own = Process { cpu: self.own_cpu(), rss: Some(rss) };
        let watched = look
            .each
            .iter()
            .map(|usage| Process { cpu: usage.cpu, rss: usage.memory.map(|memory| memory.rss) });
        let mut processes: Vec<_> = std::iter::once(own).chain(watched).collect();
        self.before.resize(processes.len(), Cpu::default());
        for (process, before) in processes.iter_mut().zip(&mut self.before) {
            let used = process.cpu - *before;
            *before = process.cpu;
            process.cpu = used;
        }
        let busy = process::machine()?;
        let machine = busy - std::mem::replace(&mut self.machine, busy);
        let from = std::mem::replace(&mut self.from, until);
        let connections = self.connections;
        let point = Point { from, until, slice, connections, machine, processes };
        let phase = self.phases.last().map_or("", |phase| &phase.name);
        self.live.show(phase, &point, self.watch.labels());
        self.series.push(point);
        self.recent.extend(look.memory().map(|memory| memory.rss));
        if self.recent.len() > STEADY_LOOKS {
            self.recent.pop_front();
        }
        Ok(())
    }

    /// Whether the watched processes' memory has stopped moving in this phase, or will not.
    pub fn is_settled(&self) -> bool {
        self.watch.is_empty() || self.is_steady() || self.in_phase() > SETTLE_AT_MOST
    }

    fn is_steady(&self) -> bool {
        let range = self.recent.iter().max().zip(self.recent.iter().min());
        self.recent.len() == STEADY_LOOKS
            && range.is_some_and(|(most, least)| most - least <= STEADY_KIB)
    }

    /// Notes the watched processes' memory, under this name.
    pub fn sample(&mut self, at: &'static str) -> Result<()> {
        let Some(memory) = self.look()?.memory() else { return Ok(()) };
        let base: Memory = self.samples.first().map_or(memory, |first| first.memory);
        let settled = self.is_steady().then(|| self.in_phase());
        self.samples.push(Sample::new(at, memory, base, self.connections, settled));
        Ok(())
    }

    pub fn finish(mut self) -> Result<Report> {
        self.end_phase()?;
        if !self.now.ops.is_empty() || !self.now.events.is_empty() {
            self.tick()?;
        }
        self.live.end();
        Ok(Report::new(self))
    }

    fn look(&mut self) -> Result<Look> {
        let own = process::own()?;
        self.own.insert(own.pid, own);
        Ok(self.watch.look())
    }

    fn own_cpu(&self) -> Cpu {
        let mut sum = Cpu::default();
        self.own.values().for_each(|own| sum += own.cpu);
        sum
    }

    fn elapsed(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn in_phase(&self) -> f64 {
        self.elapsed() - self.phases.last().map_or(0.0, |phase| phase.from)
    }
}
