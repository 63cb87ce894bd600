//! Reads histories, line by line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::history::{HEADER, Kind, Line};

const BUFFER: usize = 1 << 20;

/// What the ends of the files say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub lines: u64,
    /// Files without an end: who wrote them was killed.
    pub cut: u64,
    /// None is cut, and those in which C2D messages are sent say that the run has waited until each
    /// had come to its end.
    pub drained: bool,
}

/// A line, and where it stands.
pub struct Entry<'a> {
    /// Which of the files.
    pub file: u32,
    /// Counted from 1.
    pub number: u64,
    pub text: &'a str,
    pub line: Line<'a>,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    On,
    Stop,
}

/// Gives every line of all files; `None`: it was stopped.
pub fn read(
    paths: &[PathBuf],
    mut each: impl FnMut(Entry<'_>) -> Result<Flow>,
) -> Result<Option<Ends>> {
    let mut ends = Ends { lines: 0, cut: 0, drained: true };
    for (file, path) in (0..).zip(paths) {
        let mut history = History::open(path)?;
        let (mut end, mut sends) = (None, false);
        while history.advance()? {
            let (text, number) = (history.text()?, history.number);
            let at = || format!("{}:{number}", path.display());
            if end.is_some() {
                bail!("{}: behind the end of the history", at());
            }
            if let Some(rest) = text.strip_prefix("end ") {
                end = Some(drained(rest, number - 2).with_context(at)?);
                continue;
            }
            let line = Line::parse(text).with_context(at)?;
            ends.lines += 1;
            sends |= matches!(line.kind, Kind::C2d { .. });
            if each(Entry { file, number, text, line })? == Flow::Stop {
                return Ok(None);
            }
        }
        ends.cut += u64::from(end.is_none());
        ends.drained &= end.is_some_and(|drained| drained || !sends);
    }
    Ok(Some(ends))
}

/// What stands behind `end`: time, number of lines, and whether the run has drained.
fn drained(rest: &str, lines: u64) -> Result<bool> {
    let mut words = rest.split(' ').skip(1);
    let (said, state, more) = (words.next(), words.next(), words.next());
    let said: u64 = said.and_then(|said| said.parse().ok()).context("no number of lines")?;
    if said != lines {
        bail!("there should be {said} lines before the end, there are {lines}");
    }
    match (state, more) {
        (Some("drained"), None) => Ok(true),
        (Some("open"), None) => Ok(false),
        _ => bail!("an end is drained or open"),
    }
}

/// One open file.
struct History {
    reader: BufReader<File>,
    path: PathBuf,
    text: Vec<u8>,
    number: u64,
}

impl History {
    /// Behind the header.
    fn open(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot read the history {}", path.display());
        let file = File::open(path).with_context(cannot)?;
        let reader = BufReader::with_capacity(BUFFER, file);
        let path = path.to_owned();
        let mut history = Self { reader, path, text: Vec::new(), number: 0 };
        let header = if history.advance()? { history.text()? } else { "" };
        if header.strip_prefix(HEADER).is_some_and(|rest| rest.starts_with(' ')) {
            return Ok(history);
        }
        let found: String = header.chars().take(40).collect();
        bail!(
            "{} is no history: it begins with {found:?} instead of `{HEADER}`",
            history.path.display()
        );
    }

    /// Whether there is another line. What has no end of line was being written when its writer
    /// was killed.
    fn advance(&mut self) -> Result<bool> {
        self.text.clear();
        let cannot = || format!("cannot read the history {}", self.path.display());
        self.reader.read_until(b'\n', &mut self.text).with_context(cannot)?;
        if self.text.pop() != Some(b'\n') {
            return Ok(false);
        }
        self.number += 1;
        Ok(true)
    }

    fn text(&self) -> Result<&str> {
        let at = || format!("{}:{}: no text", self.path.display(), self.number);
        std::str::from_utf8(&self.text).with_context(at)
    }
}
