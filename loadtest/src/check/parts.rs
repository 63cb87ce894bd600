//! Histories whose state outgrows the memory it may have are split by device into temporary files,
//! as a hash join does it, and these are checked one after the other.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, BufWriter, IntoInnerError, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::files::{self, Ends, Flow};
use super::state::State;
use super::verdict::Verdict;
use crate::history::Line;

/// Files at one time, each with a buffer.
const MOST: u64 = 128;
const BUFFER: usize = 64 * 1024;
/// A part that is still too large is split again. What is too large after that is a few devices',
/// and is checked all the same.
const SPLITS: u32 = 3;

/// What a check may take.
pub struct Bounds {
    /// Bytes of state, as `Memory` estimates them.
    pub memory: usize,
    /// Where temporary files go.
    pub folder: PathBuf,
}

/// What came of a check, and how many parts it was made in.
pub struct Checked {
    pub verdict: Verdict,
    pub ends: Ends,
    pub parts: u64,
}

pub fn check(histories: &[PathBuf], bounds: &Bounds) -> Result<Checked> {
    check_source(Source::Histories(histories), bounds, 0)
}

fn check_source(mut source: Source<'_>, bounds: &Bounds, depth: u32) -> Result<Checked> {
    let (mut state, mut read) = (State::default(), 0);
    let ends = source.each(|file, line, text| {
        read += text.len() as u64 + 1;
        state.take(file, line);
        let full = state.bytes() > bounds.memory && depth < SPLITS;
        Ok(if full { Flow::Stop } else { Flow::On })
    })?;
    if let Some(ends) = ends {
        return Ok(Checked { verdict: state.finish(ends), ends, parts: 1 });
    }
    // Twice as many as have room if the rest is like what was read.
    let whole = state.bytes() as u64 * (source.bytes()? / read + 1);
    let count = (2 * whole / bounds.memory.max(1) as u64).clamp(2, MOST);
    drop(state);
    let mut parts = (0..count).map(|_| Part::new(&bounds.folder)).collect::<Result<Vec<_>>>()?;
    let ends = source.each(|file, line, text| {
        // Another hash at each depth, or one part would get it all.
        let mut hasher = DefaultHasher::new();
        (depth, line.device).hash(&mut hasher);
        parts[(hasher.finish() % count) as usize].write(file, text)?;
        Ok(Flow::On)
    })?;
    let ends = ends.context("read to its end")?;
    drop(source);
    let mut all = Checked { verdict: Verdict::default(), ends, parts: 0 };
    for part in parts {
        let checked = check_source(part.source(ends)?, bounds, depth + 1)?;
        all.verdict.join(checked.verdict);
        all.parts += checked.parts;
    }
    Ok(all)
}

/// A temporary file. It has no name, and goes when it is closed.
struct Part {
    file: BufWriter<File>,
    /// Which history the last line is from.
    from: Option<u32>,
}

impl Part {
    fn new(folder: &Path) -> Result<Self> {
        let cannot = || format!("cannot make a temporary file in {}", folder.display());
        let file = tempfile::tempfile_in(folder).with_context(cannot)?;
        Ok(Self { file: BufWriter::with_capacity(BUFFER, file), from: None })
    }

    fn write(&mut self, from: u32, text: &str) -> Result<()> {
        let mut write = || {
            if self.from.replace(from) != Some(from) {
                writeln!(self.file, "{from}")?;
            }
            self.file.write_all(text.as_bytes())?;
            self.file.write_all(b"\n")
        };
        write().context(UNWRITTEN)
    }

    fn source(self, ends: Ends) -> Result<Source<'static>> {
        let file = self.file.into_inner().map_err(IntoInnerError::into_error);
        Ok(Source::Part(file.context(UNWRITTEN)?, ends))
    }
}

const UNWRITTEN: &str = "cannot write a temporary file (--temp names another folder)";

/// What lines come from.
enum Source<'a> {
    Histories(&'a [PathBuf]),
    /// Of histories with these ends.
    Part(File, Ends),
}

impl Source<'_> {
    fn bytes(&self) -> Result<u64> {
        match self {
            Self::Histories(paths) => {
                paths.iter().map(|path| Ok(std::fs::metadata(path)?.len())).sum()
            }
            Self::Part(file, _) => Ok(file.metadata()?.len()),
        }
    }

    /// Gives every line, with the number of its history and its text; `None`: it was stopped.
    fn each(
        &mut self,
        mut take: impl FnMut(u32, &Line<'_>, &str) -> Result<Flow>,
    ) -> Result<Option<Ends>> {
        let (file, ends) = match self {
            Self::Histories(paths) => {
                return files::read(paths, |entry| take(entry.file, &entry.line, entry.text));
            }
            Self::Part(file, ends) => (file, *ends),
        };
        file.rewind()?;
        let mut reader = BufReader::with_capacity(BUFFER, file);
        let (mut text, mut from) = (String::new(), 0);
        loop {
            text.clear();
            if reader.read_line(&mut text)? == 0 {
                return Ok(Some(ends));
            }
            let text = text.trim_end_matches('\n');
            if let Ok(number) = text.parse() {
                from = number;
            } else if take(from, &Line::parse(text)?, text)? == Flow::Stop {
                return Ok(None);
            }
        }
    }
}
