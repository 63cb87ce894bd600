//! `check`: proves by the histories of a run that what was acknowledged is there.
//! docs/loadtest-history.md says what is proved, and by which lines.

mod c2d;
mod files;
mod memory;
mod methods;
mod parts;
mod ranges;
mod self_test;
mod state;
mod telemetry;
mod twins;
mod verdict;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use files::Flow;
use parts::{Bounds, Checked};
pub use ranges::Ranges;
use verdict::{Example, Verdict};

use crate::process;

/// Lines that are shown of each example.
const SHOWN: usize = 8;

#[derive(Debug, Args)]
pub struct Arguments {
    /// All histories of the run: of each worker, and of who has read the log.
    #[arg(value_name = "HISTORY", required_unless_present = "self_test")]
    pub histories: Vec<PathBuf>,
    /// MiB for what has to be remembered. What needs more is checked in parts, which are temporary
    /// files.
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    pub memory: usize,
    /// Folder for temporary files [default: the system's].
    #[arg(long, value_name = "FOLDER")]
    pub temp: Option<PathBuf>,
    /// Checks histories with this many lines that it makes up, and says how long that took.
    #[arg(long, value_name = "LINES", conflicts_with = "histories")]
    pub self_test: Option<u64>,
}

/// `Ok(false)`: something is lost or wrong.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let folder = arguments.temp.clone().unwrap_or_else(std::env::temp_dir);
    let bounds = Bounds { memory: arguments.memory.saturating_mul(1 << 20), folder };
    let mut out = std::io::stdout().lock();
    let Some(lines) = arguments.self_test else {
        return check(&arguments.histories, &bounds, &mut out);
    };
    let folder = tempfile::tempdir_in(&bounds.folder)?;
    let histories = timed("written", &mut out, |_| self_test::write(folder.path(), lines))?;
    timed("checked", &mut out, |out| check(&histories, &bounds, out))
}

/// Says how long it took, and how much processor time.
fn timed<T, W: Write>(
    done: &str,
    out: &mut W,
    work: impl FnOnce(&mut W) -> Result<T>,
) -> Result<T> {
    let own = std::process::id();
    let (start, before) = (Instant::now(), process::cpu(own)?);
    let result = work(out)?;
    let (seconds, cpu) =
        (start.elapsed().as_secs_f64(), process::cpu(own)?.total() - before.total());
    writeln!(out, "{done} in {seconds:.1} s, processor time {cpu:.1} s")?;
    Ok(result)
}

fn check(histories: &[PathBuf], bounds: &Bounds, out: &mut impl Write) -> Result<bool> {
    let Checked { verdict, ends, parts } = parts::check(histories, bounds)?;
    let (files, connections) = (histories.len(), verdict.connections);
    let (lines, cut) = (ends.lines, ends.cut);
    writeln!(out, "files={files} cut={cut} lines={lines} connections={connections} parts={parts}")?;
    for topic in verdict.topics() {
        writeln!(out, "{topic}")?;
    }
    show_faults(histories, &verdict, out)?;
    writeln!(out, "{}", verdict.total())?;
    Ok(verdict.is_clean())
}

fn show_faults(histories: &[PathBuf], verdict: &Verdict, out: &mut impl Write) -> Result<()> {
    if verdict.is_clean() {
        return Ok(());
    }
    let places = find(histories, &verdict.examples)?;
    for (fault, cases) in verdict.faults() {
        writeln!(out, "{cases} x {}", fault.text())?;
        let examples = verdict.examples.iter().zip(&places);
        for (example, places) in examples.filter(|(example, _)| example.fault == fault) {
            writeln!(out, "  {example}")?;
            for place in places {
                writeln!(out, "    {place}")?;
            }
        }
    }
    Ok(())
}

/// The lines about each example. Only now, and by reading it all again: then nothing needs to be
/// remembered of where a line stands.
fn find(histories: &[PathBuf], examples: &[Example]) -> Result<Vec<Vec<String>>> {
    let mut found = vec![Vec::new(); examples.len()];
    let named = |file: u32| histories.get(file as usize).map_or(Path::new(""), |path| path);
    files::read(histories, |entry| {
        for (example, places) in examples.iter().zip(&mut found) {
            if example.is_in(&entry.line) && places.len() < SHOWN {
                let path = named(entry.file).display();
                places.push(format!("{path}:{}: {}", entry.number, entry.text));
            }
        }
        Ok(Flow::On)
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests;
