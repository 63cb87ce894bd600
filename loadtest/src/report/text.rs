//! A report as text for a person.

use std::io::{self, Write};

use super::{Connecting, Latency, Operation, Publishing, Report, Sample, Silence};
use crate::outcome::{Op, Reasons};
use crate::process::Memory;

impl Report {
    pub fn text(&self, out: &mut impl Write) -> io::Result<()> {
        let (head, connected) = (&self.head, self.connected);
        writeln!(out, "connected {connected} of {} to the {}", head.devices, head.target)?;
        if let Some(Connecting {
            connect_seconds,
            connects_per_s,
            client_cpu_us_per_connect: client,
            server_cpu_us_per_connect: server,
        }) = self.connecting
        {
            writeln!(
                out,
                "  in {connect_seconds:.2} s, {connects_per_s:.0}/s; processor time each: client \
                 {client:.0} us{}",
                or_nothing(server, |us| format!(", server {us:.0} us"))
            )?;
        }
        for (op, operation) in &self.ops {
            operation.text(out, *op == Op::Connect)?;
        }
        reasons(out, "lost", &self.lost)?;
        if self.filters_refused > 0 {
            writeln!(out, "  subscriptions not granted: {}", self.filters_refused)?;
        }
        if let Some(bursts) = &self.bursts {
            let seconds: Vec<_> =
                bursts.burst_seconds.iter().map(|seconds| format!("{seconds:.2}")).collect();
            writeln!(out, "bursts of one message each: {} s", seconds.join(", "))?;
        }
        if let Some(publishing) = &self.publishing {
            publishing.text(out)?;
        }
        if let Some(Silence { silence_seconds, silence_server_cpu_percent }) = &self.silence {
            writeln!(
                out,
                "silent for {silence_seconds:.0} s: server {silence_server_cpu_percent:.2} % of a \
                 processor"
            )?;
        }
        let (sent, acked, stray) = (self.sent, self.acked, self.stray_acks);
        if sent > 0 {
            let without = self.unacknowledged;
            writeln!(out, "sent {sent} acked {acked} unacknowledged {without} stray {stray}")?;
        }
        if let Some(drained) = self.drained {
            writeln!(out, "history {}", drained.text())?;
        }
        memory(out, &self.memory)
    }
}

impl Operation {
    fn text(&self, out: &mut impl Write, connecting: bool) -> io::Result<()> {
        if !connecting {
            writeln!(out, "{}: {} of {} done", self.name, self.done, self.started)?;
        }
        if let Some(Latency { p50, p90, p99, p999, max }) = self.ms {
            writeln!(
                out,
                "  ms: p50 {p50:.2}, p90 {p90:.2}, p99 {p99:.2}, p99.9 {p999:.2}, max {max:.2}"
            )?;
        }
        reasons(out, "failed", &self.failed)
    }
}

impl Publishing {
    fn text(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "measured {} in {:.1} s: {:.0}/s",
            self.measured_acked, self.measured_seconds, self.messages_per_s
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

fn reasons(out: &mut impl Write, what: &str, reasons: &Reasons) -> io::Result<()> {
    for (reason, count) in reasons.iter() {
        writeln!(out, "  {what} {count}: {}", harmless(reason))?;
    }
    Ok(())
}

/// Text from outside, without what moves a terminal's cursor.
pub fn harmless(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn or_nothing(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map(show).unwrap_or_default()
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
