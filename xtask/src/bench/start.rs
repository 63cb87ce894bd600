//! How soon `dunlin up` is ready, against redis-server, and how big it is (targets P13 and P14).

use std::fs;
use std::process::Command;

use super::peers::{hub, redis};
use super::{Bench, Options, median, settled};
use crate::Result;
use crate::process::output;

const ROUNDS: u32 = 10;

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    let data = bench.folder.join("data");
    let (mut peer, mut first, mut second) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds.unwrap_or(ROUNDS) {
        let (server, took) = redis(bench)?;
        peer.push(took.as_secs_f64() * 1e3);
        server.stop()?;
        for times in [&mut first, &mut second] {
            let hub = hub(bench, &data, None)?;
            times.push(hub.ready_after.as_secs_f64() * 1e3);
            hub.server.stop()?;
        }
        fs::remove_dir_all(&data).map_err(|error| format!("cannot empty the folder: {error}"))?;
    }
    println!("{:<28} {:>10} {:>9}", "start to ready", "median ms", "ratio");
    let base = median(&peer);
    for (name, times) in [
        ("redis-server, first PONG", &peer),
        ("dunlin up, empty folder", &first),
        ("dunlin up, second start", &second),
    ] {
        let each: Vec<_> = times.iter().map(|time| format!("{time:.0}")).collect();
        let time = median(times);
        println!("{name:<28} {time:>10.1} {:>9.2}  [{}]", time / base, each.join(" "));
    }

    let hub = hub(bench, &data, None)?;
    let (rss, seconds) = settled(hub.server.pid())?;
    println!(
        "idle RSS of dunlin up: {:.1} MB, settled after {seconds} s",
        rss as f64 / 1e3 * 1.024
    );
    hub.server.stop()?;
    let stripped = bench.folder.join("stripped");
    output(Command::new("strip").arg("-o").arg(&stripped).arg(bench.hub_binary()))?;
    let size = |path| fs::metadata(path).map_or(f64::NAN, |file| file.len() as f64 / 1e6);
    println!(
        "release binary: {:.1} MB, {:.1} MB stripped",
        size(bench.hub_binary()),
        size(stripped)
    );
    Ok(true)
}
