//! What a run came to: as text for a person, as JSON, and as a page with plots.

mod about;
mod course;
mod curves;
mod html;
mod live;
mod notes;
mod parts;
mod series;
mod text;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

pub use about::{Head, Place};
pub use course::Course;
use curves::{Curves, Latency, Operation, PhaseReport};
pub use parts::Sample;
use parts::{Bursts, Connecting, Part, Publishing, Silence};

use crate::outcome::{Event, Op, Reasons, Slice, Work};

/// Phases with a meaning of their own; any other name is only shown.
pub mod phase {
    /// Until every device has connected or given up.
    pub const CONNECT: &str = "connect";
    /// Everyone sends one message.
    pub const BURST: &str = "burst";
    /// Its latencies do not count.
    pub const WARM_UP: &str = "warm-up";
    /// What is measured: rates and processor time are of it.
    pub const HOLD: &str = "hold";
}

/// Whether the histories of a run can prove that a C2D message or its feedback is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Drained {
    Yes,
    /// It was not asked for.
    No,
    /// Nobody reads the feedback that is asked for.
    Unread,
    /// Devices that messages went to are not connected, or misbehave.
    Away,
}

impl Drained {
    pub fn text(self) -> &'static str {
        match self {
            Self::Yes => "drained: a C2D message without an end, or feedback never read, is lost",
            Self::No => "open: the end of C2D messages and feedback was not waited for",
            Self::Unread => {
                "open: nobody reads the feedback that is asked for (a back end that does = \"feedback\")"
            }
            Self::Away => {
                "open: devices are away or misbehave, so their C2D messages may still come"
            }
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub head: Head,
    #[serde(flatten)]
    pub place: Place,
    /// Of the whole run.
    pub seconds: f64,
    pub connected: u64,
    pub failed: Reasons,
    pub lost: Reasons,
    /// Subscriptions that were not granted.
    pub filters_refused: u64,
    pub sent: u64,
    pub acked: u64,
    /// Sent and not acknowledged in the end.
    pub unacknowledged: u64,
    /// Acknowledgements of nothing that was on its way.
    pub stray_acks: u64,
    pub events: BTreeMap<Event, u64>,
    pub connecting: Option<Connecting>,
    pub connect_ms: Option<Latency>,
    pub bursts: Option<Bursts>,
    pub burst_ms: Option<Latency>,
    pub publishing: Option<Publishing>,
    /// Of the operation that was done most.
    pub publish_ms: Option<Latency>,
    pub silence: Option<Silence>,
    pub memory: Vec<Sample>,
    pub ops: BTreeMap<Op, Operation>,
    pub phases: Vec<PhaseReport>,
    pub series: Curves,
    pub notes: Vec<String>,
    /// How histories end, if the run has any and sends C2D messages.
    pub drained: Option<Drained>,
}

impl Report {
    fn new(course: Course) -> Self {
        let watched = !course.watch.is_empty();
        let (mut all, mut timed) = (Slice::default(), Slice::default());
        for phase in &course.phases {
            all.add(&phase.slice);
            if phase.name != phase::WARM_UP {
                timed.add(&phase.slice);
            }
        }
        let held = Part::of(&course.phases, phase::HOLD, watched);
        let ms = |op| timed.ops.get(&op).and_then(|work: &Work| Latency::of(&work.latencies));
        let sums = |sum: fn(&Work) -> u64| {
            all.ops.iter().filter(|(op, _)| op.is_whole()).map(|(_, work)| sum(work)).sum()
        };
        let (sent, acked): (u64, u64) = (sums(|work| work.started), sums(|work| work.done));
        let connect = Part::of(&course.phases, phase::CONNECT, watched);
        let connected = all.event(Event::Connected);
        let busiest = timed.ops.iter().filter(|(op, _)| op.is_whole() && **op != Op::Burst);
        let busiest = busiest.max_by_key(|(_, work)| work.done).map(|(op, _)| *op);
        let failed = all.ops.get(&Op::Connect).map(|work| work.failed.clone());
        let mut report = Self {
            seconds: course.phases.last().map_or(0.0, |last| last.until),
            connected,
            failed: failed.unwrap_or_default(),
            filters_refused: all.event(Event::RefusedFilter),
            sent,
            acked,
            unacknowledged: sent.saturating_sub(acked),
            stray_acks: all.event(Event::StrayAck),
            connecting: connect.map(|part| part.connecting(connected)),
            connect_ms: ms(Op::Connect),
            bursts: Bursts::of(&course.phases),
            burst_ms: ms(Op::Burst),
            publish_ms: busiest.and_then(ms),
            silence: held.as_ref().and_then(Part::silence),
            publishing: held.and_then(|part| part.publishing()),
            ops: all
                .ops
                .iter()
                .map(|(op, work)| (*op, Operation::of(*op, work, timed.ops.get(op))))
                .collect(),
            phases: course.phases.iter().map(|phase| PhaseReport::of(phase, watched)).collect(),
            series: Curves::of(&course.series, &all, course.watch.labels()),
            memory: course.samples,
            events: all.events,
            lost: all.lost,
            head: course.head,
            place: course.place,
            notes: Vec::new(),
            drained: None,
        };
        report.notes = notes::of(&report);
        report
    }

    /// Every device connected, got what it subscribed to and stayed; every message was acknowledged,
    /// once.
    pub fn is_clean(&self) -> bool {
        self.connected == self.head.devices as u64
            && self.filters_refused == 0
            && self.lost.is_empty()
            && self.unacknowledged == 0
            && self.stray_acks == 0
    }

    /// Text on standard output; JSON to `json`, or instead of the text if that is `-`; a page to
    /// `html`.
    pub fn write(&self, json: Option<&Path>, html: Option<&Path>) -> Result<()> {
        let mut out = io::stdout().lock();
        let object = serde_json::to_string_pretty(self)? + "\n";
        // First what can be seen, whatever becomes of the files.
        let only_json = json == Some(Path::new("-"));
        if only_json {
            out.write_all(object.as_bytes())?;
        } else {
            self.text(&mut out)?;
        }
        let json = json.filter(|_| !only_json).map_or(Ok(()), |path| save(path, &object));
        let page =
            html.map_or(Ok(()), |path| save(path, &self.page().context("the page of the report")?));
        json.and(page)
    }
}

/// Whether a report can be written there: found out before a run, not after it. Leaves what is there.
pub fn probe(path: &Path) -> Result<()> {
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
    opened.map(drop).with_context(|| format!("cannot write {}", path.display()))
}

fn save(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests;
