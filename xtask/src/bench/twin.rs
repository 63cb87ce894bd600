//! Reported properties on the embedded store, against the sqlite3 shell that updates the same rows
//! of a copy of the same database, one transaction and its sync each (the idea of target P8).

use std::fmt::Write as _;

use super::sqlite::Contest;
use super::{Bench, Options, postgres};
use crate::Result;

/// Of the peer in a turn.
const UPDATES: u32 = 2_000;

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    if options.cluster {
        return on_postgres().run(bench, options);
    }
    let contest = Contest {
        work: "report",
        device: "QoS 0, a report",
        done: "reports",
        statement: "an update",
        statements: "updates",
        sql: updates,
        turn: UPDATES,
        rows: 1,
    };
    contest.run(bench, options)
}

/// Against single-row updates of as many rows as there are devices usually.
fn on_postgres() -> postgres::Contest {
    postgres::Contest {
        work: "report",
        device: "QoS 0, a report",
        done: "reports",
        statements: "updates",
        setup: "CREATE TABLE peer (n integer PRIMARY KEY, version bigint, reported text);
                INSERT INTO peer SELECT n, 1, '{}' FROM generate_series(1, 1000) n;
                ANALYZE peer",
        script: "\\set n random(1, 1000)
                 UPDATE peer SET version = version + 1,
                     reported = '{\"count\":' || :n || ',\"text\":\"' || repeat('0123456789abcdef', 4) || '\"}'
                 WHERE n = :n;",
    }
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
