//! The cluster's twins and C2D messages against pgbench on the same Postgres: single-row statements,
//! a transaction each (targets P8 and P10).

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::cluster::{Measured, ROUNDS};
use super::turn::{ratio, table};
use super::{Bench, Options};
use crate::Result;
use crate::process::output;
use crate::servers::postgres_program;

const DEVICES: u32 = 1_000;
/// Connections of pgbench, as many as served it best of 16, 32 and 64.
const CLIENTS: &str = "64";

/// What the hub does for its devices, and pgbench on the same server, in turn.
pub struct Contest {
    /// Of the load test's `--work`.
    pub work: &'static str,
    /// For people: what a device does, many of it, and pgbench's.
    pub device: &'static str,
    pub done: &'static str,
    pub statements: &'static str,
    /// Makes the table that pgbench works on.
    pub setup: &'static str,
    /// What pgbench does, again and again.
    pub script: &'static str,
}

impl Contest {
    pub fn run(&self, bench: &Bench, options: &Options) -> Result<bool> {
        let measured = Measured::start(bench, options, DEVICES)?;
        let pgbench = Pgbench::new(bench, &measured, self)?;
        let (mut peer, mut own) = (Vec::new(), Vec::new());
        for round in 1..=options.rounds.unwrap_or(ROUNDS) {
            println!("\nround {round}: the cluster");
            let what = ["--work", self.work, "--window", "1", "--size", "64", "--rate", "max"];
            own.push(measured.turn(bench, &what)?);
            let rate = pgbench.per_second(measured.seconds())?;
            println!("round {round}: pgbench, {CLIENTS} clients: {rate:.0}/s");
            peer.push(rate);
        }
        let devices = measured.devices().to_owned();
        measured.stop()?;
        let Self { device, done, statements, .. } = self;
        println!("\n{devices} devices, {device} each on its way, medians; {done}/s in brackets");
        table(&[("cluster", &own)], |turn| turn.rate);
        let rates: Vec<_> = own.iter().map(|turn| turn.rate).collect();
        let each: Vec<_> = peer.iter().map(|rate| format!("{rate:.0}")).collect();
        println!(
            "pgbench, a transaction each, {CLIENTS} clients: {statements}/s [{}]",
            each.join(" ")
        );
        println!("cluster / pgbench, median over the rounds: {:.2}", ratio(&rates, &peer));
        Ok(true)
    }
}

struct Pgbench {
    program: PathBuf,
    url: String,
    script: PathBuf,
}

impl Pgbench {
    fn new(bench: &Bench, measured: &Measured, contest: &Contest) -> Result<Self> {
        let url = measured.postgres()?;
        let mut psql = Command::new(postgres_program("psql")?);
        psql.args(["-q", "-v", "ON_ERROR_STOP=1", "-c", contest.setup]).arg(&url);
        output(&mut psql)?;
        let script = bench.folder.join("pgbench.sql");
        fs::write(&script, contest.script).map_err(|error| format!("cannot write: {error}"))?;
        Ok(Self { program: postgres_program("pgbench")?, url, script })
    }

    fn per_second(&self, seconds: &str) -> Result<f64> {
        let mut pgbench = Command::new(&self.program);
        pgbench.args(["-n", "-M", "prepared", "-j", "2", "-c", CLIENTS, "-T", seconds, "-f"]);
        transactions(&output(pgbench.arg(&self.script).arg(&self.url))?)
    }
}

/// What pgbench says of a run.
fn transactions(said: &str) -> Result<f64> {
    let failed = said.lines().find_map(|line| line.strip_prefix("number of failed transactions: "));
    if failed.is_some_and(|failed| !failed.starts_with("0 ")) {
        return Err(format!("pgbench's transactions failed: {said}"));
    }
    let tps = said.lines().find_map(|line| line.strip_prefix("tps = "));
    let tps = tps.and_then(|tps| tps.split(' ').next()?.parse().ok());
    tps.ok_or_else(|| format!("pgbench told of no rate: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read() {
        let said = "number of failed transactions: 0 (0.000%)\nlatency average = 3 ms\n\
                    tps = 12345.678901 (without initial connection time)";
        assert_eq!(transactions(said), Ok(12345.678901));
        assert!(transactions(&said.replace(": 0 ", ": 7 ")).is_err());
        assert!(transactions("pgbench (15.9)").is_err());
    }
}
