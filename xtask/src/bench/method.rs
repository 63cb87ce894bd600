//! Round trips of direct methods on an idle system, against a request and its reply between two
//! MQTT clients over Mosquitto (target P9): the same devices and certificate, in turn.

use super::turn::Sides;
use super::{Bench, Options};
use crate::Result;

const DEVICES: u32 = 100;
const ROUNDS: u32 = 5;

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    // The caller is one, and calls devices of its own thread.
    let what = ["--work", "call", "--size", "64", "--threads", "1"];
    let sides = Sides::measure(bench, options, DEVICES, ROUNDS, &what)?;
    let devices = options.devices.unwrap_or(DEVICES);
    println!("\n{devices} devices, one caller, one call at a time, medians; p99 in brackets");
    sides.table(|turn| turn.p99);
    println!(
        "dunlin / mosquitto, median over the rounds: p50 {:.2}, p99 {:.2}, server time a call {:.2}",
        sides.ratio(|turn| turn.p50),
        sides.ratio(|turn| turn.p99),
        sides.ratio(|turn| turn.server_us)
    );
    Ok(true)
}
