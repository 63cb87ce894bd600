//! Figures of each kind of operation: in all, by phase, and over time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::course::Phase;
use super::series::{PERCENTILES, Series};
use crate::outcome::{Latencies, Op, Reasons, Slice, Work};

/// Milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Latency {
    /// None: nothing was timed.
    pub fn of(latencies: &Latencies) -> Option<Self> {
        let [p50, p90, p99, p999, max] = latencies.at(PERCENTILES);
        (!latencies.is_empty()).then_some(Self { p50, p90, p99, p999, max })
    }
}

/// Operations of one kind; latencies but for those of a warm-up.
#[derive(Debug, Serialize)]
pub struct Operation {
    pub name: &'static str,
    pub started: u64,
    pub done: u64,
    pub failed: Reasons,
    /// Those that the percentiles are of.
    pub timed: u64,
    pub ms: Option<Latency>,
    /// Percentiles and their milliseconds, denser to the end.
    pub percentiles: Vec<(f64, f64)>,
}

impl Operation {
    /// `timed`: what does not belong to a warm-up.
    pub fn of(op: Op, work: &Work, timed: Option<&Work>) -> Self {
        let none = Latencies::default();
        let latencies = timed.map_or(&none, |work| &work.latencies);
        Self {
            name: op.name(),
            started: work.started,
            done: work.done,
            failed: work.failed.clone(),
            timed: latencies.count(),
            ms: Latency::of(latencies),
            percentiles: percentiles(latencies),
        }
    }
}

/// Ten for each power of ten that is left above, until one operation is.
fn percentiles(latencies: &Latencies) -> Vec<(f64, f64)> {
    let all = latencies.count() as f64;
    let mut told = Vec::new();
    for step in 0..80 {
        let above = 10_f64.powf(-f64::from(step) / 10.0);
        if above * all < 1.0 {
            break;
        }
        let percentile = 100.0 * (1.0 - above);
        told.push((percentile, latencies.at([percentile])[0]));
    }
    told
}

#[derive(Debug, Serialize)]
pub struct PhaseReport {
    pub name: String,
    pub from: f64,
    pub until: f64,
    pub ops: BTreeMap<Op, PhaseOperation>,
    pub lost: u64,
    /// Processors in use.
    pub client_cores: f64,
    pub server_cores: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct PhaseOperation {
    pub done: u64,
    pub per_second: f64,
    pub failed: u64,
    pub ms: Option<Latency>,
}

/// The run over time, a list each; what is not known at a time is null.
#[derive(Debug, Serialize)]
pub struct Curves {
    /// Seconds of a point.
    pub width: usize,
    /// Where each point ends, in seconds since the start.
    pub until: Vec<f64>,
    pub connections: Vec<u64>,
    pub lost: Vec<u64>,
    pub ops: BTreeMap<Op, Curve>,
    /// Of one processor, by everything on the machine.
    pub machine_percent: Vec<f64>,
    pub processes: Vec<ProcessCurve>,
}

#[derive(Debug, Default, Serialize)]
pub struct Curve {
    pub done_per_second: Vec<f64>,
    pub failed: Vec<u64>,
    pub p50: Vec<Option<f64>>,
    pub p90: Vec<Option<f64>>,
    pub p99: Vec<Option<f64>>,
    pub p999: Vec<Option<f64>>,
    pub max: Vec<Option<f64>>,
}

#[derive(Debug, Serialize)]
pub struct ProcessCurve {
    pub name: String,
    /// Of one processor.
    pub cpu_percent: Vec<Option<f64>>,
    pub rss_kib: Vec<Option<u64>>,
}

impl PhaseReport {
    pub fn of(phase: &Phase, watched: bool) -> Self {
        let seconds = (phase.until - phase.from).max(f64::MIN_POSITIVE);
        let ended = |work: &Work| work.done > 0 || !work.failed.is_empty();
        let ops = phase.slice.ops.iter().filter(|(_, work)| ended(work)).map(|(op, work)| {
            let done = PhaseOperation {
                done: work.done,
                per_second: thousandths(work.done as f64 / seconds),
                failed: work.failed.all(),
                ms: Latency::of(&work.latencies),
            };
            (*op, done)
        });
        Self {
            name: phase.name.clone(),
            from: thousandths(phase.from),
            until: thousandths(phase.until),
            ops: ops.collect(),
            lost: phase.slice.lost.all(),
            client_cores: thousandths(phase.used.own.total() / seconds),
            server_cores: watched.then(|| thousandths(phase.used.server.total() / seconds)),
        }
    }
}

impl Curves {
    /// With a curve for each kind of operation that there was.
    pub fn of<'a>(series: &Series, all: &Slice, watched: impl Iterator<Item = &'a str>) -> Self {
        let points = series.points();
        let ops = all.ops.keys().map(|op| {
            let mut curve = Curve::default();
            for point in points {
                curve.push(point.slice.ops.get(op), point.seconds());
            }
            (*op, curve)
        });
        let names = std::iter::once("simulator").chain(watched);
        let processes = names.enumerate().map(|(index, name)| {
            let of = points.iter().filter_map(|point| Some((point, point.processes.get(index)?)));
            let used = of.map(|(point, process)| {
                let percent = 100.0 * process.cpu.total() / point.seconds().max(0.001);
                (process.rss.map(|_| thousandths(percent)), process.rss)
            });
            let (cpu_percent, rss_kib) = used.unzip();
            ProcessCurve { name: name.to_owned(), cpu_percent, rss_kib }
        });
        let busy = points.iter().map(|point| 100.0 * point.machine / point.seconds().max(0.001));
        Self {
            width: series.width(),
            machine_percent: busy.map(thousandths).collect(),
            until: points.iter().map(|point| thousandths(point.until)).collect(),
            connections: points.iter().map(|point| point.connections).collect(),
            lost: points.iter().map(|point| point.slice.lost.all()).collect(),
            ops: ops.collect(),
            processes: processes.collect(),
        }
    }
}

impl Curve {
    fn push(&mut self, work: Option<&Work>, seconds: f64) {
        let latency = work.and_then(|work| Latency::of(&work.latencies));
        let done = work.map_or(0, |work| work.done);
        self.done_per_second.push(thousandths(done as f64 / seconds.max(0.001)));
        self.failed.push(work.map_or(0, |work| work.failed.all()));
        self.p50.push(latency.map(|latency| latency.p50));
        self.p90.push(latency.map(|latency| latency.p90));
        self.p99.push(latency.map(|latency| latency.p99));
        self.p999.push(latency.map(|latency| latency.p999));
        self.max.push(latency.map(|latency| latency.max));
    }
}

/// Digits that say nothing make a page long.
fn thousandths(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
