//! C2D messages on the embedded store, from the back end's request to the device's PUBACK, against
//! the sqlite3 shell that inserts and deletes the same rows in a copy of the same database, one
//! transaction and its sync each.

use std::fmt::Write as _;

use super::peers::{Certificate, hub};
use super::sqlite::Sqlite;
use super::turn::{create, ratio, table, turn, with_hub};
use super::{Bench, Options};
use crate::Result;

const DEVICES: u32 = 1_000;
const SECONDS: u32 = 10;
const ROUNDS: u32 = 3;
/// Of the peer in a turn: each is an insert and a delete.
const MESSAGES: u32 = 1_000;

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    let certificate = Certificate::create(&bench.folder)?;
    let data = bench.folder.join("data");
    let count = options.devices.unwrap_or(DEVICES);
    let devices = count.to_string();
    let seconds = options.seconds.unwrap_or(SECONDS).to_string();
    create(bench, &data, &certificate, &devices)?;
    let sqlite = Sqlite::new(bench, &messages(count)?, MESSAGES * 2)?;

    let (mut peer, mut own) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds.unwrap_or(ROUNDS) {
        println!("\nround {round}: dunlin up");
        let hub = hub(bench, &data, Some(&certificate))?;
        let mut client = with_hub(bench, &hub, &certificate);
        client.args(["--work", "c2d", "--devices", &devices, "--window", "1", "--size", "64"]);
        own.push(turn(bench, &mut client, hub.server.pid(), &seconds)?);
        hub.server.stop()?;

        peer.push(sqlite.changes_per_second(bench, &data)? / 2.0);
        println!("round {round}: sqlite3, {MESSAGES} messages: {:.0}/s", peer[peer.len() - 1]);
    }
    println!("\n{devices} devices, a message each on its way, medians; messages/s in brackets");
    table(&[("dunlin up", &own)], |turn| turn.rate);
    let rates: Vec<_> = own.iter().map(|turn| turn.rate).collect();
    let each: Vec<_> = peer.iter().map(|rate| format!("{rate:.0}")).collect();
    println!(
        "sqlite3, a transaction and its sync an insert and a delete: messages/s [{}]",
        each.join(" ")
    );
    println!("dunlin / sqlite3, median over the rounds: {:.2}", ratio(&rates, &peer));
    Ok(true)
}

/// A message to each device in turn and its end, with the hub's settings; they print their number.
fn messages(devices: u32) -> Result<String> {
    let mut sql = String::from("PRAGMA synchronous = FULL;\n");
    let body = "0123456789abcdef".repeat(4);
    for n in 0..MESSAGES {
        let device = format!("load-{:06}", n % devices);
        let sequence = 1_000_000_000 + n;
        writeln!(
            sql,
            "INSERT INTO command (device_id, sequence, message_id, ack, properties, enqueued, \
             expires, due, delivery_count, body) VALUES ('{device}', {sequence}, '{device}-0-{n}', \
             'none', '[]', {sequence}, {sequence}, {sequence}, 0, CAST('{body}' AS BLOB));\n\
             DELETE FROM command WHERE device_id = '{device}' AND sequence = {sequence};"
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
    fn every_message_has_its_end() -> Result<()> {
        let sql = messages(3)?;
        assert_eq!(sql.matches("INSERT").count(), MESSAGES as usize);
        assert_eq!(sql.matches("DELETE").count(), MESSAGES as usize);
        let of = |id: &str| sql.matches(&format!("device_id = '{id}'")).count();
        assert_eq!([of("load-000000"), of("load-000002"), of("load-000003")], [334, 333, 0]);
        Ok(())
    }
}
