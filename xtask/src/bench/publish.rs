//! Telemetry against Mosquitto (target P5): the same client, certificate and disk, in turn.

use super::turn::Sides;
use super::{Bench, Options};
use crate::Result;

const DEVICES: u32 = 1_000;
const SECONDS: u32 = 10;
const ROUNDS: u32 = 3;

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    let devices = options.devices.unwrap_or(DEVICES).to_string();
    let seconds = options.seconds.unwrap_or(SECONDS).to_string();
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let what = ["--no-subscribe", "--window", "10", "--size", "256"];
    let sides = Sides::measure(bench, &devices, &seconds, rounds, &what)?;
    println!("\n{devices} TLS connections, 256 B, window 10, medians; messages/s in brackets");
    sides.table(|turn| turn.rate);
    println!(
        "dunlin / mosquitto, median over the rounds: messages/s {:.2}, server time a message {:.2}",
        sides.ratio(|turn| turn.rate),
        sides.ratio(|turn| turn.server_us)
    );
    Ok(true)
}
