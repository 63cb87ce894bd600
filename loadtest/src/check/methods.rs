//! Direct methods: what was answered has come to its device.

use std::collections::HashMap;
use std::sync::Arc;

use super::memory::Memory;
use super::ranges::Ranges;
use super::verdict::{Fault, Topic, Verdict};
use crate::history::{Kind, Line};

/// Of one device.
#[derive(Default)]
struct Calls {
    made: Ranges,
    answered: Ranges,
    come: Ranges,
}

#[derive(Default)]
pub struct Methods(HashMap<u32, Calls>);

impl Methods {
    pub fn take(
        &mut self,
        device: u32,
        line: &Line<'_>,
        memory: &mut Memory,
        verdict: &mut Verdict,
    ) {
        let calls = memory.entry(&mut self.0, device);
        match line.kind {
            Kind::Answer { .. } => {
                if !memory.insert(&mut calls.answered, line.sequence) {
                    verdict.found(Fault::AnsweredTwice, line);
                }
            }
            Kind::Called => {
                if !memory.insert(&mut calls.come, line.sequence) {
                    verdict.count(Topic::Methods).duplicates += 1;
                }
            }
            _ => {
                memory.insert(&mut calls.made, line.sequence);
            }
        }
    }

    /// `whole`: no file lacks its end.
    pub fn finish(self, names: &[Arc<str>], whole: bool, verdict: &mut Verdict) {
        for (device, Calls { made, answered, come }) in self.0 {
            let name = &*names[device as usize];
            let count = verdict.count(Topic::Methods);
            count.acked += answered.count();
            count.open += made.minus(&[&answered]).count();
            verdict.found_all(Fault::AnsweredUncalled, name, 0, &answered.minus(&[&made]));
            if whole {
                verdict.found_all(Fault::CallLost, name, 0, &answered.minus(&[&come]));
                let uncalled = come.minus(&[&made, &answered]);
                verdict.found_all(Fault::RanUncalled, name, 0, &uncalled);
            }
        }
    }
}
