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
    Table::default().rows(rows)
}

/// A table that is printed part by part: columns grow when they must.
#[derive(Default)]
pub(super) struct Table {
    widths: Vec<usize>,
}

impl Table {
    pub(super) fn rows(&mut self, rows: &[Vec<String>]) -> Result<(), Failure> {
        let columns = rows.first().map_or(0, Vec::len);
        self.widths.resize(columns.max(self.widths.len()), 0);
        for (column, width) in self.widths.iter_mut().enumerate() {
            let cells = rows.iter().filter_map(|row| row.get(column));
            *width = cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(*width);
        }
        for row in rows {
            let cells = row.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:width$}"));
            line(printable(&cells.collect::<Vec<_>>().join("  ")).trim_end())?;
        }
        Ok(())
    }
}

/// A JSON array that is printed part by part.
#[derive(Default)]
pub(super) struct Array {
    begun: bool,
}

impl Array {
    pub(super) fn items(&mut self, items: &Value) -> Result<(), Failure> {
        for item in items.as_array().into_iter().flatten() {
            let before = if self.begun { "," } else { "[\n" };
            line(&format!("{before}{item:#}"))?;
            self.begun = true;
        }
        Ok(())
    }

    pub(super) fn end(self) -> Result<(), Failure> {
        line(if self.begun { "]" } else { "[]" })
    }
}
