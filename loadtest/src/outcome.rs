//! What devices and back ends count and time while they run: one tally a client thread, cut into
//! slices about once a second, which add up over threads, workers and time.

mod latency;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use latency::{Latencies, Times};

/// What is counted and timed, each on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// A device: from dialling to the last answer that it waits for before it is ready.
    Connect,
    /// A device's message, to its PUBACK or 204.
    Telemetry,
    /// The same, where all devices send at one time.
    Burst,
    /// A device's change of its reported properties, to the answer 204.
    Report,
    /// A device reads its twin.
    TwinGet,
    /// A back end's call of a direct method, to the device's answer.
    Method,
    /// A back end's C2D message, until the hub has it.
    C2dSend,
    /// The same, until the device has settled it.
    C2d,
    /// A back end's change of desired properties.
    Desired,
    /// A back end's query: one page.
    Query,
    /// A batch of feedback that a back end received.
    Feedback,
}

impl Op {
    pub const ALL: [Self; 11] = [
        Self::Connect,
        Self::Telemetry,
        Self::Burst,
        Self::Report,
        Self::TwinGet,
        Self::Method,
        Self::C2dSend,
        Self::C2d,
        Self::Desired,
        Self::Query,
        Self::Feedback,
    ];

    /// Whether it counts as a message: connecting is none, and sending a C2D message is a part of its
    /// delivery.
    pub fn is_whole(self) -> bool {
        !matches!(self, Self::Connect | Self::C2dSend)
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Telemetry => "telemetry",
            Self::Burst => "burst",
            Self::Report => "reported patch",
            Self::TwinGet => "twin read",
            Self::Method => "direct method",
            Self::C2dSend => "C2D send",
            Self::C2d => "C2D delivery",
            Self::Desired => "desired patch",
            Self::Query => "query",
            Self::Feedback => "feedback",
        }
    }
}

/// What only happens: nothing answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A connection is there.
    Up,
    /// A connection is gone, whoever ended it.
    Down,
    /// A device is ready for the first time.
    Connected,
    /// A device will not try again.
    GaveUp,
    /// A device dropped its TLS state and keeps its socket.
    Silent,
    /// A TLS handshake that resumed a session.
    Resumed,
    /// A subscription that was not granted.
    RefusedFilter,
    /// An acknowledgement of nothing that was on its way.
    StrayAck,
    /// The hub asked for less.
    Throttled,
    /// A device did on purpose what it may not.
    Misbehaved,
    /// The end of a C2D message, or feedback on one, that a history waits for.
    Awaited,
    /// It has come.
    Arrived,
}

impl Event {
    const COUNT: usize = Self::Arrived as usize + 1;
    const ALL: [Self; Self::COUNT] = [
        Self::Up,
        Self::Down,
        Self::Connected,
        Self::GaveUp,
        Self::Silent,
        Self::Resumed,
        Self::RefusedFilter,
        Self::StrayAck,
        Self::Throttled,
        Self::Misbehaved,
        Self::Awaited,
        Self::Arrived,
    ];
}

/// Texts of what went wrong, and how often. Texts come from outside, so their number and length are
/// bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reasons(BTreeMap<String, u64>);

impl Reasons {
    const MOST: usize = 20;
    const LONGEST: usize = 200;
    /// What is counted for those that are too many.
    const OTHER: &'static str = "other";

    pub fn count(&mut self, reason: &str, times: u64) {
        let end = reason.floor_char_boundary(Self::LONGEST);
        let reason = &reason[..end];
        if let Some(count) = self.0.get_mut(reason) {
            *count += times;
            return;
        }
        let known = self.0.len() - usize::from(self.0.contains_key(Self::OTHER));
        let reason = if known < Self::MOST { reason } else { Self::OTHER };
        *self.0.entry(reason.to_owned()).or_default() += times;
    }

    pub fn add(&mut self, other: &Self) {
        for (reason, times) in &other.0 {
            self.count(reason, *times);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(reason, times)| (reason.as_str(), *times))
    }

    pub fn all(&self) -> u64 {
        self.0.values().sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub started: u64,
    pub done: u64,
    pub failed: u64,
}

/// All counters since the start of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    ops: [Count; Op::ALL.len()],
    events: [u64; Event::COUNT],
}

impl Totals {
    pub fn of<'a>(tallies: impl IntoIterator<Item = &'a Tally>) -> Self {
        let mut sum = Self::default();
        for tally in tallies {
            let tally = tally.lock();
            sum.add(&tally.before);
            sum.add(&tally.now);
        }
        sum
    }

    pub fn op(&self, op: Op) -> Count {
        self.ops[op as usize]
    }

    pub fn event(&self, event: Event) -> u64 {
        self.events[event as usize]
    }

    /// Messages that are on their way.
    pub fn open(&self) -> u64 {
        let whole = Op::ALL.into_iter().filter(|op| op.is_whole()).map(|op| self.op(op));
        whole.map(|count| count.started.saturating_sub(count.done + count.failed)).sum()
    }

    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.ops.iter_mut().zip(&other.ops) {
            mine.started += theirs.started;
            mine.done += theirs.done;
            mine.failed += theirs.failed;
        }
        for (mine, theirs) in self.events.iter_mut().zip(&other.events) {
            *mine += theirs;
        }
    }
}

/// What one client thread counts. Only the look once a second contends for its lock.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Up to the last cut, and since.
    before: Totals,
    now: Totals,
    /// Since the last cut; made when first used.
    times: [Option<Times>; Op::ALL.len()],
    failed: [Reasons; Op::ALL.len()],
    lost: Reasons,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Counters are whole whatever happened to the thread that counted.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn started(&self, op: Op, count: u64) {
        self.lock().now.ops[op as usize].started += count;
    }

    /// An operation that ended well. `latency` counts from when it was due, not from when it was
    /// sent: what a slow hub holds up in the client counts as well.
    pub fn done(&self, op: Op, latency: Duration) {
        let mut inner = self.lock();
        inner.now.ops[op as usize].done += 1;
        inner.times[op as usize].get_or_insert_default().record(latency);
    }

    pub fn failed(&self, op: Op, reason: &str) {
        let mut inner = self.lock();
        inner.now.ops[op as usize].failed += 1;
        inner.failed[op as usize].count(reason, 1);
    }

    pub fn count(&self, event: Event, times: u64) {
        self.lock().now.events[event as usize] += times;
    }

    /// A connection that ended before its time.
    pub fn lost(&self, reason: &str) {
        let mut inner = self.lock();
        inner.now.events[Event::Down as usize] += 1;
        inner.lost.count(reason, 1);
    }

    /// What happened since the last cut.
    pub fn cut(&self) -> Slice {
        let mut inner = self.lock();
        let now = std::mem::take(&mut inner.now);
        inner.before.add(&now);
        let mut slice = Slice { lost: std::mem::take(&mut inner.lost), ..Slice::default() };
        for op in Op::ALL {
            let Count { started, done, .. } = now.op(op);
            let failed = std::mem::take(&mut inner.failed[op as usize]);
            if started > 0 || done > 0 || !failed.is_empty() {
                let times = inner.times[op as usize].as_mut();
                let latencies = times.map(Times::take).unwrap_or_default();
                slice.ops.insert(op, Work { started, done, failed, latencies });
            }
        }
        let events = Event::ALL.into_iter().map(|event| (event, now.event(event)));
        slice.events = events.filter(|(_, times)| *times > 0).collect();
        slice
    }
}

/// What was counted and timed between two looks. Everything in it adds up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ops: BTreeMap<Op, Work>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub events: BTreeMap<Event, u64>,
    #[serde(default, skip_serializing_if = "Reasons::is_empty")]
    pub lost: Reasons,
}

/// Operations of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    pub started: u64,
    pub done: u64,
    #[serde(default, skip_serializing_if = "Reasons::is_empty")]
    pub failed: Reasons,
    #[serde(default, skip_serializing_if = "Latencies::is_empty")]
    pub latencies: Latencies,
}

impl Slice {
    pub fn add(&mut self, other: &Self) {
        for (op, theirs) in &other.ops {
            let mine = self.ops.entry(*op).or_default();
            mine.started += theirs.started;
            mine.done += theirs.done;
            mine.failed.add(&theirs.failed);
            mine.latencies.add(&theirs.latencies);
        }
        for (event, times) in &other.events {
            *self.events.entry(*event).or_default() += times;
        }
        self.lost.add(&other.lost);
    }

    pub fn event(&self, event: Event) -> u64 {
        self.events.get(&event).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_in_the_order_of_their_enums() {
        for (index, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, index);
        }
        for (index, event) in Event::ALL.into_iter().enumerate() {
            assert_eq!(event as usize, index);
        }
    }

    #[test]
    fn cuts_add_up_to_the_whole_over_threads_and_a_pipe() -> anyhow::Result<()> {
        let tallies = [Tally::default(), Tally::default()];
        let mut all = Slice::default();
        for round in 1..=3 {
            for tally in &tallies {
                tally.started(Op::Telemetry, 2);
                tally.done(Op::Telemetry, Duration::from_millis(5));
                tally.failed(Op::Telemetry, "timed out");
                tally.count(Event::Up, 1);
                tally.lost("reset");
                let line = serde_json::to_string(&tally.cut())?;
                assert!(!line.contains('\n'));
                all.add(&serde_json::from_str(&line)?);
                assert_eq!(tally.cut(), Slice::default(), "a cut leaves nothing behind");
            }
            let totals = Totals::of(&tallies);
            let count = Count { started: 4 * round, done: 2 * round, failed: 2 * round };
            assert_eq!(totals.op(Op::Telemetry), count);
            assert_eq!(totals.open(), 0);
            assert_eq!(totals.event(Event::Down), 2 * round);
        }
        let telemetry = &all.ops[&Op::Telemetry];
        assert_eq!((telemetry.started, telemetry.done), (12, 6));
        assert_eq!(telemetry.latencies.count(), 6);
        assert_eq!(telemetry.failed.iter().collect::<Vec<_>>(), [("timed out", 6)]);
        assert_eq!((all.event(Event::Up), all.event(Event::Down)), (6, 6));
        assert_eq!(all.lost.iter().collect::<Vec<_>>(), [("reset", 6)]);
        Ok(())
    }

    #[test]
    fn texts_from_outside_are_bounded() {
        let mut reasons = Reasons::default();
        for number in 0..1_000 {
            reasons.count(&format!("{number} {}", "ä".repeat(500)), 1);
        }
        let mut twice = reasons.clone();
        twice.add(&reasons);
        for (reasons, all) in [(reasons, 1_000), (twice, 2_000)] {
            assert_eq!(reasons.iter().count(), Reasons::MOST + 1);
            assert!(reasons.iter().all(|(reason, _)| reason.len() <= Reasons::LONGEST));
            assert_eq!(reasons.iter().map(|(_, times)| times).sum::<u64>(), all);
            assert_eq!(reasons.0["other"], all - all / 1_000 * 20);
        }
    }
}
