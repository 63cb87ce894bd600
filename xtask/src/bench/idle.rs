//! What an idle device costs the hub in memory (targets P1 and P2), also after a burst.

use std::fs;

use super::peers::{Certificate, hub};
use super::{Bench, Options, settled};
use crate::process::run_shown;
use crate::{Result, process};

/// Fits the usual limit of 20,000 descriptors.
const DEVICES: u32 = 15_000;
const BURSTS: u32 = 5;

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    let certificate = Certificate::create(&bench.folder)?;
    let data = bench.folder.join("data");
    let devices = options.devices.unwrap_or(DEVICES).to_string();
    let bursts = options.rounds.unwrap_or(BURSTS).to_string();

    // Created in a life of the hub before the one that is measured: what creating them leaves in
    // its heap would be room for connections, which then would seem to cost less than they do.
    let first = hub(bench, &data, Some(&certificate))?;
    let mut create = bench.client();
    create.args(["create", "--devices", &devices]);
    create.env("DUNLIN_LOGIN", &first.login).env("DUNLIN_CA", &certificate.ca);
    process::output(&mut create)?;
    first.server.stop()?;

    let second = hub(bench, &data, Some(&certificate))?;
    let (pid, port) = (second.server.pid().to_string(), second.mqtt_port.to_string());
    let mut client = bench.client();
    client.args(["run", "--reuse", "--devices", &devices, "--burst", &bursts, "--hold", "10"]);
    client.args(["--keep-alive", "1170", "--watch", &pid, "--mqtt-port", &port]);
    client.env("DUNLIN_LOGIN", &second.login).env("DUNLIN_CA", &certificate.ca);
    let clean = run_shown(&mut client)?;
    rollup(second.server.pid())?;
    second.server.stop()?;
    Ok(clean)
}

/// What is left when all devices are gone again, by kind of memory.
fn rollup(pid: u32) -> Result<()> {
    let (rss, seconds) = settled(pid)?;
    println!("after all have disconnected: RSS {rss} KiB, settled after {seconds} s; of it");
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let wanted = ["Private_Clean:", "Private_Dirty:", "Shared_Clean:", "Anonymous:"];
    for line in text.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name))) {
        println!("  {line}");
    }
    Ok(())
}
