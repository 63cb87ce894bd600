//! Telemetry against Mosquitto (target P5): the same client, certificate and disk, in turn.

use super::turn::Sides;
use super::{Bench, Options};
use crate::Result;

const DEVICES: u32 = 1_000;
const ROUNDS: u32 = 3;

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    let what = ["--no-subscribe", "--window", "10", "--size", "256"];
    let sides = Sides::measure(bench, options, DEVICES, ROUNDS, &what)?;
    let devices = options.devices.unwrap_or(DEVICES);
    println!("\n{devices} TLS connections, 256 B, window 10, medians; messages/s in brackets");
    sides.table(|turn| turn.rate);
    println!(
        "dunlin / mosquitto, median over the rounds: messages/s {:.2}, server time a message {:.2}",
        sides.ratio(|turn| turn.rate),
        sides.ratio(|turn| turn.server_us)
    );
    Ok(true)
}
