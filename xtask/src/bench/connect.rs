//! How fast devices connect to the cluster and what that costs it, beside `dunlin up`, in turn.

use std::fs;
use std::process::Command;

use super::cluster::{Measured, ROUNDS};
use super::peers::{Certificate, hub};
use super::turn::{create, ratio, with_hub};
use super::{Bench, Options, median, number};
use crate::Result;
use crate::process::run_shown;

const DEVICES: u32 = 5_000;

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    let certificate = Certificate::create(&bench.folder)?;
    let data = bench.folder.join("data");
    let measured = Measured::start(bench, options, DEVICES)?;
    let devices = measured.devices().to_owned();
    create(bench, &data, &certificate, &devices)?;
    let (mut cluster, mut up) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds.unwrap_or(ROUNDS) {
        println!("\nround {round}: the cluster");
        let mut client = measured.client(bench, "run");
        cluster.push(connects(bench, client.arg("--reuse"), &measured.pids())?);
        println!("\nround {round}: dunlin up");
        let hub = hub(bench, &data, Some(&certificate))?;
        let mut client = with_hub(bench, &hub, &certificate);
        client.args(["--devices", &devices]);
        up.push(connects(bench, &mut client, &[hub.server.pid()])?);
        hub.server.stop()?;
    }
    measured.stop()?;
    println!(
        "\n{devices} devices, 64 connecting at a time, full handshakes, four subscriptions each;"
    );
    println!("medians of connects/s, and processor time of the hub's processes for one");
    let of =
        |all: &[Connects], part: fn(&Connects) -> f64| all.iter().map(part).collect::<Vec<_>>();
    for (name, all) in [("cluster", &cluster), ("dunlin up", &up)] {
        let rates = of(all, |one| one.rate);
        let us = median(&of(all, |one| one.server_us));
        println!("{name:<12} {:>8.0}/s {us:>8.0} us  {rates:.0?}", median(&rates));
    }
    let ratio = ratio(&of(&cluster, |one| one.rate), &of(&up, |one| one.rate));
    println!("cluster / dunlin up, median over the rounds: {ratio:.2}");
    Ok(true)
}

struct Connects {
    rate: f64,
    server_us: f64,
}

fn connects(bench: &Bench, client: &mut Command, pids: &[u32]) -> Result<Connects> {
    let report = bench.folder.join("report.json");
    client.args(["--hold", "1"]).arg("--json").arg(&report);
    for pid in pids {
        client.args(["--watch", &pid.to_string()]);
    }
    if !run_shown(client)? {
        return Err("a device did not come through: see above".into());
    }
    let json = fs::read_to_string(&report).map_err(|error| format!("no report: {error}"))?;
    let (rate, server_us) =
        (number(&json, "connects_per_s")?, number(&json, "server_cpu_us_per_connect")?);
    Ok(Connects { rate, server_us })
}
