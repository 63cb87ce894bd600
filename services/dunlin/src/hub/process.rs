//! Metrics of the process, under the names every Prometheus client gives them.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Linux reports times to programs in hundredths of a second, whatever its own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Read from `/proc` when asked; what cannot be read is left out.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut put =
            |name: &str, help: &str, metric: &dyn Metric| metric.put(&mut encoder, name, help);
        if let Some(bytes) = resident_bytes() {
            put("process_resident_memory_bytes", "Resident memory", &ConstGauge::new(bytes))?;
        }
        if let Some(seconds) = cpu_seconds() {
            put("process_cpu_seconds", "User and system CPU time", &ConstCounter::new(seconds))?;
        }
        if let Some(count) = open_descriptors() {
            put("process_open_fds", "Open file descriptors", &ConstGauge::new(count))?;
        }
        if let Some(seconds) = start_seconds() {
            put(
                "process_start_time_seconds",
                "When the process started, Unix seconds",
                &ConstGauge::new(seconds),
            )?;
        }
        Ok(())
    }
}

/// Gauges and counters of any number.
trait Metric {
    fn put(&self, to: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result;
}

impl<M: EncodeMetric> Metric for M {
    fn put(&self, to: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result {
        self.encode(to.encode_descriptor(name, help, None, self.metric_type())?)
    }
}

fn resident_bytes() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1_024)
}

fn cpu_seconds() -> Option<f64> {
    Some((stat(14)? + stat(15)?) / TICKS_PER_SECOND)
}

fn open_descriptors() -> Option<i64> {
    // Less the one that lists them.
    let count = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    i64::try_from(count).ok()
}

fn start_seconds() -> Option<f64> {
    let kernel = fs::read_to_string("/proc/stat").ok()?;
    let boot = kernel.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<f64>().ok()? + stat(22)? / TICKS_PER_SECOND)
}

/// A field of `/proc/self/stat`, counted as in proc(5), from 3 on: the name before may hold spaces.
fn stat(field: usize) -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = text.rsplit_once(')')?;
    after_name.split_whitespace().nth(field.checked_sub(3)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        let mut text = String::new();
        encode(&mut text, &registry).expect("text");
        for name in [
            "process_resident_memory_bytes ",
            "process_cpu_seconds_total ",
            "process_open_fds ",
            "process_start_time_seconds ",
        ] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name}: {text}");
        }
        let started = start_seconds().expect("a time");
        let now = jiff::Timestamp::now().as_second() as f64;
        assert!((0.0..3_600.0).contains(&(now - started + 2.0)), "{started} {now}");
    }
}
