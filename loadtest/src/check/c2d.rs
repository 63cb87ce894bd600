//! C2D messages: each comes to one end, and its sender hears of it as he asked.
//!
//! Files are read one after the other, so lines of different files come in any order: what is
//! asked of them is asked of sets, at the end.

use std::collections::HashMap;
use std::sync::Arc;

use super::memory::Memory;
use super::ranges::Ranges;
use super::verdict::{Fault, Topic, Verdict};
use crate::history::{Ask, Disposition, Kind, Line, Outcome};

/// Of one device, by id.
#[derive(Default)]
struct Messages {
    /// By `Ask`.
    sent: [Ranges; 4],
    accepted: Ranges,
    received: Ranges,
    complete: Ranges,
    reject: Ranges,
    completed: Ranges,
    rejected: Ranges,
    /// By `Outcome`.
    told: [Ranges; 5],
    /// What has ended by this file, as the hub has confirmed it.
    ended: Ranges,
    file: u32,
}

#[derive(Default)]
pub struct C2d(HashMap<u32, Messages>);

impl C2d {
    pub fn take(
        &mut self,
        (file, device): (u32, u32),
        line: &Line<'_>,
        memory: &mut Memory,
        verdict: &mut Verdict,
    ) {
        let id = line.sequence;
        let messages = memory.entry(&mut self.0, device);
        if messages.file != file {
            messages.file = file;
            messages.ended = Ranges::default();
        }
        match line.kind {
            Kind::C2d { ask } => {
                memory.insert(&mut messages.sent[ask as usize], id);
            }
            Kind::Accepted => {
                memory.insert(&mut messages.accepted, id);
            }
            Kind::Received => {
                if messages.ended.contains(id) {
                    verdict.found(Fault::HandedOutAfterEnd, line);
                }
                if !memory.insert(&mut messages.received, id) {
                    verdict.count(Topic::C2d).duplicates += 1;
                }
            }
            Kind::Settle(disposition) => {
                if !messages.received.contains(id) {
                    verdict.found(Fault::SettledUnreceived, line);
                }
                match disposition {
                    Disposition::Complete => memory.insert(&mut messages.complete, id),
                    Disposition::Reject => memory.insert(&mut messages.reject, id),
                    Disposition::Abandon => false,
                };
            }
            Kind::Settled(disposition) => {
                let end = match disposition {
                    Disposition::Complete => &mut messages.completed,
                    Disposition::Reject => &mut messages.rejected,
                    Disposition::Abandon => return,
                };
                // One end twice is found here, two different ones at the end.
                if !memory.insert(end, id) {
                    verdict.found(Fault::EndedTwice, line);
                }
                memory.insert(&mut messages.ended, id);
            }
            Kind::Feedback(outcome) => {
                // A batch that was not completed in time is handed out again.
                verdict.count(Topic::Feedback).acked += 1;
                if !memory.insert(&mut messages.told[outcome as usize], id) {
                    verdict.count(Topic::Feedback).duplicates += 1;
                }
            }
            _ => {}
        }
    }

    /// `whole`: no file lacks its end. `drained`: the run has waited until all had ended.
    pub fn finish(self, names: &[Arc<str>], whole: bool, drained: bool, verdict: &mut Verdict) {
        for (device, messages) in self.0 {
            messages.finish(&names[device as usize], whole, drained, verdict);
        }
    }
}

impl Messages {
    fn finish(self, name: &str, whole: bool, drained: bool, verdict: &mut Verdict) {
        let Self { sent, accepted, received, complete, reject, completed, rejected, .. } = self;
        let asked = |ask: Ask| &sent[ask as usize];
        let told = |outcome: Outcome| &self.told[outcome as usize];
        let mut found = |fault, set: &Ranges| verdict.found_all(fault, name, 0, set);

        let all_sent = asked(Ask::None).or(&[&sent[1], &sent[2], &sent[3]]);
        let of_success = asked(Ask::Full).or(&[asked(Ask::Positive)]);
        let of_failure = asked(Ask::Full).or(&[asked(Ask::Negative)]);
        let (success, refusal) = (told(Outcome::Success), told(Outcome::Rejected));
        let others = [Outcome::Expired, Outcome::DeliveryCountExceeded, Outcome::Purged].map(told);
        let other = Ranges::default().or(&others);
        let failure = refusal.or(&[&other]);
        let all_told = success.or(&[&failure]);

        found(Fault::AcceptedUnsent, &accepted.minus(&[&all_sent]));
        let mut twice = completed.and(&rejected);
        let mut once = Ranges::default();
        for told in &self.told {
            twice = twice.or(&[&once.and(told)]);
            once = once.or(&[told]);
        }
        found(Fault::EndedTwice, &twice);
        // What the hub has confirmed, it must not tell otherwise.
        let wrong_success = success.and(&rejected);
        let wrong_refusal = refusal.and(&completed);
        let wrong_other = other.and(&completed.or(&[&rejected]));
        let mut wrong = wrong_success.or(&[&wrong_refusal, &wrong_other]);
        if whole {
            found(Fault::ReceivedUnsent, &received.minus(&[&all_sent]));
            found(Fault::FeedbackUnsent, &all_told.minus(&[&all_sent]));
            // Nor what the device has not asked for.
            let never = [success.minus(&[&complete]), refusal.minus(&[&reject])];
            wrong = wrong.or(&[&never[0].and(&all_sent), &never[1].and(&all_sent)]);
        }
        found(Fault::FeedbackWrong, &wrong);
        let unasked = success.minus(&[&of_success]).or(&[&failure.minus(&[&of_failure])]);
        found(Fault::FeedbackUnasked, &unasked.and(&all_sent));

        let open = accepted.and(&all_sent).minus(&[&complete, &reject, &all_told]);
        if drained {
            found(Fault::C2dLost, &open);
            let full = asked(Ask::Full).and(&accepted).minus(&[&open]);
            let positive = of_success.and(&completed);
            let negative = of_failure.and(&rejected);
            let due = full.or(&[&positive, &negative]);
            found(Fault::FeedbackMissing, &due.minus(&[&all_told]));
        }
        let count = verdict.count(Topic::C2d);
        count.acked += accepted.count();
        count.open += if drained { 0 } else { open.count() };
    }
}
