//! What all metrics have in common: latencies are in seconds and fall into the same buckets, so that
//! one can be laid over another (docs/observability.md lists them all).

use std::hash::Hash;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
/// What a role or a part of it tells; a process shows those of all its parts as one.
pub use prometheus_client::registry::Registry;

/// Seconds: from an embedded store's read to a method that waits for its device.
const BUCKETS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

pub fn latency() -> Histogram {
    Histogram::new(BUCKETS)
}

/// Latencies by labels.
pub type Latencies<L> = Family<L, Histogram, fn() -> Histogram>;

pub fn latencies<L: Clone + Eq + Hash>() -> Latencies<L> {
    Family::new_with_constructor(latency)
}
