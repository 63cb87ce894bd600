//! What goes to stdout: tables for people, JSON for machines.

use std::io::{ErrorKind, Write};

use anyhow::anyhow;
use serde_json::Value;

use super::failure::Failure;

/// Writes a line; a reader that has gone is no error of ours.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::BrokenPipe),
        Err(error) => Err(Failure::Other(anyhow!(error).context("cannot write to stdout"))),
    }
}

/// JSON for people to read and machines to parse.
pub(super) fn json(value: &Value) -> Result<(), Failure> {
    line(&format!("{value:#}"))
}

/// Text of others on one line of a terminal: what would move the cursor, or worse, is spelled out.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// Columns as wide as they must be.
pub(super) fn table(rows: &[Vec<String>]) -> Result<(), Failure> {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        line(printable(&cells.collect::<Vec<_>>().join("  ")).trim_end())?;
    }
    Ok(())
}
