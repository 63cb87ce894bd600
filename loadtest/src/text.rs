//! A report as text for a person.

use std::io::{self, Write};

use crate::args::{Rate, Work};
use crate::process::Memory;
use crate::report::{Connecting, Latency, Publishing, Report, Sample, Silence};

impl Report {
    pub fn text(&self, out: &mut impl Write, rate: Option<Rate>) -> io::Result<()> {
        let Connecting { connect_seconds, connects_per_s, .. } = self.connecting;
        let connected = self.connected;
        writeln!(out, "connected {connected} of {} to the {}", self.devices, self.target)?;
        writeln!(
            out,
            "  in {connect_seconds:.2} s, {connects_per_s:.0}/s; processor time each: client {:.0} us{}",
            self.connecting.client_cpu_us_per_connect,
            or_nothing(self.connecting.server_cpu_us_per_connect, |us| format!(
                ", server {us:.0} us"
            ))
        )?;
        latency(out, &self.connect_ms)?;
        for (what, reasons) in [("failed", &self.failed), ("lost", &self.lost)] {
            for (reason, count) in reasons {
                writeln!(out, "  {what} {count}: {reason}")?;
            }
        }
        if self.filters_refused > 0 {
            writeln!(out, "  subscriptions not granted: {}", self.filters_refused)?;
        }
        if let (Some(bursts), Some(burst_ms)) = (&self.bursts, &self.burst_ms) {
            let seconds: Vec<_> =
                bursts.burst_seconds.iter().map(|seconds| format!("{seconds:.2}")).collect();
            writeln!(out, "bursts of one message each: {} s", seconds.join(", "))?;
            latency(out, burst_ms)?;
        }
        if let Some(publishing) = &self.publishing {
            publishing.text(out, self, rate)?;
        }
        if let Some(Silence { silence_seconds, silence_server_cpu_percent }) = &self.silence {
            writeln!(
                out,
                "silent for {silence_seconds:.0} s: server {silence_server_cpu_percent:.2} % of a \
                 processor"
            )?;
        }
        if let Some(publish_ms) = &self.publish_ms {
            latency(out, publish_ms)?;
        }
        let (sent, acked, stray) = (self.sent, self.acked, self.stray_acks);
        if sent > 0 {
            let without = self.unacknowledged;
            writeln!(out, "sent {sent} acked {acked} unacknowledged {without} stray {stray}")?;
        }
        memory(out, &self.memory)
    }
}

impl Publishing {
    fn text(&self, out: &mut impl Write, run: &Report, rate: Option<Rate>) -> io::Result<()> {
        let pace = match rate {
            Some(Rate::PerSecond(rate)) => format!("{rate} a second asked for"),
            _ => format!("window {}", run.window),
        };
        let did = match run.work {
            Work::Publish => "published",
            Work::Report => "reported",
            Work::Call => "called",
            Work::C2d => "sent to devices",
        };
        writeln!(
            out,
            "{did} {}, {} bytes each, in {:.1} s, {pace}: {:.0}/s",
            self.measured_acked, run.size, self.measured_seconds, self.messages_per_s
        )?;
        write!(out, "  processor time each: client {:.2} us", self.client_cpu_us_per_message)?;
        if let (Some(all), Some(user), Some(system), Some(cores), Some(switches)) = (
            self.server_cpu_us_per_message,
            self.server_user_us_per_message,
            self.server_system_us_per_message,
            self.server_cpu_cores,
            self.server_switches_per_1000,
        ) {
            write!(
                out,
                ", server {all:.2} us ({user:.2} user, {system:.2} system, {cores:.2} cores, \
                 {switches:.1} switches per 1000)"
            )?;
        }
        writeln!(out)
    }
}

fn or_nothing(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map(show).unwrap_or_default()
}

fn latency(out: &mut impl Write, latency: &Latency) -> io::Result<()> {
    let Latency { p50, p90, p99, p999, max } = latency;
    writeln!(out, "  ms: p50 {p50:.2}, p90 {p90:.2}, p99 {p99:.2}, p99.9 {p999:.2}, max {max:.2}")
}

fn memory(out: &mut impl Write, samples: &[Sample]) -> io::Result<()> {
    if samples.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "{:<22} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10}  settled",
        "memory, KiB", "RSS", "anonymous", "slab", "tcp bufs", "RSS B/c", "slab B/c"
    )?;
    for sample in samples {
        let Memory { rss, anonymous, slab, tcp_buffers, .. } = sample.memory;
        writeln!(
            out,
            "{:<22} {rss:>9} {anonymous:>9} {slab:>9} {tcp_buffers:>9} {:>9} {:>10}  {}",
            sample.at,
            or_nothing(sample.rss_per_connection, |bytes| format!("{bytes:.0}")),
            or_nothing(sample.slab_per_connection, |bytes| format!("{bytes:.0}")),
            or_nothing(sample.settled_after, |seconds| format!("after {seconds:.0} s")),
        )?;
    }
    Ok(())
}
