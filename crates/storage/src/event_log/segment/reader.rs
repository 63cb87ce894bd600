//! Reading a partition: from the sparse index to the blocks, checking every record. Blocks.

use std::io;
use std::sync::Arc;

use dunlin_model::event::Event;

use super::file::{Blocks, Segment};
use super::format::{BlockHeader, RawRecord, records};
use super::topic::Topic;
use crate::event_log::ReadLimit;
use crate::lock;

/// Where a reader stopped: the block that `offset` is in, or the first one behind it.
#[derive(Clone, Copy)]
pub(super) struct Cursor {
    offset: u64,
    segment: u64,
    position: u64,
}

/// Durable records of a partition from an offset on, as far as the limit goes.
pub(super) fn read(
    topic: &Topic,
    partition: u32,
    from: u64,
    limit: ReadLimit,
) -> io::Result<Vec<Event>> {
    let mut events = Vec::new();
    let mut bytes = 0;
    let mut next = from;
    let slot = &topic.partitions[partition as usize].cursor;
    let cursor = lock(slot).filter(|cursor| cursor.offset == from);
    for segment in segments_from(topic, partition, from) {
        let start = match cursor {
            Some(cursor) if cursor.segment == segment.header.number => Some(cursor.position),
            _ => lock(&segment.index).partitions[partition as usize].by_offset(from),
        };
        let Some(start) = start else { continue };
        let stopped = walk(&segment, partition, start, |block, record| {
            if block.next() <= next {
                return Step::NextBlock;
            }
            let Some(record) = record else { return Step::Go };
            if record.offset < next {
                return Step::Go;
            }
            if events.len() >= limit.records.max(1)
                || (!events.is_empty() && bytes + record.bytes > limit.bytes)
            {
                return Step::Stop;
            }
            let Some(event) = record.event(partition) else { return Step::Damaged };
            bytes += record.bytes;
            next = record.offset + 1;
            events.push(event);
            Step::Go
        })?;
        if !events.is_empty() {
            let segment = segment.header.number;
            *lock(slot) = Some(Cursor { offset: next, segment, position: stopped.position });
        }
        if stopped.early {
            break;
        }
    }
    Ok(events)
}

/// The offset of the first record of that time or a later one.
pub(super) fn seek_time(topic: &Topic, partition: u32, time: i64) -> io::Result<Option<u64>> {
    let mut found = None;
    for segment in segments_from(topic, partition, 0) {
        let start = lock(&segment.index).partitions[partition as usize].by_time(time);
        let Some(start) = start else { continue };
        walk(&segment, partition, start, |block, record| {
            if block.max_time < time {
                return Step::NextBlock;
            }
            match record {
                Some(record) if record.time >= time => {
                    found = Some(record.offset);
                    Step::Stop
                }
                _ => Step::Go,
            }
        })?;
        if found.is_some() {
            break;
        }
    }
    Ok(found)
}

/// The segments that may hold an offset or greater ones. They stay readable if retention removes
/// them meanwhile.
fn segments_from(topic: &Topic, partition: u32, from: u64) -> Vec<Arc<Segment>> {
    let segments = lock(&topic.segments);
    let holds =
        |segment: &&Arc<Segment>| lock(&segment.index).partitions[partition as usize].next > from;
    segments.iter().filter(holds).map(Arc::clone).collect()
}

enum Step {
    Go,
    NextBlock,
    Stop,
    Damaged,
}

struct Stopped {
    /// Of the block that was looked at last.
    position: u64,
    early: bool,
}

/// Shows each block of a partition (`None`), then its records.
fn walk(
    segment: &Segment,
    partition: u32,
    start: u64,
    mut visit: impl FnMut(&BlockHeader, Option<&RawRecord<'_>>) -> Step,
) -> io::Result<Stopped> {
    let end = segment.durable();
    let mut blocks = Blocks::new(&segment.file, &segment.header, start, end);
    let mut last = start;
    while blocks.position < end {
        let Some(block) = blocks.peek()? else {
            segment.report_damage(blocks.position);
            if blocks.resume()?.is_none() {
                break;
            }
            continue;
        };
        let at = blocks.position;
        if block.partition == partition {
            last = at;
            let mut step = visit(&block, None);
            if matches!(step, Step::Go) {
                for record in records(&block, blocks.body(&block)?) {
                    step = record.map_or(Step::Damaged, |record| visit(&block, Some(&record)));
                    if !matches!(step, Step::Go) {
                        break;
                    }
                }
            }
            match step {
                Step::Stop => return Ok(Stopped { position: last, early: true }),
                Step::Damaged => segment.report_damage(at),
                Step::Go | Step::NextBlock => {}
            }
        }
        blocks.position = at + block.bytes();
    }
    Ok(Stopped { position: last, early: false })
}
