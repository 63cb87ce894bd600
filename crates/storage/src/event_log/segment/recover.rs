//! What a topic's folder holds when it is opened: torn tails are cut, damage is told apart.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SegmentLogError;
use super::disk::sync_folder;
use super::file::{Blocks, Segment};
use super::format::{BadSegment, SegmentHeader, records};
use super::index::SegmentIndex;
use crate::lock;

const SEGMENT: &str = "segment";
const INDEX: &str = "index";
/// How far offsets jump past a file that cannot tell which it held: more than fit into one.
const UNKNOWN_OFFSETS: u64 = 1 << 32;

/// The kept segments, oldest first, and what comes after them.
#[derive(Default)]
pub(super) struct Recovered {
    pub segments: VecDeque<Arc<Segment>>,
    pub number: u64,
    /// By partition: the next record's offset, and the end of what readers may see.
    pub next: Vec<u64>,
}

pub(super) fn segment_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:020}.{SEGMENT}"))
}

pub(super) fn index_path(segment: &Path) -> PathBuf {
    segment.with_extension(INDEX)
}

/// Opens a topic's folder, which may not exist yet.
pub(super) fn recover(folder: &Path, partitions: u32) -> Result<Recovered, SegmentLogError> {
    let failed = |source| SegmentLogError::Io { path: folder.to_owned(), source };
    let mut recovered = Recovered { next: vec![0; partitions as usize], ..Recovered::default() };
    if !folder.exists() {
        return Ok(recovered);
    }
    let files = segment_files(folder).map_err(failed)?;
    let last = files.last().map(|(number, _)| *number);
    for (number, path) in files {
        let is_last = last == Some(number);
        recovered.number = number + 1;
        match open(&path, partitions, is_last) {
            Ok(Opened::Segment(segment)) => {
                let index = lock(&segment.index);
                for (next, partition) in recovered.next.iter_mut().zip(&index.partitions) {
                    *next = (*next).max(partition.next);
                }
                drop(index);
                recovered.segments.push_back(Arc::new(segment));
            }
            Ok(Opened::NeverUsed) => {
                tracing::info!(file = %path.display(), "removing a segment that was never used");
                fs::remove_file(&path).map_err(failed)?;
            }
            Ok(Opened::Unreadable) => {
                tracing::error!(file = %path.display(), "setting a damaged segment aside");
                fs::rename(&path, path.with_extension("damaged")).map_err(failed)?;
                if is_last {
                    recovered.next.iter_mut().for_each(|next| *next += UNKNOWN_OFFSETS);
                }
            }
            Ok(Opened::Newer(version)) => return Err(SegmentLogError::Newer { path, version }),
            Err(source) => return Err(SegmentLogError::Io { path, source }),
        }
    }
    remove_orphans(folder).and_then(|()| sync_folder(folder)).map_err(failed)?;
    Ok(recovered)
}

fn segment_files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(OsStr::to_str).and_then(|stem| stem.parse().ok());
        if let Some(number) = number
            && path.extension() == Some(OsStr::new(SEGMENT))
        {
            files.push((number, path));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Indexes whose segment went without them.
fn remove_orphans(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new(INDEX)) && !path.with_extension(SEGMENT).exists() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

enum Opened {
    Segment(Segment),
    /// Its header never became durable, so nothing was ever written behind it.
    NeverUsed,
    Unreadable,
    Newer(u32),
}

fn open(path: &Path, partitions: u32, is_last: bool) -> io::Result<Opened> {
    let file = File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let data_start = SegmentHeader::bytes(partitions);
    let mut bytes = vec![0; length.min(data_start) as usize];
    file.read_exact_at(&mut bytes, 0)?;
    let header = match SegmentHeader::decode(&bytes, partitions) {
        Ok(header) => header,
        Err(BadSegment::Version(version)) => return Ok(Opened::Newer(version)),
        Err(BadSegment::Damaged) if is_last && length <= data_start => {
            return Ok(Opened::NeverUsed);
        }
        Err(BadSegment::Damaged) => return Ok(Opened::Unreadable),
    };
    let saved = SegmentIndex::load(&index_path(path), &header).filter(|(_, end)| *end <= length);
    let (index, end) = match saved {
        Some(saved) => saved,
        None => {
            let (index, end) = scan(path, &file, &header, length, is_last)?;
            if end < length {
                let path = path.display();
                tracing::info!(file = %path, from = length, to = end, "cut the end of a segment");
                file.set_len(end)?;
                file.sync_all()?;
            }
            // From here on it is a sealed one: what comes goes into a new file.
            if let Err(error) = index.save(&index_path(path), header.salt, end) {
                // The next start scans it again: a full disk must not keep the hub from starting.
                let error = &error as &dyn std::error::Error;
                tracing::warn!(file = %path.display(), error, "cannot keep a segment's index");
            }
            (index, end)
        }
    };
    Ok(Opened::Segment(Segment::new(header, path.to_owned(), file, index, end)))
}

/// Walks the blocks, and finds where they end. In the last file, which a crash may have torn,
/// the records are looked at too; in any other, everything was durable once.
fn scan(
    path: &Path,
    file: &File,
    header: &SegmentHeader,
    length: u64,
    is_last: bool,
) -> io::Result<(SegmentIndex, u64)> {
    let mut index = SegmentIndex::new(header);
    let mut at = SegmentHeader::bytes(header.next.len() as u32);
    let mut blocks = Blocks::new(file, header, at, length);
    while at < length {
        blocks.position = at;
        let block = blocks.peek()?;
        let whole = match &block {
            Some(block) if is_last => records(block, blocks.body(block)?).all(|r| r.is_some()),
            block => block.is_some(),
        };
        let next = if whole { None } else { beyond_damage(&mut blocks, at, is_last)? };
        match (block, next) {
            (Some(block), _) if whole => {
                index.add(&block, at);
                at += block.bytes();
            }
            (_, None) => break,
            (block, Some(next)) => {
                let path = path.display();
                tracing::error!(file = %path, at, "the event log is damaged, records are lost");
                // Its records up to the damaged one can be read.
                match block {
                    Some(block) => {
                        index.add(&block, at);
                        at += block.bytes();
                    }
                    None => at = next,
                }
            }
        }
    }
    Ok((index, at))
}

/// The first block behind an invalid place, if a later one proves that the place was durable:
/// then it is damage, and not the torn end of what nobody was told is safe.
fn beyond_damage(blocks: &mut Blocks<'_>, at: u64, is_last: bool) -> io::Result<Option<u64>> {
    let mut first = None;
    while let Some(block) = blocks.resume()? {
        let first = *first.get_or_insert(blocks.position);
        if block.durable_before > at || !is_last {
            return Ok(Some(first));
        }
    }
    Ok(None)
}
