//! Telemetry of devices over HTTPS, as fast as answers come: on a connection that is kept, and on
//! one for each request.

use super::peers::{Certificate, hub};
use super::turn::{Turn, create, table, turn, with_hub};
use super::{Bench, Options};
use crate::Result;

const DEVICES: u32 = 100;
const SECONDS: u32 = 10;
const ROUNDS: u32 = 3;

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    let certificate = Certificate::create(&bench.folder)?;
    let data = bench.folder.join("data");
    let devices = options.devices.unwrap_or(DEVICES).to_string();
    let seconds = options.seconds.unwrap_or(SECONDS).to_string();
    create(bench, &data, &certificate, &devices)?;

    let ways = [("keep-alive", None), ("one each", Some("--connection-per-request"))];
    let mut turns = [const { Vec::<Turn>::new() }; 2];
    for round in 1..=options.rounds.unwrap_or(ROUNDS) {
        for ((name, flag), turns) in ways.iter().zip(&mut turns) {
            println!("\nround {round}: {name}");
            let hub = hub(bench, &data, Some(&certificate))?;
            let mut client = with_hub(bench, &hub, &certificate);
            client.args(["--rate", "max", "--protocol", "https", "--devices", &devices]).args(flag);
            turns.push(turn(bench, &mut client, &[hub.server.pid()], &seconds)?);
            hub.server.stop()?;
        }
    }
    println!(
        "\n{devices} devices, 256 B, a request each on its way, medians; requests/s in brackets"
    );
    let [kept, each] = &turns;
    table(&[(ways[0].0, kept), (ways[1].0, each)], |turn| turn.rate);
    Ok(true)
}
