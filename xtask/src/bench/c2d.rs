//! C2D messages on the embedded store, from the back end's request to the device's PUBACK, against
//! the sqlite3 shell that inserts and deletes the same rows in a copy of the same database, one
//! transaction and its sync each.

use std::fmt::Write as _;

use super::sqlite::Contest;
use super::{Bench, Options, postgres};
use crate::Result;

/// Of the peer in a turn: each is an insert and a delete.
const MESSAGES: u32 = 1_000;

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    if options.cluster {
        return on_postgres().run(bench, options);
    }
    let contest = Contest {
        work: "c2d",
        device: "a message",
        done: "messages",
        statement: "an insert and a delete",
        statements: "messages",
        sql: messages,
        turn: MESSAGES,
        rows: 2,
    };
    contest.run(bench, options)
}

/// Against single-row inserts, which nobody takes away.
fn on_postgres() -> postgres::Contest {
    postgres::Contest {
        work: "c2d",
        device: "a message",
        done: "messages",
        statements: "inserts",
        setup: "CREATE TABLE peer (n bigserial PRIMARY KEY, device text, body text)",
        script: "\\set n random(1, 1000)
                 INSERT INTO peer (device, body)
                 VALUES ('load-' || :n, repeat('0123456789abcdef', 4));",
    }
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
