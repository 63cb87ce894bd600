//! What devices count while they run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Counters of one client thread, read from outside while it runs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    pub connected: AtomicU64,
    pub failed: AtomicU64,
    /// Connections that ended before their time.
    pub lost: AtomicU64,
    pub sent: AtomicU64,
    pub acked: AtomicU64,
}

/// The sum of all threads' counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub connected: u64,
    pub failed: u64,
    pub lost: u64,
    pub sent: u64,
    pub acked: u64,
}

impl Totals {
    pub fn of<'a>(counters: impl Iterator<Item = &'a Counters>) -> Self {
        counters.fold(Self::default(), |sum, one| Self {
            connected: sum.connected + one.connected.load(Ordering::Relaxed),
            failed: sum.failed + one.failed.load(Ordering::Relaxed),
            lost: sum.lost + one.lost.load(Ordering::Relaxed),
            sent: sum.sent + one.sent.load(Ordering::Relaxed),
            acked: sum.acked + one.acked.load(Ordering::Relaxed),
        })
    }
}

/// Everything else of one client thread, handed over at its end.
#[derive(Debug)]
pub struct Stats {
    /// From dialling to the last answer that a device waits for before it is ready.
    pub connect: Times,
    /// From when a message was due to its acknowledgement.
    pub publish: Times,
    /// The same, in bursts.
    pub burst: Times,
    pub failed: BTreeMap<String, u64>,
    pub lost: BTreeMap<String, u64>,
    pub filters_refused: u64,
    pub stray_acks: u64,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            connect: Times::new(),
            publish: Times::new(),
            burst: Times::new(),
            failed: BTreeMap::new(),
            lost: BTreeMap::new(),
            filters_refused: 0,
            stray_acks: 0,
        }
    }
}

impl Stats {
    pub fn add(&mut self, other: &Self) {
        self.connect.add(&other.connect);
        self.publish.add(&other.publish);
        self.burst.add(&other.burst);
        for (mine, theirs) in [(&mut self.failed, &other.failed), (&mut self.lost, &other.lost)] {
            for (reason, count) in theirs {
                *mine.entry(reason.clone()).or_default() += count;
            }
        }
        self.filters_refused += other.filters_refused;
        self.stray_acks += other.stray_acks;
    }
}

/// Durations in microseconds, up to two minutes, to three digits.
#[derive(Clone, Debug)]
pub struct Times(Histogram<u64>);

const LONGEST: u64 = 120_000_000;

impl Times {
    fn new() -> Self {
        Self(Histogram::new_with_max(LONGEST, 3).expect("the bounds are valid"))
    }

    pub fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(LONGEST));
    }

    fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// In milliseconds.
    pub fn percentile(&self, percentile: f64) -> f64 {
        self.0.value_at_percentile(percentile) as f64 / 1000.0
    }

    /// In milliseconds.
    pub fn max(&self) -> f64 {
        self.0.max() as f64 / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_added_up() {
        let mut all = Stats::default();
        let mut one = Stats::default();
        one.publish.record(Duration::from_millis(5));
        one.publish.record(Duration::from_secs(3600));
        one.failed.insert("CONNACK 5".into(), 2);
        all.add(&one);
        all.add(&one);
        assert_eq!(all.publish.count(), 4);
        assert!((4.99..5.01).contains(&all.publish.percentile(50.0)));
        assert!(all.publish.max() >= 119_000.0);
        assert_eq!(all.failed["CONNACK 5"], 4);
        let counters = [Counters::default(), Counters::default()];
        counters[1].acked.store(3, Ordering::Relaxed);
        assert_eq!(Totals::of(counters.iter()).acked, 3);
    }
}
