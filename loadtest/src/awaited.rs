//! What a history waits for at the end of a run: the ends of C2D messages, and feedback on them.
//! Counted as `Awaited` and `Arrived`, so that it adds up over threads and workers.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::check::Ranges;
use crate::history::{Ask, Disposition};
use crate::outcome::{Event, Tally};

/// Of one client thread.
#[derive(Default)]
pub struct Awaited {
    /// Messages to its devices that have not come to an end.
    messages: RefCell<HashMap<u64, Ask>>,
    /// By device, messages on which feedback was read: it may come again.
    told: RefCell<HashMap<Box<str>, Ranges>>,
}

impl Awaited {
    /// A message is about to be sent.
    pub fn sent(&self, tally: &Tally, id: u64, ask: Ask) {
        self.messages.borrow_mut().insert(id, ask);
        tally.count(Event::Awaited, 1);
    }

    /// It was not accepted: it may have been sent or not, and nobody waits for it.
    pub fn refused(&self, tally: &Tally, id: u64) {
        if self.messages.borrow_mut().remove(&id).is_some() {
            tally.count(Event::Arrived, 1);
        }
    }

    /// Its device has settled it, so that feedback is due where it was asked for.
    pub fn settled(&self, tally: &Tally, id: u64, disposition: Disposition) {
        let tells = match disposition {
            Disposition::Abandon => return,
            Disposition::Complete => [Ask::Full, Ask::Positive],
            Disposition::Reject => [Ask::Full, Ask::Negative],
        };
        // None: it came again, or is no message of this run.
        if let Some(ask) = self.messages.borrow_mut().remove(&id) {
            tally.count(Event::Arrived, 1);
            if tells.contains(&ask) {
                tally.count(Event::Awaited, 1);
            }
        }
    }

    /// Feedback was read: the one that was due, or the end of a message that its device never saw.
    pub fn told(&self, tally: &Tally, device: &str, id: u64) {
        let mut told = self.told.borrow_mut();
        if told.entry(device.into()).or_default().insert(id) {
            tally.count(Event::Arrived, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Totals;

    #[test]
    fn ends_and_feedback_are_waited_for_once() {
        use Disposition::{Abandon, Complete, Reject};
        let (awaited, tally) = (Awaited::default(), Tally::default());
        let left = || {
            let totals = Totals::of([&tally]);
            totals.event(Event::Awaited) - totals.event(Event::Arrived)
        };
        for (ask, disposition, feedback) in [
            (Ask::None, Complete, false),
            (Ask::None, Reject, false),
            (Ask::Full, Complete, true),
            (Ask::Full, Reject, true),
            (Ask::Positive, Complete, true),
            (Ask::Positive, Reject, false),
            (Ask::Negative, Complete, false),
            (Ask::Negative, Reject, true),
        ] {
            let id = ask as u64 * 10 + disposition as u64;
            awaited.sent(&tally, id, ask);
            awaited.settled(&tally, id, Abandon);
            assert_eq!(left(), 1, "{ask:?} {disposition:?}: it comes again");
            // Twice, as one that is handed out again.
            (0..2).for_each(|_| awaited.settled(&tally, id, disposition));
            assert_eq!(left(), u64::from(feedback), "{ask:?} {disposition:?}");
            if feedback {
                (0..2).for_each(|_| awaited.told(&tally, "d", id));
            }
            assert_eq!(left(), 0, "{ask:?} {disposition:?}: told");
        }
        awaited.sent(&tally, 1_000, Ask::Negative);
        awaited.told(&tally, "d", 1_000);
        awaited.sent(&tally, 1_000, Ask::Negative);
        awaited.told(&tally, "another", 1_000);
        assert_eq!(left(), 0, "it has expired");
        awaited.sent(&tally, 1_001, Ask::Full);
        awaited.refused(&tally, 1_001);
        awaited.settled(&tally, 1_001, Complete);
        assert_eq!(left(), 0, "it was refused");
    }
}
