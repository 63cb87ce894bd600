//! What a run came to, as text for a person and as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::args::{Rate, Run, Work};
use crate::fleet::Plan;
use crate::outcome::{Stats, Times, Totals};
use crate::process::Memory;

#[derive(Debug, Serialize)]
pub struct Report {
    /// `hub` or `broker`.
    pub target: &'static str,
    pub work: Work,
    pub devices: usize,
    pub window: u16,
    pub size: usize,
    pub connected: u64,
    pub failed: BTreeMap<String, u64>,
    pub lost: BTreeMap<String, u64>,
    /// Subscriptions that were not granted.
    pub filters_refused: u64,
    pub sent: u64,
    pub acked: u64,
    /// Sent and not acknowledged, half a minute after the last was sent.
    pub unacknowledged: u64,
    /// Acknowledgements of nothing that was on its way.
    pub stray_acks: u64,
    pub connecting: Connecting,
    pub connect_ms: Latency,
    pub bursts: Option<Bursts>,
    pub burst_ms: Option<Latency>,
    pub publishing: Option<Publishing>,
    pub publish_ms: Option<Latency>,
    pub silence: Option<Silence>,
    pub memory: Vec<Sample>,
}

#[derive(Debug, Serialize)]
pub struct Connecting {
    pub connect_seconds: f64,
    pub connects_per_s: f64,
    pub client_cpu_us_per_connect: f64,
    pub server_cpu_us_per_connect: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct Bursts {
    pub burst_rounds: u32,
    /// Of each round: until everyone had its PUBACK.
    pub burst_seconds: Vec<f64>,
}

/// Of the seconds that are measured only.
#[derive(Debug, Serialize)]
pub struct Publishing {
    pub measured_seconds: f64,
    pub measured_acked: u64,
    pub messages_per_s: f64,
    pub client_cpu_us_per_message: f64,
    pub server_cpu_us_per_message: Option<f64>,
    pub server_user_us_per_message: Option<f64>,
    pub server_system_us_per_message: Option<f64>,
    pub server_cpu_cores: Option<f64>,
    /// Context switches of all its threads per thousand messages.
    pub server_switches_per_1000: Option<f64>,
}

/// Of the seconds in which devices only stay connected.
#[derive(Debug, Serialize)]
pub struct Silence {
    pub silence_seconds: f64,
    /// Of one processor.
    pub silence_server_cpu_percent: f64,
}

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
    fn of(times: &Times) -> Self {
        let at = |percentile| times.percentile(percentile);
        Self { p50: at(50.0), p90: at(90.0), p99: at(99.0), p999: at(99.9), max: times.max() }
    }
}

/// Memory of the watched process at one moment.
#[derive(Debug, Serialize)]
pub struct Sample {
    pub at: &'static str,
    #[serde(flatten)]
    pub memory: Memory,
    /// Bytes more than in the first sample, for each connection.
    pub rss_per_connection: Option<f64>,
    /// The same of the kernel's slabs: of both ends of the connection, if both are here.
    pub slab_per_connection: Option<f64>,
    /// How long it took to stop moving; none: it had not, or was not waited for.
    pub settled_after: Option<f64>,
}

impl Sample {
    pub fn new(
        at: &'static str,
        memory: Memory,
        base: Memory,
        connections: u64,
        settled_after: Option<f64>,
    ) -> Self {
        let each = |now: u64, before: u64| {
            let bytes = (now as f64 - before as f64) * 1024.0;
            (connections > 0).then(|| bytes / connections as f64)
        };
        Self {
            at,
            rss_per_connection: each(memory.rss, base.rss),
            slab_per_connection: each(memory.slab, base.slab),
            memory,
            settled_after,
        }
    }
}

/// The parts of a run.
pub struct Parts {
    pub totals: Totals,
    pub stats: Stats,
    pub connecting: Connecting,
    pub bursts: Option<Bursts>,
    pub publishing: Option<Publishing>,
    pub silence: Option<Silence>,
    pub memory: Vec<Sample>,
}

impl Report {
    pub fn new(run: &Run, plan: &Plan, parts: Parts) -> Self {
        let Parts { totals, stats, connecting, bursts, publishing, silence, memory } = parts;
        Self {
            target: if plan.target.hub.is_some() { "hub" } else { "broker" },
            work: run.work,
            devices: run.devices,
            window: run.window,
            size: run.size,
            connected: totals.connected,
            filters_refused: stats.filters_refused,
            sent: totals.sent,
            acked: totals.acked,
            unacknowledged: totals.sent - totals.acked,
            stray_acks: stats.stray_acks,
            connect_ms: Latency::of(&stats.connect),
            burst_ms: (stats.burst.count() > 0).then(|| Latency::of(&stats.burst)),
            publish_ms: (stats.publish.count() > 0).then(|| Latency::of(&stats.publish)),
            failed: stats.failed,
            lost: stats.lost,
            connecting,
            bursts,
            publishing,
            silence,
            memory,
        }
    }

    /// Every device connected, got what it subscribed to and stayed; every message was acknowledged,
    /// once.
    pub fn is_clean(&self) -> bool {
        self.connected == self.devices as u64
            && self.filters_refused == 0
            && self.lost.is_empty()
            && self.unacknowledged == 0
            && self.stray_acks == 0
    }

    /// Text on standard output; JSON to `json`, or instead of the text if that is `-`.
    pub fn write(&self, json: Option<&Path>, rate: Option<Rate>) -> Result<()> {
        let mut out = io::stdout().lock();
        let Some(path) = json else {
            self.text(&mut out, rate)?;
            return Ok(());
        };
        let object = serde_json::to_string_pretty(self)?;
        if path == Path::new("-") {
            writeln!(out, "{object}")?;
            return Ok(());
        }
        self.text(&mut out, rate)?;
        std::fs::write(path, object + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_per_connection() {
        let base = Memory { rss: 1_000, slab: 500, ..Memory::default() };
        let later = Memory { rss: 2_000, slab: 400, ..Memory::default() };
        let sample = Sample::new("x", later, base, 100, None);
        assert_eq!(sample.rss_per_connection, Some(10_240.0));
        assert_eq!(sample.slab_per_connection, Some(-1_024.0));
        assert_eq!(Sample::new("x", later, base, 0, None).rss_per_connection, None);
    }
}
