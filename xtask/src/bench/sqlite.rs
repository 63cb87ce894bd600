//! The sqlite3 shell as a peer: statements on a copy of the hub's database, one transaction each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::Bench;
use crate::Result;
use crate::process::output;
use crate::server::{install, runs};

pub struct Sqlite {
    script: PathBuf,
    /// Rows that the script changes.
    changes: u32,
}

impl Sqlite {
    /// The last statement of `sql` prints how many rows it changed.
    pub fn new(bench: &Bench, sql: &str, changes: u32) -> Result<Self> {
        install("sqlite3", || runs("sqlite3", "--version"), "sqlite3")?;
        let script = bench.folder.join("peer.sql");
        fs::write(&script, sql).map_err(|error| format!("cannot write: {error}"))?;
        Ok(Self { script, changes })
    }

    /// On a copy of the hub's database, so with rows as long as those it has just written.
    pub fn changes_per_second(&self, bench: &Bench, data: &Path) -> Result<f64> {
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
