//! How a run goes, while it goes: a few lines that stay in place on a terminal, else a line every few
//! seconds.

use std::cmp::Reverse;
use std::fmt::Write;
use std::io::IsTerminal;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::series::{PERCENTILES, Point};
use super::text::harmless;
use crate::outcome::Slice;

/// Seconds between two lines where there is no terminal.
const EVERY: f64 = 5.0;
/// Width of the names in front of figures that stay in place.
const COLUMN: usize = 15;
/// Texts of errors that are shown at a time.
const ERRORS: usize = 4;

pub enum Live {
    Quiet,
    Terminal(ProgressBar),
    /// What happened since the last line.
    Lines(Option<Point>),
}

impl Live {
    pub fn new(quiet: bool) -> Self {
        if quiet {
            return Self::Quiet;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines(None);
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg}").ok();
        Self::Terminal(style.map(|style| bar.clone().with_style(style)).unwrap_or(bar))
    }

    pub fn show<'a>(&mut self, phase: &str, point: &Point, watched: impl Iterator<Item = &'a str>) {
        match self {
            Self::Quiet => {}
            Self::Terminal(bar) => bar.set_message(lines(phase, point, watched, COLUMN).join("\n")),
            Self::Lines(since) => {
                match since {
                    Some(since) => since.join(point.clone()),
                    None => *since = Some(point.clone()),
                }
                if let Some(due) = since.take_if(|since| since.seconds() >= EVERY - 0.5) {
                    eprintln!("{}", lines(phase, &due, watched, 0).join("; "));
                }
            }
        }
    }

    pub fn end(&self) {
        if let Self::Terminal(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// A line for the whole, one for each kind of operation, for the processes, for what went wrong.
/// `width`: of the names; without it, lines are short.
fn lines<'a>(
    phase: &str,
    point: &Point,
    watched: impl Iterator<Item = &'a str>,
    width: usize,
) -> Vec<String> {
    let seconds = point.seconds().max(0.001);
    let connections = HumanCount(point.connections);
    let mut lines = vec![format!("{:>4.0} s  {phase}: {connections} connected", point.until)];
    for (op, work) in &point.slice.ops {
        let rate = HumanCount((work.done as f64 / seconds).round() as u64);
        let mut line = format!("{:<width$} {rate}/s", op.name());
        if !work.latencies.is_empty() {
            let [p50, p90, p99, p999, max] = work.latencies.at(PERCENTILES);
            let _ = if width > 0 {
                write!(
                    line,
                    ", ms: p50 {p50:.1}, p90 {p90:.1}, p99 {p99:.1}, p99.9 {p999:.1}, max {max:.1}"
                )
            } else {
                write!(line, ", p50 {p50:.1}, p99 {p99:.1}, max {max:.1} ms")
            };
        }
        lines.push(line);
    }
    let names = std::iter::once("simulator").chain(watched);
    let used = point.processes.iter().zip(names).map(|(process, name)| match process.rss {
        Some(kib) => {
            let percent = 100.0 * process.cpu.total() / seconds;
            format!("{name} {percent:.0} % CPU, {:.0} MiB", kib as f64 / 1024.0)
        }
        None => format!("{name} is not there"),
    });
    lines.push(used.collect::<Vec<_>>().join(", "));
    lines.extend(errors(&point.slice));
    lines
}

/// What went wrong, the most frequent first.
fn errors(slice: &Slice) -> Vec<String> {
    let failed = slice.ops.iter().flat_map(|(op, work)| {
        work.failed.iter().map(|(reason, times)| (times, format!("{} failed", op.name()), reason))
    });
    let lost = slice.lost.iter().map(|(reason, times)| (times, "lost".to_owned(), reason));
    let mut errors: Vec<_> = failed.chain(lost).collect();
    errors.sort_by_key(|(times, ..)| Reverse(*times));
    let shown = errors
        .iter()
        .take(ERRORS)
        .map(|(times, what, reason)| format!("{times} {what}: {}", harmless(reason)));
    shown.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::series::Process;
    use super::*;
    use crate::outcome::{Op, Tally};
    use crate::process::Cpu;

    #[test]
    fn a_second_is_told_in_lines() {
        let tally = Tally::default();
        for millis in 1..=100 {
            tally.done(Op::Telemetry, Duration::from_millis(millis));
        }
        tally.failed(Op::Connect, "CONNACK 3\u{1b}[2J\n");
        tally.lost("reset");
        tally.lost("reset");
        let process = Process { cpu: Cpu { user: 0.5, system: 0.5 }, rss: Some(2_048) };
        let point = Point {
            from: 40.0,
            until: 42.0,
            slice: tally.cut(),
            connections: 15_000,
            machine: 0.0,
            processes: vec![process, Process { rss: None, ..process }],
        };
        let told = lines("hold", &point, ["hub"].into_iter(), 0);
        assert_eq!(
            told,
            [
                "  42 s  hold: 15,000 connected",
                "connect 0/s",
                "telemetry 50/s, p50 50.0, p99 99.0, max 100.0 ms",
                "simulator 50 % CPU, 2 MiB, hub is not there",
                "2 lost: reset",
                "1 connect failed: CONNACK 3[2J",
            ]
        );
    }
}
