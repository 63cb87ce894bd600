//! Telemetry: what was acknowledged is in the log, in order per connection.

use std::collections::HashMap;
use std::sync::Arc;

use super::memory::Memory;
use super::ranges::Ranges;
use super::verdict::{Fault, Topic, Verdict};
use crate::history::{Kind, Line, Place};

#[derive(Default)]
struct Connection {
    sent: Ranges,
    acked: Ranges,
    /// What the present reading of the log has seen. A file is one reading.
    seen: Ranges,
    reading: u32,
    /// Behind what this reading has seen.
    next_offset: u64,
    /// What earlier readings have seen.
    before: Option<Box<Ranges>>,
}

#[derive(Default)]
pub struct Telemetry(HashMap<(u32, u32), Connection>);

impl Telemetry {
    pub fn take(
        &mut self,
        (file, device): (u32, u32),
        line: &Line<'_>,
        memory: &mut Memory,
        verdict: &mut Verdict,
    ) {
        let connection = memory.entry(&mut self.0, (device, line.epoch));
        match line.kind {
            Kind::Send => {
                memory.insert(&mut connection.sent, line.sequence);
            }
            Kind::Ack => {
                memory.insert(&mut connection.acked, line.sequence);
            }
            Kind::Logged(place) => connection.logged(file, place, line, memory, verdict),
            _ => verdict.found(Fault::Altered, line),
        }
    }

    /// `whole`: no file lacks its end, so what was never sent in any was never sent.
    pub fn finish(self, names: &[Arc<str>], whole: bool, verdict: &mut Verdict) {
        for ((device, epoch), connection) in self.0 {
            let device = &*names[device as usize];
            let Connection { sent, acked, seen, before, .. } = connection;
            let seen = match before {
                Some(before) => seen.or(&[&before]),
                None => seen,
            };
            let count = verdict.count(Topic::Telemetry);
            count.acked += acked.count();
            count.open += sent.minus(&[&acked]).count();
            verdict.found_all(Fault::Lost, device, epoch, &acked.minus(&[&seen]));
            verdict.found_all(Fault::AckedUnsent, device, epoch, &acked.minus(&[&sent]));
            if whole {
                // Those that were acknowledged were told of just now.
                let unsent = seen.minus(&[&sent, &acked]);
                verdict.found_all(Fault::LoggedUnsent, device, epoch, &unsent);
            }
        }
    }
}

impl Connection {
    fn logged(
        &mut self,
        file: u32,
        place: Place,
        line: &Line<'_>,
        memory: &mut Memory,
        verdict: &mut Verdict,
    ) {
        if self.reading != file && !self.seen.is_empty() {
            let seen = std::mem::take(&mut self.seen);
            let before = self.before.take().unwrap_or_default();
            self.before = Some(Box::new(before.or(&[&seen])));
            self.next_offset = 0;
        }
        self.reading = file;
        // A reader that has lost its connection may have gone back. There is nothing new then.
        let again = place.offset < self.next_offset;
        self.next_offset = self.next_offset.max(place.offset.saturating_add(1));
        let later = self.seen.highest() > Some(line.sequence);
        if memory.insert(&mut self.seen, line.sequence) {
            if again || later {
                verdict.found(Fault::Disordered, line);
            }
        } else if !again {
            verdict.count(Topic::Telemetry).duplicates += 1;
        }
    }
}
