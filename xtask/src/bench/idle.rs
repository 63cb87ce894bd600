//! What an idle device costs the hub in memory (targets P1 and P2), also after a burst.

use std::fs;

use super::peers::{Certificate, hub};
use super::turn::{create, with_hub};
use super::{Bench, Options, settled};
use crate::Result;
use crate::process::run_shown;

/// Fits the usual limit of 20,000 descriptors.
const DEVICES: u32 = 15_000;
const BURSTS: u32 = 5;

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    let mut certificate = Certificate::create(&bench.folder)?;
    if options.x509 {
        certificate = certificate.shown_by_devices(&bench.folder);
    }
    let data = bench.folder.join("data");
    let devices = options.devices.unwrap_or(DEVICES).to_string();
    let bursts = options.rounds.unwrap_or(BURSTS).to_string();

    create(bench, &data, &certificate, &devices)?;

    let hub = hub(bench, &data, Some(&certificate))?;
    let mut client = with_hub(bench, &hub, &certificate);
    client.args(["--devices", &devices, "--burst", &bursts, "--hold", "10"]);
    client.args(["--keep-alive", "1170", "--watch", &hub.server.pid().to_string()]);
    if options.websocket {
        client.args(["--protocol", "mqtt-ws"]);
    }
    let clean = run_shown(&mut client)?;
    rollup(hub.server.pid())?;
    hub.server.stop()?;
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
