//! 100,000 devices from a data folder to Postgres, and back: how long `dunlin export` and `dunlin
//! import` take, and what memory.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::peers::hub;
use super::registry::{Api, DEVICES, fill};
use super::{Bench, Options, median};
use crate::Result;
use crate::process::output;
use crate::servers::Servers;

const ROUNDS: u32 = 3;
/// Between two looks at the memory of a process; Linux keeps its peak.
const LOOK: Duration = Duration::from_millis(2);

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    let servers = Servers::start()?;
    let devices = options.devices.unwrap_or(DEVICES);
    let full = bench.folder.join("full");
    let filled = hub(bench, &full, None)?;
    fill(bench, &Api::new(&filled.login, &full)?, devices)?;
    filled.server.stop()?;
    let ways = ["folder to file", "file to folder", "file to Postgres", "Postgres to file"];
    let mut took = ways.map(|way| (way, Vec::new(), Vec::new()));
    for round in 0..options.rounds.unwrap_or(ROUNDS) {
        let at = |name: &str| bench.folder.join(format!("{name}-{round}"));
        let (file, back, folder, there) = (at("file"), at("back"), at("folder"), at("there"));
        for folder in [&folder, &there] {
            let script = "mkdir \"$1\" && cp \"$0/master.key\" \"$1\"";
            output(Command::new("sh").args(["-c", script]).args([&full, folder]))?;
        }
        let schema = format!("bench_{}_{round}", std::process::id());
        let mut make = Command::new("sh");
        servers.show(&mut make);
        let script = "psql -q -c \"CREATE SCHEMA $0\" \"$DUNLIN_TEST_POSTGRES\"";
        output(make.args(["-c", script, &schema]))?;
        let on_postgres = |what: &str, data: &Path, flag: &str, file: &Path| {
            let mut command = Command::new("sh");
            servers.show(&mut command);
            let url = format!("$DUNLIN_TEST_POSTGRES?options=-c%20search_path%3D{schema}");
            let script = format!("DUNLIN__STORES__DEVICES=\"{url}\" exec \"$0\" \"$@\"");
            command.args(["-c", &script]).arg(bench.hub_binary()).arg(what);
            command.arg("--data").arg(data).arg(flag).arg(file);
            command
        };
        let embedded = |what: &str, data: &Path, flag: &str, file: &Path| {
            let mut command = Command::new(bench.hub_binary());
            command.arg(what).arg("--data").arg(data).arg(flag).arg(file);
            command
        };
        let commands = [
            embedded("export", &full, "--output", &file),
            embedded("import", &folder, "--input", &file),
            on_postgres("import", &there, "--input", &file),
            on_postgres("export", &there, "--output", &back),
        ];
        for ((_, times, peaks), mut command) in took.iter_mut().zip(commands) {
            let (seconds, peak) = measured(&mut command)?;
            times.push(seconds);
            peaks.push(peak);
        }
        output(Command::new("cmp").args([&file, &back]))?;
        if round == 0 {
            let bytes = fs::metadata(&file).map_or(0, |file| file.len());
            println!(
                "{devices} devices, {:.1} MB; there and back it is the same",
                bytes as f64 / 1e6
            );
        }
    }
    println!("{:<18} {:>9} {:>12}", "way", "median s", "peak RSS MB");
    for (way, times, peaks) in took {
        let each: Vec<_> = times.iter().map(|time| format!("{time:.1}")).collect();
        println!(
            "{way:<18} {:>9.1} {:>12.1}  [{}]",
            median(&times),
            median(&peaks),
            each.join(" ")
        );
    }
    Ok(true)
}

/// Seconds until it has ended well, and megabytes it took at its peak.
fn measured(command: &mut Command) -> Result<(f64, f64)> {
    let begun = Instant::now();
    let child = command.stdout(Stdio::null()).spawn();
    let mut child = child.map_err(|error| format!("dunlin does not start: {error}"))?;
    let (status, mut peak) = (format!("/proc/{}/status", child.id()), 0.0);
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        // There is no such line any more when it ends.
        peak = kib.map_or(peak, |kib| kib * 1.024 / 1e3);
        match child.try_wait() {
            Ok(None) => thread::sleep(LOOK),
            Ok(Some(status)) if status.success() => {
                return Ok((begun.elapsed().as_secs_f64(), peak));
            }
            Ok(Some(status)) => return Err(format!("{status}: its error is above")),
            Err(error) => return Err(format!("cannot wait: {error}")),
        }
    }
}
