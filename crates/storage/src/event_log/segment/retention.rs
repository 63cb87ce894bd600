//! Old records go: whole segments, the oldest first, by age and by size.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use super::disk::sync_folder;
use super::file::Segment;
use super::recover::index_path;
use super::writer::Writer;
use crate::lock;

/// The longest an idle writer sleeps.
pub(super) const UPKEEP: Duration = Duration::from_secs(60);
/// An active segment is closed after this part of the retention age, so that its oldest record
/// does not stay much longer than it should.
const ROLLS_PER_AGE: i64 = 8;

impl Writer {
    pub(super) fn upkeep_if_due(&mut self) {
        let now = (self.topic.shared.clock)();
        let age = millis(self.topic.shared.config.retention_age);
        let pause = millis(UPKEEP).min(age / ROLLS_PER_AGE);
        // Also if the clock was set back.
        if now < self.upkeep_due && self.upkeep_due - now <= pause {
            return;
        }
        self.upkeep_due = now.saturating_add(pause);
        if let Some(active) = &self.active
            && active.durable() > active.data_start()
            && now.saturating_sub(active.header.created) >= age / ROLLS_PER_AGE
        {
            self.roll();
        }
        // `Duration::MAX` is no age: what a damaged file calls ancient stays too.
        self.retain(if age == i64::MAX { i64::MIN } else { now.saturating_sub(age) });
    }

    pub(super) fn retain(&mut self, oldest_kept: i64) {
        while let Some((segment, is_last)) = self.first_to_go(oldest_kept) {
            // The last file holds the offsets: a new one must take them over first.
            if is_last && self.start_segment().is_err() {
                return;
            }
            lock(&self.topic.segments).pop_front();
            remove(&segment);
        }
    }

    fn first_to_go(&self, oldest_kept: i64) -> Option<(Arc<Segment>, bool)> {
        let segments = lock(&self.topic.segments);
        let first = segments.front()?;
        let is_active = self.active.as_ref().is_some_and(|active| Arc::ptr_eq(active, first));
        let is_last = segments.len() == 1;
        let newest = lock(&first.index).max_time();
        if is_active || (is_last && newest.is_none()) {
            return None;
        }
        let bytes: u64 = segments.iter().map(|segment| segment.durable()).sum();
        let is_old = newest.is_none_or(|newest| newest < oldest_kept);
        let is_much = bytes > self.topic.shared.config.retention_bytes;
        (is_old || is_much).then(|| (Arc::clone(first), is_last))
    }
}

/// Readers that have it open read on.
fn remove(segment: &Segment) {
    let removed = fs::remove_file(&segment.path)
        .and_then(|()| fs::remove_file(index_path(&segment.path)))
        .and_then(|()| segment.path.parent().map_or(Ok(()), sync_folder));
    if let Err(error) = removed {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(file = %segment.path.display(), error, "cannot remove an old segment");
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
