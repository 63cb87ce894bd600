//! Reported properties on the embedded store, against the sqlite3 shell that updates the same rows
//! of a copy of the same database, one transaction and its sync each (the idea of target P8).

use std::fmt::Write as _;

use super::peers::{Certificate, hub};
use super::sqlite::Sqlite;
use super::turn::{Turn, create, ratio, table, turn, with_hub};
use super::{Bench, Options};
use crate::Result;

const DEVICES: u32 = 1_000;
const SECONDS: u32 = 10;
const ROUNDS: u32 = 3;
/// Of the peer in a turn.
const UPDATES: u32 = 2_000;

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    let certificate = Certificate::create(&bench.folder)?;
    let data = bench.folder.join("data");
    let count = options.devices.unwrap_or(DEVICES);
    let devices = count.to_string();
    let seconds = options.seconds.unwrap_or(SECONDS).to_string();
    create(bench, &data, &certificate, &devices)?;
    let sqlite = Sqlite::new(bench, &updates(count)?, UPDATES)?;

    let (mut peer, mut own) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds.unwrap_or(ROUNDS) {
        println!("\nround {round}: dunlin up");
        let hub = hub(bench, &data, Some(&certificate))?;
        let mut client = with_hub(bench, &hub, &certificate);
        client.args(["--work", "report", "--devices", &devices, "--window", "1", "--size", "64"]);
        own.push(turn(bench, &mut client, hub.server.pid(), &seconds)?);
        hub.server.stop()?;

        peer.push(sqlite.changes_per_second(bench, &data)?);
        println!("round {round}: sqlite3, {UPDATES} updates: {:.0}/s", peer[peer.len() - 1]);
    }
    println!(
        "\n{devices} devices, QoS 0, a report each on its way, medians; reports/s in brackets"
    );
    table(&[("dunlin up", &own)], |turn| turn.rate);
    let rates: Vec<_> = own.iter().map(|turn: &Turn| turn.rate).collect();
    let each: Vec<_> = peer.iter().map(|rate| format!("{rate:.0}")).collect();
    println!("sqlite3, a transaction and its sync an update: updates/s [{}]", each.join(" "));
    println!("dunlin / sqlite3, median over the rounds: {:.2}", ratio(&rates, &peer));
    Ok(true)
}

/// Single-row updates of the devices in turn, with the hub's settings; they print their number.
fn updates(devices: u32) -> Result<String> {
    let mut sql = String::from("PRAGMA synchronous = FULL;\n");
    let text = "0123456789abcdef".repeat(4);
    for n in 0..UPDATES {
        writeln!(
            sql,
            "UPDATE twin SET reported = '{{\"count\":{n},\"text\":\"{text}\"}}', \
             reported_version = reported_version + 1, version = version + 1 \
             WHERE device_id = 'load-{:06}' AND module_id = '';",
            n % devices
        )
        .map_err(|error| error.to_string())?;
    }
    sql.push_str("SELECT total_changes();\n");
    Ok(sql)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_has_its_turn() -> Result<()> {
        let sql = updates(3)?;
        assert_eq!(sql.matches("UPDATE").count(), UPDATES as usize);
        let of = |id: &str| sql.matches(id).count();
        assert_eq!([of("'load-000000'"), of("'load-000002'"), of("'load-000003'")], [667, 666, 0]);
        Ok(())
    }
}
