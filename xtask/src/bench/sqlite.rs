//! The hub's embedded store against the sqlite3 shell: statements on a copy of the hub's database,
//! one transaction each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::peers::{Certificate, hub};
use super::turn::{create, ratio, table, turn, with_hub};
use super::{Bench, Options};
use crate::Result;
use crate::process::output;
use crate::server::{install, runs};

const DEVICES: u32 = 1_000;
const SECONDS: u32 = 10;
const ROUNDS: u32 = 3;

/// What the hub does for its devices, and the shell to the rows of such devices, in turn.
pub struct Contest {
    /// Of the load test's `--work`.
    pub work: &'static str,
    /// For people: what each device does, and many of it.
    pub device: &'static str,
    pub done: &'static str,
    /// The same of the shell.
    pub statement: &'static str,
    pub statements: &'static str,
    /// Of a number of devices. The last statement prints how many rows were changed.
    pub sql: fn(u32) -> Result<String>,
    /// What the shell does in a turn, and how many rows each changes.
    pub turn: u32,
    pub rows: u32,
}

impl Contest {
    pub fn run(&self, bench: &Bench, options: &Options) -> Result<bool> {
        let certificate = Certificate::create(&bench.folder)?;
        let data = bench.folder.join("data");
        let count = options.devices.unwrap_or(DEVICES);
        let devices = count.to_string();
        let seconds = options.seconds.unwrap_or(SECONDS).to_string();
        create(bench, &data, &certificate, &devices)?;
        let sqlite = Sqlite::new(bench, &(self.sql)(count)?, self.turn * self.rows)?;

        let (mut peer, mut own) = (Vec::new(), Vec::new());
        for round in 1..=options.rounds.unwrap_or(ROUNDS) {
            println!("\nround {round}: dunlin up");
            let hub = hub(bench, &data, Some(&certificate))?;
            let mut client = with_hub(bench, &hub, &certificate);
            client.args(["--work", self.work, "--devices", &devices, "--window", "1"]);
            client.args(["--rate", "max", "--size", "64"]);
            own.push(turn(bench, &mut client, &[hub.server.pid()], &seconds)?);
            hub.server.stop()?;

            let rate = sqlite.changes_per_second(bench, &data)? / f64::from(self.rows);
            println!("round {round}: sqlite3, {} {}: {rate:.0}/s", self.turn, self.statements);
            peer.push(rate);
        }
        let Self { device, done, statement, statements, .. } = self;
        println!("\n{devices} devices, {device} each on its way, medians; {done}/s in brackets");
        table(&[("dunlin up", &own)], |turn| turn.rate);
        let rates: Vec<_> = own.iter().map(|turn| turn.rate).collect();
        let each: Vec<_> = peer.iter().map(|rate| format!("{rate:.0}")).collect();
        let each = each.join(" ");
        println!("sqlite3, a transaction and its sync {statement}: {statements}/s [{each}]");
        println!("dunlin / sqlite3, median over the rounds: {:.2}", ratio(&rates, &peer));
        Ok(true)
    }
}

struct Sqlite {
    script: PathBuf,
    /// Rows that the script changes.
    changes: u32,
}

impl Sqlite {
    /// The last statement of `sql` prints how many rows it changed.
    fn new(bench: &Bench, sql: &str, changes: u32) -> Result<Self> {
        install("sqlite3", || runs("sqlite3", "--version"), "sqlite3")?;
        let script = bench.folder.join("peer.sql");
        fs::write(&script, sql).map_err(|error| format!("cannot write: {error}"))?;
        Ok(Self { script, changes })
    }

    /// On a copy of the hub's database, so with rows as long as those it has just written.
    fn changes_per_second(&self, bench: &Bench, data: &Path) -> Result<f64> {
        let copy = bench.folder.join("copy.sqlite");
        fs::copy(data.join("hub.sqlite"), &copy)
            .map_err(|error| format!("cannot copy the database: {error}"))?;
        let mut shell = Command::new("sqlite3");
        shell.arg("-bail").arg(&copy).arg(format!(".read {}", self.script.display()));
        let begun = Instant::now();
        let changed = output(&mut shell)?;
        let seconds = begun.elapsed().as_secs_f64();
        if changed != self.changes.to_string() {
            return Err(format!("sqlite3 changed {changed} rows, not {}", self.changes));
        }
        Ok(f64::from(self.changes) / seconds)
    }
}
