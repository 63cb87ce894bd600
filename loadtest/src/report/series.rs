//! A run over time: points of one second, or of more once a run is long, so that it stays small.

use crate::outcome::Slice;
use crate::process::Cpu;

/// Points that are kept; twice as many are joined two by two.
const MOST: usize = 600;

/// Seconds of what is no point of its own: rates of so little, and processor time, mean nothing.
const SHORT: f64 = 0.5;

/// What happened in a while, and how things stood at its end.
#[derive(Clone, Debug, Default)]
pub struct Point {
    /// Since the start of the run.
    pub from: f64,
    pub until: f64,
    pub slice: Slice,
    pub connections: u64,
    /// Processor time of the whole machine.
    pub machine: f64,
    /// The simulator, and then each process that is watched.
    pub processes: Vec<Process>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    pub cpu: Cpu,
    /// KiB; none: it did not run.
    pub rss: Option<u64>,
}

impl Point {
    pub fn join(&mut self, later: Self) {
        self.until = later.until;
        self.slice.add(&later.slice);
        self.connections = later.connections;
        self.machine += later.machine;
        for (mine, theirs) in self.processes.iter_mut().zip(&later.processes) {
            mine.cpu += theirs.cpu;
            mine.rss = theirs.rss;
        }
    }

    pub fn seconds(&self) -> f64 {
        self.until - self.from
    }
}

#[derive(Debug)]
pub struct Series {
    points: Vec<Point>,
    /// Seconds that a point has, and that the last one has so far.
    width: usize,
    filled: usize,
}

impl Default for Series {
    fn default() -> Self {
        Self { points: Vec::new(), width: 1, filled: 1 }
    }
}

impl Series {
    /// Takes what follows.
    pub fn push(&mut self, point: Point) {
        let short = point.seconds() < SHORT;
        if (short || self.filled < self.width)
            && let Some(last) = self.points.last_mut()
        {
            last.join(point);
            self.filled += usize::from(!short);
            return;
        }
        if self.points.len() == MOST {
            self.halve();
        }
        self.points.push(point);
        self.filled = 1;
    }

    fn halve(&mut self) {
        let mut points = std::mem::take(&mut self.points).into_iter();
        while let Some(mut point) = points.next() {
            points.next().into_iter().for_each(|later| point.join(later));
            self.points.push(point);
        }
        self.width *= 2;
    }

    pub fn points(&self) -> &[Point] {
        &self.points
    }

    pub fn width(&self) -> usize {
        self.width
    }
}

/// Percentiles of the curves over time.
pub const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 100.0];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::outcome::{Op, Tally};

    #[test]
    fn a_long_run_stays_small_and_whole() {
        let mut series = Series::default();
        let tally = Tally::default();
        let seconds = 5_000;
        for second in 0..seconds {
            tally.started(Op::Telemetry, 1);
            tally.done(Op::Telemetry, Duration::from_micros(second + 1));
            series.push(Point {
                from: second as f64,
                until: second as f64 + 1.0,
                slice: tally.cut(),
                connections: second,
                machine: 2.0,
                processes: vec![Process { cpu: Cpu { user: 1.0, system: 0.0 }, rss: Some(second) }],
            });
            let points = series.points();
            assert!(points.len() <= MOST);
            assert!(points.is_sorted_by(|one, next| one.until == next.from), "without a gap");
            assert_eq!(points.last().map(|last| last.connections), Some(second));
        }
        assert_eq!((series.width(), series.points().len()), (16, 5_000_usize.div_ceil(16)));
        let mut all = Slice::default();
        let mut cpu = Cpu::default();
        for point in series.points() {
            assert_eq!(point.processes[0].rss, Some(point.connections));
            assert_eq!(point.machine, 2.0 * point.seconds());
            all.add(&point.slice);
            cpu += point.processes[0].cpu;
        }
        assert_eq!((all.ops[&Op::Telemetry].done, cpu.user), (seconds, seconds as f64));
        assert_eq!(all.ops[&Op::Telemetry].latencies.count(), seconds);
        let first = &series.points()[0].slice.ops[&Op::Telemetry];
        assert_eq!(first.latencies.at(PERCENTILES), [0.008, 0.015, 0.016, 0.016, 0.016]);
    }
}
