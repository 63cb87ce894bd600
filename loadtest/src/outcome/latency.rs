//! Latencies: a dense histogram where they are measured, a sparse one where they are kept and sent.

use std::cmp::Ordering;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// Microseconds; what took longer counts as this.
const LONGEST: u64 = 120_000_000;
/// To three digits.
const DIGITS: u8 = 3;

/// Of one thread, since the last look: 150 KB whatever it holds.
#[derive(Debug)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_max(LONGEST, DIGITS).expect("the bounds are valid"))
    }
}

impl Times {
    pub fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(LONGEST));
    }

    /// What was recorded; nothing is left.
    pub fn take(&mut self) -> Latencies {
        let recorded = self.0.iter_recorded();
        let pairs = recorded.map(|at| (at.value_iterated_to(), at.count_at_value())).collect();
        self.0.reset();
        Latencies(pairs)
    }
}

/// A histogram as the values that occurred (microseconds, each the upper end of a class of the
/// dense one) and how often: small where few did, and nothing of the dense one is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latencies(Vec<(u64, u64)>);

impl Latencies {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn count(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    pub fn add(&mut self, other: &Self) {
        if other.is_empty() {
            return;
        }
        let mut sum = Vec::with_capacity(self.0.len() + other.0.len());
        let (mut mine, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            let order = match (mine.peek(), theirs.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(mine), Some(theirs)) => mine.0.cmp(&theirs.0),
            };
            let left = if order.is_le() { mine.next() } else { None };
            let right = if order.is_ge() { theirs.next() } else { None };
            let count = [left, right].into_iter().flatten().map(|pair| pair.1).sum();
            sum.extend(left.or(right).map(|pair| (pair.0, count)));
        }
        self.0 = sum;
    }

    /// Milliseconds at each of the percentiles, which ascend.
    pub fn at<const N: usize>(&self, percentiles: [f64; N]) -> [f64; N] {
        let all = self.count() as f64;
        let (mut pairs, mut below, mut last) = (self.0.iter(), 0, 0);
        percentiles.map(|percentile| {
            // As HdrHistogram counts: the value that so many are at or below, at least one.
            let wanted = (percentile / 100.0 * all).ceil().max(1.0) as u64;
            while below < wanted {
                let Some((value, count)) = pairs.next() else { break };
                (last, below) = (*value, below + count);
            }
            last as f64 / 1_000.0
        })
    }
}

/// What comes over a pipe: values ascend, and none is beyond the bounds.
impl<'de> Deserialize<'de> for Latencies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = Vec::<(u64, u64)>::deserialize(deserializer)?;
        // The class of the longest ends a little above it.
        let bounded = pairs.iter().all(|(value, _)| *value <= LONGEST * 2);
        if !bounded || !pairs.is_sorted_by(|one, next| one.0 < next.0) {
            return Err(D::Error::custom("latencies do not ascend, or are out of bounds"));
        }
        Ok(Self(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERCENTILES: [f64; 6] = [0.0, 50.0, 90.0, 99.0, 99.9, 100.0];

    fn of(micros: impl Iterator<Item = u64>) -> (Latencies, Histogram<u64>) {
        let mut times = Times::default();
        micros.for_each(|micros| times.record(Duration::from_micros(micros)));
        let dense = times.0.clone();
        (times.take(), dense)
    }

    fn check(sparse: &Latencies, dense: &Histogram<u64>) {
        assert_eq!(sparse.count(), dense.len());
        let want = PERCENTILES.map(|at| dense.value_at_percentile(at) as f64 / 1_000.0);
        assert_eq!(sparse.at(PERCENTILES), want);
    }

    #[test]
    fn a_sparse_histogram_says_what_the_dense_one_says() {
        check(&of(std::iter::empty()).0, &of(std::iter::empty()).1);
        check(&of([7].into_iter()).0, &of([7].into_iter()).1);
        let (mut one, mut dense) = of((1..5_000).map(|n| n * n));
        check(&one, &dense);
        let (other, more) = of((1..100).map(|n| n * 1_234_567));
        one.add(&other);
        dense.add(&more).expect("both have the same bounds");
        check(&one, &dense);
    }

    #[test]
    fn too_long_counts_as_the_longest() {
        let (sparse, _) = of([u64::MAX, 1].into_iter());
        assert!(sparse.at([100.0])[0] >= 120_000.0);
        assert_eq!(sparse.count(), 2);
    }

    #[test]
    fn a_line_from_a_pipe_is_looked_at() {
        for bad in ["[[5,1],[5,1]]", "[[6,1],[5,1]]", "[[999999999999,1]]", "[[-1,1]]", "{}"] {
            assert!(serde_json::from_str::<Latencies>(bad).is_err(), "{bad}");
        }
        let (sparse, _) = of((1..50).map(|n| n * 997).chain([LONGEST * 3]));
        let line = serde_json::to_string(&sparse).expect("it is serialised");
        assert_eq!(serde_json::from_str::<Latencies>(&line).expect("it is read"), sparse);
    }
}
