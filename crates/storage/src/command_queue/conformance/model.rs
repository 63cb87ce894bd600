//! A model of a `CommandQueue`, too simple to be wrong. It is told of every call in the order in
//! which they took effect, and fails where an answer is not the one it would have given.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::*;
use crate::command_queue::FeedbackBatch;

/// Every message ends once: this is how each did, and what is not here is still queued.
pub type Ends = HashMap<String, Option<Outcome>>;

#[derive(Clone, Debug)]
struct Message {
    id: String,
    ack: Ack,
    size: usize,
    expires: i64,
    sequence: u64,
    count: u32,
    lock: Option<(LockToken, Epoch, i64)>,
}

#[derive(Clone, Default)]
struct Queue {
    /// In their order.
    messages: Vec<Message>,
    sequence: u64,
    epoch: Epoch,
}

/// A record of feedback: device, message, outcome, time.
pub type Record = (String, String, Outcome, i64);

#[derive(Clone, Default)]
struct Batch {
    lock: Option<(LockToken, i64)>,
    count: u32,
    records: Vec<Record>,
}

/// A message that was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedOut {
    pub device: String,
    pub epoch: Epoch,
    pub id: String,
    pub token: LockToken,
    pub sequence: u64,
    pub count: u32,
}

/// A lock that somebody wanted to settle, by that epoch; whether it was held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    pub token: LockToken,
    pub epoch: Epoch,
    pub disposition: Disposition,
    pub held: bool,
}

#[derive(Clone, Default)]
pub struct Model {
    queues: BTreeMap<String, Queue>,
    /// In no batch yet.
    single: Vec<Record>,
    batches: BTreeMap<u64, Batch>,
    /// How each message ended; `None`: with its device.
    pub ends: Ends,
    /// In their order.
    pub handed_out: Vec<HandedOut>,
    pub settled: Vec<Settled>,
    /// Locks that ended with their connection.
    pub taken_back: HashSet<LockToken>,
    /// Records of batches that were completed.
    pub told: Vec<Record>,
}

impl Model {
    fn queue(&mut self, device: &str) -> &mut Queue {
        self.queues.entry(device.to_owned()).or_default()
    }

    /// Takes each message out, and puts it back as `change` leaves it: the new state, or its end.
    fn each(
        &mut self,
        device: &str,
        now: i64,
        mut change: impl FnMut(&mut Message) -> Option<Outcome>,
    ) {
        let mut left = std::mem::take(&mut self.queue(device).messages);
        left.retain_mut(|message| {
            let Some(outcome) = change(message) else { return true };
            let before = self.ends.insert(message.id.clone(), Some(outcome));
            assert_eq!(before, None, "{} ended twice", message.id);
            if message.ack.wants(outcome) {
                self.single.push((device.to_owned(), message.id.clone(), outcome, now));
            }
            false
        });
        self.queue(device).messages = left;
    }

    /// Ends what time has ended; whether a message is to be had again.
    fn look(&mut self, device: &str, now: i64, rules: &Rules) -> bool {
        let mut returned = false;
        self.each(device, now, |message| match message.lock {
            Some((_, _, until)) if until <= now => {
                let end = unlocked(message, true, now, rules);
                returned |= end.is_none();
                end
            }
            None if message.expires <= now => Some(Outcome::Expired),
            _ => None,
        });
        returned
    }

    pub fn sent(
        &mut self,
        device: &str,
        sent: &Command,
        now: i64,
        rules: &Rules,
        got: &Result<u64, StoreError>,
    ) {
        let id = sent.message_id.clone().unwrap_or_default();
        let before = self.clone();
        self.look(device, now, rules);
        let queue = self.queue(device);
        if queue.messages.len() == rules.depth as usize {
            assert!(matches!(got, Err(StoreError::LimitReached)), "{id}: {got:?}");
            // What is refused leaves everything as it was: also what was over by then may be not
            // over any more for the next, whose clock was set back.
            *self = before;
            return;
        }
        queue.sequence += 1;
        let sequence = queue.sequence;
        assert_eq!(*got.as_ref().expect("there is room"), sequence, "{device} {id}");
        let (ack, size) = (sent.ack, sent.size());
        let expires = sent.expires.expect("it is given");
        queue.messages.push(Message { id, ack, size, expires, sequence, count: 0, lock: None });
    }

    #[expect(clippy::too_many_arguments, reason = "those of the call, and its answer")]
    pub fn leased(
        &mut self,
        device: &str,
        epoch: Epoch,
        tokens: &[LockToken],
        bytes: usize,
        now: i64,
        rules: &Rules,
        got: &Result<Lease, StoreError>,
    ) {
        let queue = self.queue(device);
        if queue.messages.is_empty() {
            assert_eq!(*got.as_ref().expect("lease"), Lease::default());
            return;
        }
        if epoch != 0 && epoch < queue.epoch {
            assert!(
                matches!(got, Err(StoreError::PreconditionFailed)),
                "{device} {epoch}: {got:?}"
            );
            return;
        }
        let returned = self.look(device, now, rules);
        self.take_back(device, |older| older != 0 && older < epoch, true, now, rules);
        let queue = self.queue(device);
        let free = queue.messages.iter_mut().filter(|message| message.lock.is_none());
        let (mut want, mut filled) = (Vec::new(), 0);
        for (token, message) in tokens.iter().copied().zip(free) {
            if filled >= bytes {
                break;
            }
            filled += message.size;
            message.lock = Some((token, epoch, now + rules.lock));
            let (id, sequence, count) = (message.id.clone(), message.sequence, message.count);
            want.push(HandedOut { device: device.into(), epoch, id, token, sequence, count });
        }
        if epoch != 0 && !want.is_empty() {
            queue.epoch = epoch;
        }
        let got = got.as_ref().expect("lease");
        assert_eq!(got.returned, returned, "{device}");
        let got = got.messages.iter().map(|one| HandedOut {
            device: device.to_owned(),
            epoch,
            id: one.command.message_id.clone().unwrap_or_default(),
            token: one.token,
            sequence: one.sequence,
            count: one.delivery_count,
        });
        assert_eq!(got.collect::<Vec<_>>(), want);
        self.handed_out.extend(want);
    }

    #[expect(clippy::too_many_arguments, reason = "those of the call, and its answer")]
    pub fn settled(
        &mut self,
        device: &str,
        epoch: Epoch,
        tokens: &[LockToken],
        disposition: Disposition,
        now: i64,
        rules: &Rules,
        got: &Result<Settlement, StoreError>,
    ) {
        let returned = self.look(device, now, rules);
        let mut want = Settlement { held: Vec::new(), returned };
        for token in tokens.iter().copied() {
            let mut held = false;
            self.each(device, now, |message| match message.lock {
                Some((of, by, _)) if (of, by) == (token, epoch) => {
                    held = true;
                    match disposition {
                        Disposition::Complete => Some(Outcome::Success),
                        Disposition::Reject => Some(Outcome::Rejected),
                        Disposition::Abandon => {
                            let end = unlocked(message, true, now, rules);
                            want.returned |= end.is_none();
                            end
                        }
                    }
                }
                _ => None,
            });
            want.held.push(held);
            self.settled.push(Settled { token, epoch, disposition, held });
        }
        assert_eq!(*got.as_ref().expect("settle"), want, "{device} {epoch} {tokens:?}");
    }

    pub fn released(
        &mut self,
        device: &str,
        epoch: Epoch,
        in_vain: bool,
        now: i64,
        rules: &Rules,
        got: &Result<(), StoreError>,
    ) {
        got.as_ref().expect("release");
        let held = |message: &Message| message.lock.is_some_and(|(_, by, _)| by == epoch);
        if epoch == 0 || !self.queue(device).messages.iter().any(held) {
            return;
        }
        self.look(device, now, rules);
        self.take_back(device, |by| by == epoch, in_vain, now, rules);
    }

    /// Ends the locks of these connections.
    fn take_back(
        &mut self,
        device: &str,
        whose: impl Fn(Epoch) -> bool,
        in_vain: bool,
        now: i64,
        rules: &Rules,
    ) {
        let mut taken = Vec::new();
        self.each(device, now, |message| match message.lock {
            Some((token, epoch, _)) if whose(epoch) => {
                taken.push(token);
                unlocked(message, in_vain, now, rules)
            }
            _ => None,
        });
        self.taken_back.extend(taken);
    }

    /// A sweep that had room for every device.
    pub fn swept(&mut self, now: i64, rules: &Rules, got: &Result<Swept, StoreError>) {
        let due = |message: &Message| match message.lock {
            Some((_, _, until)) => until <= now,
            None => message.expires <= now,
        };
        let devices = self.queues.iter().filter(|(_, queue)| queue.messages.iter().any(due));
        let devices: Vec<_> = devices.map(|(device, _)| device.clone()).collect();
        let mut want = Swept { looked: devices.len(), returned: devices };
        want.returned.retain(|device| self.look(device, now, rules));
        let mut got = got.as_ref().expect("sweep").clone();
        got.returned.sort();
        assert_eq!(got, want);
    }

    pub fn purged(&mut self, device: &str, now: i64, rules: &Rules, got: &Result<u32, StoreError>) {
        self.look(device, now, rules);
        let all = self.queue(device).messages.len();
        self.each(device, now, |_| Some(Outcome::Purged));
        assert_eq!(*got.as_ref().expect("purge") as usize, all, "{device}");
    }

    pub fn counted(&self, device: &str, now: i64, rules: &Rules, got: &Result<u32, StoreError>) {
        let count = got.as_ref().expect("count");
        assert_eq!(*count as usize, self.at(device, now, rules).len(), "{device}");
    }

    /// Of the newest connection that was handed messages.
    pub fn epoch(&self, device: &str) -> Epoch {
        self.queues.get(device).map_or(0, |queue| queue.epoch)
    }

    /// Whether anything waits for somebody to take it.
    pub fn has_free(&self, device: &str, now: i64, rules: &Rules) -> bool {
        self.at(device, now, rules).iter().any(|message| message.lock.is_none())
    }

    /// What is queued once time has ended what it has.
    fn at(&self, device: &str, now: i64, rules: &Rules) -> Vec<Message> {
        let mut looked = Self { queues: self.queues.clone(), ..Self::default() };
        looked.look(device, now, rules);
        looked.queues.remove(device).unwrap_or_default().messages
    }

    /// Everything of a device goes with it.
    pub fn deleted(&mut self, device: &str) {
        let queue = self.queues.remove(device).unwrap_or_default();
        self.ends.extend(queue.messages.into_iter().map(|message| (message.id, None)));
        self.single.retain(|record| record.0 != device);
        for batch in self.batches.values_mut() {
            batch.records.retain(|record| record.0 != device);
        }
    }

    fn look_at_feedback(&mut self, now: i64, rules: &FeedbackRules) {
        for batch in self.batches.values_mut() {
            if batch.lock.is_some_and(|(_, until)| until <= now) {
                batch.put_back(rules);
            }
        }
        self.batches.retain(|_, batch| batch.lock.is_some() || !batch.records.is_empty());
    }

    /// A batch is one that is there, or the first records that are in none. Of records of one moment
    /// the order is that of each device.
    pub fn feedback_leased(
        &mut self,
        now: i64,
        rules: &FeedbackRules,
        got: &Result<Option<FeedbackBatch>, StoreError>,
    ) {
        if self.single.is_empty() && self.batches.values().all(|batch| batch.records.is_empty()) {
            assert_eq!(*got.as_ref().expect("lease"), None);
            return;
        }
        self.look_at_feedback(now, rules);
        let waiting = self.batches.iter().find(|(_, batch)| batch.lock.is_none());
        let waiting = waiting.map(|(sequence, _)| *sequence);
        let full = self.single.len() >= rules.batch_records as usize;
        let age = self.single.first().map(|record| now - record.3);
        let young = age.is_none_or(|age| (0..rules.batch_age).contains(&age));
        let Some(got) = got.as_ref().expect("lease") else {
            assert!(waiting.is_none() && young && !full, "there is feedback");
            return;
        };
        let records = got
            .records
            .iter()
            .map(|one| (one.device_id.clone(), one.message_id.clone(), one.outcome, one.enqueued));
        let records: Vec<Record> = records.collect();
        match waiting {
            Some(sequence) => assert_eq!(got.sequence, sequence),
            None => {
                assert!(full || !young, "it is not time yet");
                assert!(self.batches.keys().all(|sequence| *sequence < got.sequence));
                let most = self.single.len().min(rules.batch_records as usize);
                assert_eq!(records.len(), most);
                for record in &records {
                    let of_device = self.single.iter().position(|one| one.0 == record.0);
                    let first = of_device.map(|at| self.single.remove(at));
                    assert_eq!(first.as_ref(), Some(record));
                }
                let batch = Batch { lock: None, count: 0, records: records.clone() };
                self.batches.insert(got.sequence, batch);
            }
        }
        let batch = self.batches.get_mut(&got.sequence).expect("it is there");
        assert_eq!((got.delivery_count, &records), (batch.count, &batch.records));
        batch.lock = Some((got.token, now + rules.lock));
    }

    pub fn feedback_settled(
        &mut self,
        token: LockToken,
        disposition: Disposition,
        now: i64,
        rules: &FeedbackRules,
        got: &Result<bool, StoreError>,
    ) {
        self.look_at_feedback(now, rules);
        let held = |batch: &Batch| batch.lock.is_some_and(|(by, _)| by == token);
        let held = self.batches.iter().find(|(_, batch)| held(batch)).map(|(at, _)| *at);
        assert_eq!(*got.as_ref().expect("settle"), held.is_some());
        let Some(sequence) = held else { return };
        let batch = self.batches.get_mut(&sequence).expect("it was found");
        if disposition == Disposition::Abandon {
            return batch.put_back(rules);
        }
        self.told.append(&mut batch.records);
        self.batches.remove(&sequence);
    }

    /// Nothing is queued, and all that was asked for was told of: each message once, and as it ended.
    pub fn must_be_done(&self) {
        for (device, queue) in &self.queues {
            assert!(queue.messages.is_empty(), "{device}: {:?}", queue.messages);
        }
        let told = self.batches.values().all(|batch| batch.records.is_empty());
        assert!(told && self.single.is_empty(), "feedback nobody has read");
        let mut told = BTreeSet::new();
        for (_, id, outcome, _) in &self.told {
            assert_eq!(self.ends.get(id), Some(&Some(*outcome)), "{id}");
            assert!(told.insert(id), "{id} was told of twice");
        }
    }
}

impl Batch {
    fn put_back(&mut self, rules: &FeedbackRules) {
        self.lock = None;
        self.count += 1;
        assert!(self.count < rules.max_delivery_count, "what is dropped cannot be compared");
    }
}

fn unlocked(message: &mut Message, in_vain: bool, now: i64, rules: &Rules) -> Option<Outcome> {
    message.lock = None;
    message.count += u32::from(in_vain);
    if in_vain && message.count >= rules.max_delivery_count {
        return Some(Outcome::DeliveryCountExceeded);
    }
    (message.expires <= now).then_some(Outcome::Expired)
}
