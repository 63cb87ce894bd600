//! What must be true of one device's C2D messages, whatever the hub was killed at: what was asked
//! for and answered is written down here, and what is seen is held against it.
//!
//! A message is named by its number. All ask for full feedback, so every end is told of. What was
//! asked for and not answered before the kill may have happened or not.

use std::collections::BTreeMap;

use dunlin_model::command::Outcome;

use crate::kill::Verdict;

/// Messages a queue holds.
pub const DEPTH: usize = 50;
/// Hand-outs in vain that end a message.
pub const MAX_DELIVERY_COUNT: u64 = 5;

#[derive(Default)]
struct Message {
    /// Of the hub in which it was sent.
    life: u64,
    /// Its send was answered, or it has been seen since: it is there.
    sent: bool,
    /// Hand-outs that the device has seen.
    handed: u64,
    /// Ends that were asked for, each with the life it was asked in.
    asked: Vec<(u64, Outcome)>,
    /// It was purged, as was answered.
    purged: bool,
    /// Its end, by feedback, and the batch that told it.
    told: Option<(Outcome, u64)>,
    /// That feedback was completed, as was answered.
    heard: bool,
    /// It has ended, so that the device cannot get it any more.
    gone: bool,
}

impl Message {
    /// Whether it may be queued, as far as is known.
    fn may_be_there(&self) -> bool {
        !self.gone && !self.purged && self.told.is_none()
    }

    /// A kill may have hidden one hand-out from the device in each life.
    fn may_be_exceeded(&self, life: u64) -> bool {
        self.handed + life - self.life + 1 >= MAX_DELIVERY_COUNT
    }

    fn must_be_there(&self, life: u64) -> bool {
        self.sent && self.may_be_there() && self.asked.is_empty() && !self.may_be_exceeded(life)
    }

    fn may_end_as(&self, outcome: Outcome, life: u64) -> bool {
        self.asked.iter().any(|(_, asked)| *asked == outcome)
            || outcome == Outcome::DeliveryCountExceeded && self.may_be_exceeded(life)
    }
}

#[derive(Default)]
pub struct Ledger {
    pub verdict: Verdict,
    messages: BTreeMap<u64, Message>,
    /// Counts restarts of the hub.
    life: u64,
    /// The last message that was sent, and the last that was handed out.
    last_sent: u64,
    last_handed: u64,
    /// Answers to a device's request that a kill cut off. A message in them is under its lock for a
    /// while, and later messages come first.
    cut: usize,
}

impl Ledger {
    /// Returns the number of a message that is about to be sent.
    pub fn send(&mut self) -> u64 {
        self.last_sent += 1;
        self.messages.insert(self.last_sent, Message { life: self.life, ..Message::default() });
        self.last_sent
    }

    pub fn sent(&mut self, number: u64) {
        self.verdict.acked += 1;
        self.messages.entry(number).or_default().sent = true;
        self.expect(self.must_be_there() <= DEPTH);
    }

    /// The queue was full. `room`: whether it could not be, when the message was sent.
    pub fn refused(&mut self, number: u64, room: bool) {
        self.expect(!room);
        self.messages.remove(&number);
    }

    /// Whether the queue has room for one more message, for sure.
    pub fn has_room(&self) -> bool {
        self.may_be_there() < DEPTH
    }

    /// The device has a message.
    pub fn handed(&mut self, number: u64) {
        let life = self.life;
        let Some(message) = self.messages.get_mut(&number) else { return self.expect(false) };
        let asked = |outcome| message.asked.iter().any(|(_, asked)| *asked == outcome);
        // No answer to a PUBACK says that it was heard.
        let again = asked(Outcome::Success) || asked(Outcome::Rejected);
        let (gone, first) = (message.gone, message.handed == 0);
        // What was asked for in an earlier life has come to nothing.
        message.asked.retain(|(at, _)| *at == life);
        (message.sent, message.handed) = (true, message.handed + 1);
        if gone {
            // Its end was acknowledged, and is lost.
            self.verdict.lost += 1;
        } else {
            self.verdict.duplicates += usize::from(again);
        }
        if first && number < self.last_handed {
            self.expect(self.cut > 0);
            self.cut = self.cut.saturating_sub(1);
        }
        self.last_handed = self.last_handed.max(number);
    }

    /// A kill came before the answer to a request for a message.
    pub fn cut(&mut self) {
        self.cut += 1;
    }

    /// An end of a message is about to be asked for.
    pub fn ask(&mut self, number: u64, outcome: Outcome) {
        let life = self.life;
        if let Some(message) = self.messages.get_mut(&number) {
            message.asked.push((life, outcome));
        }
    }

    /// It has ended so, as was answered.
    pub fn settled(&mut self, number: u64) {
        self.verdict.acked += 1;
        self.messages.entry(number).or_default().gone = true;
    }

    /// The lock was no more when the device settled: nothing but a purge ends it that early.
    pub fn lock_lost(&mut self, number: u64) {
        let purged = |message: &Message| message.may_end_as(Outcome::Purged, self.life);
        self.expect(self.messages.get(&number).is_some_and(purged));
    }

    /// A purge is about to be asked for. Returns how many messages it can find at most.
    pub fn purge(&mut self) -> usize {
        let life = self.life;
        for message in self.messages.values_mut().filter(|message| message.may_be_there()) {
            message.asked.push((life, Outcome::Purged));
        }
        self.may_be_there()
    }

    /// It was answered with that number. Nothing was sent meanwhile.
    pub fn purged(&mut self, total: usize, most: usize) {
        self.verdict.acked += 1;
        let purged = [(self.life, Outcome::Purged)];
        let least = |message: &&Message| {
            let untouched = message.asked == purged && !message.may_be_exceeded(self.life);
            message.sent && message.may_be_there() && untouched
        };
        let least = self.messages.values().filter(least).count();
        self.expect((least..=most).contains(&total));
        for message in self.messages.values_mut() {
            message.purged |= message.asked.contains(&purged[0]);
        }
    }

    /// Feedback says how a message has ended: in one batch, which comes again until it is completed.
    pub fn told(&mut self, number: u64, outcome: Outcome, batch: u64) {
        let life = self.life;
        let Some(message) = self.messages.get_mut(&number) else { return self.expect(false) };
        let as_asked = message.may_end_as(outcome, life);
        let once = message.told.is_none_or(|told| told == (outcome, batch));
        let heard = message.heard;
        (message.sent, message.told) = (true, Some((outcome, batch)));
        self.expect(as_asked && once);
        // What was completed is not told again.
        self.verdict.lost += usize::from(heard);
    }

    /// The feedback on a message was completed.
    pub fn heard(&mut self, number: u64) {
        self.verdict.acked += 1;
        self.messages.entry(number).or_default().heard = true;
    }

    /// The hub is up again: nothing of its last life is on its way any more.
    pub fn restarted(&mut self) {
        self.life += 1;
        for message in self.messages.values_mut() {
            message.gone |= !message.may_be_there();
        }
    }

    /// While nobody does anything: so many messages are queued.
    pub fn counted(&mut self, count: usize) {
        let possible = self.must_be_there()..=self.may_be_there().min(DEPTH);
        self.expect(possible.contains(&count));
    }

    /// While nobody else does anything: the device was handed these, and there are no others.
    pub fn found(&mut self, numbers: &[u64]) {
        self.expect(numbers.is_sorted());
        let life = self.life;
        let missing = |number: &u64, message: &mut Message| {
            message.must_be_there(life) && !numbers.contains(number)
        };
        self.verdict.lost += self.messages.extract_if(.., missing).count();
        for (number, message) in &mut self.messages {
            message.gone |= !numbers.contains(number);
        }
        numbers.iter().for_each(|number| self.handed(*number));
    }

    /// Whether every message that was sent has ended, as far as feedback has told.
    pub fn is_settled(&self) -> bool {
        self.messages.values().all(|message| !message.sent || message.told.is_some())
    }

    /// After the last restart, when the queue is empty and nobody tells anything any more.
    pub fn finished(&mut self) {
        let untold =
            self.messages.values().filter(|message| message.sent && message.told.is_none());
        self.verdict.lost += untold.count();
    }

    fn may_be_there(&self) -> usize {
        self.messages.values().filter(|message| message.may_be_there()).count()
    }

    fn must_be_there(&self) -> usize {
        self.messages.values().filter(|message| message.must_be_there(self.life)).count()
    }

    fn expect(&mut self, as_it_must: bool) {
        self.verdict.disordered += usize::from(!as_it_must);
    }
}

#[test]
fn the_ledger_sees_each_fault() {
    use Outcome::{DeliveryCountExceeded, Purged, Success};
    /// Of five messages the device has had the first two, and has acknowledged the first.
    #[track_caller]
    fn check(what: &str, steps: &[&dyn Fn(&mut Ledger)], want: [usize; 3]) {
        let mut ledger = Ledger::default();
        send(5)(&mut ledger);
        ledger.handed(1);
        ledger.ask(1, Success);
        ledger.handed(2);
        steps.iter().for_each(|step| step(&mut ledger));
        let Verdict { lost, duplicates, disordered, .. } = ledger.verdict;
        assert_eq!([lost, duplicates, disordered], want, "{what}");
    }
    fn send(count: usize) -> impl Fn(&mut Ledger) {
        move |it| {
            for _ in 0..count {
                let number = it.send();
                it.sent(number);
            }
        }
    }
    let handed = |number| move |it: &mut Ledger| it.handed(number);
    let told = |number, outcome| move |it: &mut Ledger| it.told(number, outcome, 1);
    let heard = |it: &mut Ledger| it.heard(1);
    let purge = |it: &mut Ledger| _ = it.purge();
    let restart = |found: &'static [u64]| {
        move |it: &mut Ledger| {
            it.restarted();
            it.counted(found.len());
            it.found(found);
        }
    };
    check("all is well", &[&restart(&[2, 3, 4, 5])], [0; 3]);
    check("PUBACK came too late", &[&restart(&[1, 2, 3, 4, 5])], [0, 1, 0]);
    check("two are missing", &[&restart(&[2, 5])], [2, 0, 1]);
    check("another order", &[&restart(&[2, 3, 5, 4])], [0, 0, 2]);
    check("one too many", &[&restart(&[1, 2, 3, 4, 5, 6])], [0, 1, 2]);
    let unanswered = |it: &mut Ledger| _ = it.send();
    check("unanswered, there", &[&unanswered, &restart(&[2, 3, 4, 5, 6])], [0; 3]);
    check("unanswered, not there", &[&unanswered, &restart(&[2, 3, 4, 5])], [0; 3]);
    let again = [&told(1, Success) as &dyn Fn(&mut Ledger), &restart(&[1, 2, 3, 4, 5])];
    check("an end comes to nothing", &again, [1, 0, 1]);
    let settled = |it: &mut Ledger| it.settled(1);
    check("so does one that was answered", &[&settled, &handed(1)], [1, 0, 0]);
    let purged = |total| move |it: &mut Ledger| it.purged(total, 5);
    check("a purge meets a message under way", &[&purge, &purged(4), &handed(3)], [0; 3]);
    check("a purge ends too few", &[&purge, &purged(3)], [0, 0, 1]);
    check("feedback comes until it is heard", &[&told(1, Success), &told(1, Success)], [0; 3]);
    check("and again", &[&told(1, Success), &heard, &told(1, Success)], [1, 0, 0]);
    let other = |it: &mut Ledger| it.told(1, Success, 2);
    check("in another batch", &[&told(1, Success), &other], [0, 0, 1]);
    check("nobody asked for that end", &[&told(2, Success)], [0, 0, 1]);
    check("two ends", &[&told(1, Success), &purge, &told(1, Purged)], [0, 0, 1]);
    check("feedback on what was never sent", &[&told(9, Success)], [0, 0, 1]);
    check("four are not told of", &[&told(1, Success), &|it| it.finished()], [4, 0, 0]);
    check("the third after the fourth", &[&handed(4), &handed(3)], [0, 0, 1]);
    check("it was cut off", &[&|it| it.cut(), &handed(4), &handed(3)], [0; 3]);
    let lock_lost = |it: &mut Ledger| it.lock_lost(2);
    check("a lock is lost", &[&lock_lost], [0, 0, 1]);
    check("by a purge", &[&purge, &lock_lost], [0; 3]);
    let exceeded = told(2, DeliveryCountExceeded);
    check("one hand-out", &[&exceeded], [0, 0, 1]);
    check("enough of them", &[&handed(2), &handed(2), &handed(2), &exceeded], [0; 3]);
    let refused = |it: &mut Ledger| {
        let (room, number) = (it.has_room(), it.send());
        it.refused(number, room);
    };
    check("refused with room", &[&refused], [0, 0, 1]);
    check("refused without", &[&send(DEPTH - 5), &refused], [0; 3]);
    check("beyond the depth", &[&send(DEPTH - 5 + 2)], [0, 0, 1]);
}
