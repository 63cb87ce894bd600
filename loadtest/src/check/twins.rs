//! Twins: versions rise, as they are answered and as devices are told of them.

use std::collections::HashMap;
use std::sync::Arc;

use super::memory::Memory;
use super::ranges::Ranges;
use super::verdict::{Fault, Topic, Verdict};
use crate::history::{Kind, Line};

/// Of one connection.
#[derive(Default)]
struct Reports {
    sent: Ranges,
    answered: Ranges,
    /// Version and sequence of the first one that was answered.
    first: Option<(u64, u64)>,
    last: u64,
}

#[derive(Default)]
pub struct Reported(HashMap<(u32, u32), Reports>);

impl Reported {
    pub fn take(
        &mut self,
        device: u32,
        line: &Line<'_>,
        memory: &mut Memory,
        verdict: &mut Verdict,
    ) {
        let reports = memory.entry(&mut self.0, (device, line.epoch));
        match line.kind {
            Kind::Reported { version } => {
                if !memory.insert(&mut reports.answered, line.sequence) {
                    verdict.count(Topic::Reported).duplicates += 1;
                }
                if reports.first.is_some() && version <= reports.last {
                    verdict.found(Fault::ReportVersion, line);
                }
                reports.first.get_or_insert((version, line.sequence));
                reports.last = reports.last.max(version);
            }
            _ => {
                memory.insert(&mut reports.sent, line.sequence);
            }
        }
    }

    pub fn finish(self, names: &[Arc<str>], verdict: &mut Verdict) {
        let mut all: Vec<_> = self.0.into_iter().collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        let mut before = (u32::MAX, 0);
        for ((device, epoch), reports) in all {
            let name = &*names[device as usize];
            let Reports { sent, answered, first, last } = reports;
            let count = verdict.count(Topic::Reported);
            count.acked += answered.count();
            count.open += sent.minus(&[&answered]).count();
            verdict.found_all(Fault::ReportUnsent, name, epoch, &answered.minus(&[&sent]));
            let Some((version, sequence)) = first else { continue };
            if before.0 == device && version <= before.1 {
                let mut one = Ranges::default();
                one.insert(sequence);
                verdict.found_all(Fault::ReportVersion, name, epoch, &one);
            }
            before = (device, if before.0 == device { last.max(before.1) } else { last });
        }
    }
}

/// Of one device.
#[derive(Default)]
struct Patches {
    sent: Ranges,
    answered: Ranges,
    versions: Ranges,
}

#[derive(Default)]
pub struct Desired {
    patches: HashMap<u32, Patches>,
    /// The last version, by device and back end.
    answered: HashMap<(u32, u32), u64>,
    /// The last version, by device and connection.
    told: HashMap<(u32, u32), u64>,
}

impl Desired {
    pub fn take(
        &mut self,
        device: u32,
        line: &Line<'_>,
        memory: &mut Memory,
        verdict: &mut Verdict,
    ) {
        if line.kind == Kind::Told {
            let last = memory.entry(&mut self.told, (device, line.epoch));
            if line.sequence <= *last {
                verdict.found(Fault::ToldBack, line);
            }
            *last = line.sequence.max(*last);
            return;
        }
        let patches = memory.entry(&mut self.patches, device);
        match line.kind {
            Kind::Desired { version } => {
                if !memory.insert(&mut patches.answered, line.sequence) {
                    verdict.count(Topic::Desired).duplicates += 1;
                }
                let last = memory.entry(&mut self.answered, (device, line.epoch));
                let new = memory.insert(&mut patches.versions, version);
                if !new || version <= *last {
                    verdict.found(Fault::DesiredVersion, line);
                }
                *last = version.max(*last);
            }
            _ => {
                memory.insert(&mut patches.sent, line.sequence);
            }
        }
    }

    pub fn finish(self, names: &[Arc<str>], verdict: &mut Verdict) {
        for (device, patches) in self.patches {
            let Patches { sent, answered, .. } = patches;
            let count = verdict.count(Topic::Desired);
            count.acked += answered.count();
            count.open += sent.minus(&[&answered]).count();
            let name = &*names[device as usize];
            verdict.found_all(Fault::DesiredUnsent, name, 0, &answered.minus(&[&sent]));
        }
    }
}
