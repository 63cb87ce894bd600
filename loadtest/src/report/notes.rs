//! What a reader of a report must know to read it right.

use super::Report;
use crate::outcome::{Event, Op};

/// Of the processors of a machine: above it, latencies may be the machine's.
const BUSY: f64 = 0.8;

pub fn of(report: &Report) -> Vec<String> {
    let mut notes = vec![
        "Latencies count from when an operation was due by its schedule, not from when it was sent: \
         a stall counts for everything it held up (no coordinated omission). Without a schedule \
         (rate “max”) an operation is due when the one before it has ended, and what a stall keeps \
         from being sent is not seen."
            .to_owned(),
    ];
    let timed: u64 = report.ops.values().map(|op| op.timed).sum();
    let failed: u64 = report.ops.values().map(|op| op.failed.all()).sum();
    let connect = report.ops.get(&Op::Connect).map_or(0, |op| op.failed.all());
    let mut note = format!(
        "Percentiles count the {timed} operations that ended well, outside of a warm-up, to three \
         digits and up to 120 s."
    );
    let unanswered = report.unacknowledged.saturating_sub(failed - connect);
    if failed + unanswered > 0 {
        note += &format!(
            " {failed} that failed and {unanswered} that were never answered have no latency."
        );
    }
    notes.push(note);
    if report.series.width > 1 {
        notes.push(format!(
            "The run was long: a point of a plot over time is {} s, with the percentiles of all of \
             them.",
            report.series.width
        ));
    }
    notes.push(tls(report));
    notes.extend(machine(report));
    notes
}

fn tls(report: &Report) -> String {
    let event = |event| report.events.get(&event).copied().unwrap_or(0);
    if !report.head.tls {
        return "Connections are not encrypted: TLS costs a hub more for each of them.".into();
    }
    let mut note = "Every connection is TLS, certificate checked".to_owned();
    match event(Event::Resumed) {
        0 => note += "; each handshake is a full one.",
        resumed => note += &format!("; {resumed} handshakes resumed a session."),
    }
    match event(Event::Silent) {
        0 => {}
        silent => {
            note += &format!(
                " {silent} devices of {} dropped their TLS state once connected, so that one costs \
                 the simulator next to nothing: they keep their socket, but can neither send nor \
                 ping, and their keep-alive is 1,170 s.",
                report.head.devices
            );
        }
    }
    note
}

/// About who shares the processors.
fn machine(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    let processes = &report.series.processes;
    if processes.len() == 1 {
        notes.push(
            "No process of the server was watched: --watch PID or --watch NAME shows what it uses, if it \
             runs on this machine."
                .to_owned(),
        );
    }
    for process in processes {
        if process.rss_kib.contains(&None) {
            notes.push(format!("{} was not there all the time.", process.name));
        }
    }
    let busy = &report.series.machine_percent;
    let mean = busy.iter().sum::<f64>() / busy.len().max(1) as f64 / 100.0;
    let processors = report.place.processors;
    if mean > BUSY * processors as f64 {
        notes.push(format!(
            "{mean:.1} of the machine's {processors} processors were busy on average, with whatever \
             runs on it: latencies and rates are the machine's then, not the hub's."
        ));
    }
    notes
}
