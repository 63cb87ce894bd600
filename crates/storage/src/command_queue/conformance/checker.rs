//! Random sends, leases, settlements, disconnects, takeovers, purges, restarts and steps of the
//! clock, beside a model that is too simple to be wrong: whatever is answered must be what the model
//! answers. At the end every message has ended exactly once, and feedback says the same.

use std::collections::BTreeMap;

use super::*;
use crate::command_queue::FeedbackBatch;

const DEVICES: [&str; 3] = ["a", "b", "c"];

/// What the random part comes from: a number below its argument.
pub type Draw<'a> = dyn FnMut(u64) -> u64 + 'a;

#[derive(Clone, Debug)]
struct Message {
    id: String,
    ack: Ack,
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
type Record = (String, String, Outcome, i64);

#[derive(Clone)]
struct Model {
    rules: Rules,
    queues: BTreeMap<&'static str, Queue>,
    /// How each message ended; `None`: with its device.
    ends: BTreeMap<String, Option<Outcome>>,
    /// In no batch yet.
    single: Vec<Record>,
}

impl Model {
    fn end(&mut self, device: &str, message: &Message, outcome: Outcome, now: i64) {
        let before = self.ends.insert(message.id.clone(), Some(outcome));
        assert_eq!(before, None, "{} ended twice", message.id);
        if message.ack.wants(outcome) {
            self.single.push((device.to_owned(), message.id.clone(), outcome, now));
        }
    }

    /// Takes each message out, and puts it back as `change` leaves it: the new state, or its end.
    fn each(
        &mut self,
        device: &'static str,
        now: i64,
        mut change: impl FnMut(&mut Message) -> Option<Outcome>,
    ) {
        let messages = self.queues.entry(device).or_default();
        for mut message in std::mem::take(&mut messages.messages) {
            match change(&mut message) {
                Some(outcome) => self.end(device, &message, outcome, now),
                None => self.queues.entry(device).or_default().messages.push(message),
            }
        }
    }

    fn look(&mut self, device: &'static str, now: i64) {
        let most = self.rules.max_delivery_count;
        self.each(device, now, |message| match message.lock {
            Some((_, _, until)) if until <= now => unlocked(message, true, now, most),
            None if message.expires <= now => Some(Outcome::Expired),
            _ => None,
        });
    }
}

fn unlocked(message: &mut Message, in_vain: bool, now: i64, most: u32) -> Option<Outcome> {
    message.lock = None;
    message.count += u32::from(in_vain);
    if in_vain && message.count >= most {
        return Some(Outcome::DeliveryCountExceeded);
    }
    (message.expires <= now).then_some(Outcome::Expired)
}

struct Checker<'a> {
    draw: &'a mut Draw<'a>,
    model: Model,
    now: i64,
    /// Names of messages and tokens.
    next: usize,
    /// Every token that was ever handed out.
    held: Vec<(&'static str, Epoch, LockToken)>,
    /// Batches that have been read and not completed, by sequence, with what they hold.
    batches: BTreeMap<u64, (LockToken, Vec<Record>)>,
    told: Vec<Record>,
}

/// `open`: the stores as a new process finds them.
pub async fn every_message_ends_once<'a>(
    open: impl AsyncFn() -> Stores,
    draw: &'a mut Draw<'a>,
    steps: usize,
) {
    let mut rules = rules();
    rules.depth = 6;
    // What is dropped unread could not be compared.
    rules.feedback.ttl = 1_000 * HOUR;
    rules.feedback.max_delivery_count = u32::MAX;
    let model = Model { rules, queues: BTreeMap::new(), ends: BTreeMap::new(), single: Vec::new() };
    let (held, batches, told) = (Vec::new(), BTreeMap::new(), Vec::new());
    let mut checker = Checker { draw, model, now: NOW, next: 1, held, batches, told };
    let mut stores = open().await;
    for device in DEVICES {
        stores.create(device).await;
    }
    for _ in 0..steps {
        if checker.one_of(40) == 0 {
            drop(stores);
            stores = open().await;
        }
        checker.step(&stores).await;
    }
    checker.finish(&stores).await;
}

impl Checker<'_> {
    fn one_of(&mut self, below: u64) -> u64 {
        (self.draw)(below)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.one_of(of.len() as u64) as usize]
    }

    async fn step(&mut self, stores: &Stores) {
        let device = self.pick(&DEVICES);
        match self.one_of(100) {
            0..25 => self.send(stores, device).await,
            25..50 => self.lease(stores, device).await,
            50..70 => self.settle(stores).await,
            70..75 => self.release(stores, device).await,
            75..78 => self.sweep(stores).await,
            78..80 => self.purge(stores, device).await,
            80..81 => self.delete(stores, device).await,
            81..88 => self.feedback(stores).await,
            88..90 => self.now -= self.one_of(5 * MINUTE as u64) as i64,
            _ => self.now += self.one_of(MINUTE as u64) as i64,
        }
        self.counts(stores).await;
    }

    async fn send(&mut self, stores: &Stores, device: &'static str) {
        let (id, ack) = (format!("m{}", self.next), self.pick(&Ack::ALL));
        self.next += 1;
        let expires = self.now + 1 + self.one_of(5 * MINUTE as u64) as i64;
        let sent = Command { ack, expires: Some(expires), ..command(&id) };
        let Self { model, now, .. } = self;
        let sent = stores.queue.command_send(device, sent, *now, &model.rules).await;
        let before = model.clone();
        model.look(device, *now);
        let queue = model.queues.entry(device).or_default();
        if queue.messages.len() == model.rules.depth as usize {
            assert!(matches!(sent, Err(StoreError::LimitReached)), "{id}: {sent:?}");
            // What is refused leaves everything as it was: also what was over by then may be not
            // over any more for the next, whose clock was set back.
            *model = before;
            return;
        }
        queue.sequence += 1;
        let sequence = queue.sequence;
        assert_eq!(sent.expect("there is room"), sequence);
        queue.messages.push(Message { id, ack, expires, sequence, count: 0, lock: None });
    }

    async fn lease(&mut self, stores: &Stores, device: &'static str) {
        let newest = self.model.queues.entry(device).or_default().epoch;
        let epoch = match self.one_of(10) {
            0..3 => 0,
            3..7 => newest.max(1),
            7..9 => newest + 1,
            _ => newest.saturating_sub(1),
        };
        let most = self.one_of(5) as usize;
        let bytes = if self.one_of(4) == 0 { 1 } else { usize::MAX };
        let tokens: Vec<_> = (self.next..self.next + most).map(token).collect();
        self.next += most;
        let Self { model, now, held, .. } = self;
        let rules = model.rules.clone();
        let (given, until) = (tokens.clone(), *now + rules.lock);
        let leased = stores.queue.command_lease(device, epoch, given, bytes, *now, &rules).await;
        if model.queues.entry(device).or_default().messages.is_empty() {
            assert_eq!(leased.expect("lease"), []);
            return;
        }
        if epoch != 0 && epoch < newest {
            assert!(matches!(leased, Err(StoreError::PreconditionFailed)), "{leased:?}");
            return;
        }
        model.look(device, *now);
        model.each(device, *now, |message| match message.lock {
            Some((_, older, _)) if older != 0 && older < epoch => {
                unlocked(message, true, *now, rules.max_delivery_count)
            }
            _ => None,
        });
        let queue = model.queues.entry(device).or_default();
        let free = queue.messages.iter_mut().filter(|message| message.lock.is_none());
        let mut want = Vec::new();
        for (token, message) in tokens.into_iter().zip(free).take(if bytes == 1 { 1 } else { most })
        {
            message.lock = Some((token, epoch, until));
            held.push((device, epoch, token));
            want.push((message.id.clone(), token, message.sequence, message.count));
        }
        let got = leased.expect("lease").into_iter().map(|one| {
            let id = one.command.message_id.unwrap_or_default();
            (id, one.token, one.sequence, one.delivery_count)
        });
        assert_eq!(got.collect::<Vec<_>>(), want, "{device} {epoch}");
        if epoch != 0 && !want.is_empty() {
            queue.epoch = epoch;
        }
    }

    /// Of anything that was ever handed out, mostly of late.
    async fn settle(&mut self, stores: &Stores) {
        let recent = self.held.len().min(if self.one_of(5) == 0 { usize::MAX } else { 8 });
        if recent == 0 {
            return;
        }
        let at = self.held.len() - 1 - self.one_of(recent as u64) as usize;
        let (device, mut epoch, token) = self.held[at];
        if self.one_of(10) == 0 {
            epoch += 1;
        }
        let ways = [Disposition::Complete, Disposition::Abandon, Disposition::Reject];
        let disposition = self.pick(&ways);
        let Self { model, now, .. } = self;
        let rules = model.rules.clone();
        let tokens = [token];
        let settle = stores.queue.command_settle(device, epoch, &tokens, disposition, *now, &rules);
        let settled = settle.await.expect("settle");
        model.look(device, *now);
        let mut held = false;
        model.each(device, *now, |message| match message.lock {
            Some((of, by, _)) if (of, by) == (token, epoch) => {
                held = true;
                match disposition {
                    Disposition::Complete => Some(Outcome::Success),
                    Disposition::Reject => Some(Outcome::Rejected),
                    Disposition::Abandon => unlocked(message, true, *now, rules.max_delivery_count),
                }
            }
            _ => None,
        });
        assert_eq!(settled, [held], "{device} {epoch} {token}");
    }

    async fn release(&mut self, stores: &Stores, device: &'static str) {
        let newest = self.model.queues.entry(device).or_default().epoch;
        let epoch = newest.saturating_sub(self.one_of(2));
        let in_vain = self.one_of(2) == 0;
        let Self { model, now, .. } = self;
        let rules = model.rules.clone();
        let release = stores.queue.command_release(device, epoch, in_vain, *now, &rules);
        release.await.expect("release");
        let held = |message: &Message| message.lock.is_some_and(|(_, by, _)| by == epoch);
        let messages = &model.queues.entry(device).or_default().messages;
        if epoch == 0 || !messages.iter().any(held) {
            return;
        }
        model.look(device, *now);
        model.each(device, *now, |message| {
            let most = rules.max_delivery_count;
            if held(message) { unlocked(message, in_vain, *now, most) } else { None }
        });
    }

    async fn sweep(&mut self, stores: &Stores) {
        let Self { model, now, .. } = self;
        stores.queue.command_sweep(100, *now, &model.rules).await.expect("sweep");
        for device in DEVICES {
            model.look(device, *now);
        }
    }

    async fn purge(&mut self, stores: &Stores, device: &'static str) {
        let Self { model, now, .. } = self;
        let purged = stores.queue.command_purge(device, *now, &model.rules).await;
        model.look(device, *now);
        let all = model.queues.entry(device).or_default().messages.len();
        model.each(device, *now, |_| Some(Outcome::Purged));
        assert_eq!(purged.expect("purge") as usize, all);
    }

    async fn delete(&mut self, stores: &Stores, device: &'static str) {
        stores.delete(device).await;
        stores.create(device).await;
        let queue = self.model.queues.remove(device).unwrap_or_default();
        self.model.ends.extend(queue.messages.into_iter().map(|message| (message.id, None)));
        self.model.single.retain(|record| record.0 != device);
        for (_, records) in self.batches.values_mut() {
            records.retain(|record| record.0 != device);
        }
    }

    /// Reads a batch, and completes or abandons it, or lets its time run out.
    async fn feedback(&mut self, stores: &Stores) {
        let token = token(self.next);
        self.next += 1;
        let rules = self.model.rules.feedback.clone();
        let batch = stores.queue.feedback_lease(token, self.now, &rules).await.expect("lease");
        let Some(batch) = batch else {
            let full = self.model.single.len() >= rules.batch_records as usize;
            let age = self.model.single.first().map(|record| self.now - record.3);
            assert!(!full && age.is_none_or(|age| (0..rules.batch_age).contains(&age)));
            return;
        };
        let sequence = batch.sequence;
        self.check(batch, token);
        let way = match self.one_of(3) {
            0 => return,
            1 => Disposition::Complete,
            _ => Disposition::Abandon,
        };
        let settled = stores.queue.feedback_settle(token, way, self.now, &rules).await;
        assert!(settled.expect("settle"));
        if way == Disposition::Complete {
            let (_, records) = self.batches.remove(&sequence).expect("it was read");
            self.told.extend(records);
        }
    }

    /// A batch is one that was read before, or the first records that are in none. Of records of one
    /// moment the order is that of each device.
    fn check(&mut self, batch: FeedbackBatch, token: LockToken) {
        let of = |one: FeedbackRecord| (one.device_id, one.message_id, one.outcome, one.enqueued);
        let got: Vec<Record> = batch.records.into_iter().map(of).collect();
        let (before, known) = self.batches.entry(batch.sequence).or_insert((token, Vec::new()));
        *before = token;
        if known.is_empty() {
            let single = &mut self.model.single;
            assert!(got.len() <= single.len(), "{got:?} of {single:?}");
            for record in &got {
                let of_device = single.iter().position(|one| one.0 == record.0);
                assert_eq!(of_device.map(|at| single.remove(at)).as_ref(), Some(record));
            }
            *known = got;
        } else {
            assert_eq!(*known, got);
        }
    }

    async fn counts(&mut self, stores: &Stores) {
        let device = self.pick(&DEVICES);
        let Self { model, now, .. } = self;
        let count = stores.queue.command_count(device, *now, &model.rules).await.expect("count");
        let most = model.rules.max_delivery_count;
        let queued = model.queues.entry(device).or_default().messages.iter().filter(|message| {
            let mut message = (*message).clone();
            match message.lock {
                Some((_, _, until)) if until > *now => true,
                Some(_) => unlocked(&mut message, true, *now, most).is_none(),
                None => message.expires > *now,
            }
        });
        assert_eq!(count as usize, queued.count(), "{device}");
    }

    /// Lets everything end, and reads all of the feedback.
    async fn finish(mut self, stores: &Stores) {
        self.now = self.now.max(NOW) + 100 * HOUR;
        self.sweep(stores).await;
        let rules = FeedbackRules { batch_age: 0, ..self.model.rules.feedback.clone() };
        loop {
            let token = token(self.next);
            self.next += 1;
            let batch = stores.queue.feedback_lease(token, self.now, &rules).await;
            let Some(batch) = batch.expect("lease") else { break };
            let sequence = batch.sequence;
            self.check(batch, token);
            let complete = Disposition::Complete;
            let settled = stores.queue.feedback_settle(token, complete, self.now, &rules).await;
            assert!(settled.expect("settle"));
            let (_, records) = self.batches.remove(&sequence).expect("it was read");
            self.told.extend(records);
        }
        assert!(self.model.single.is_empty() && self.batches.values().all(|one| one.1.is_empty()));
        let mut told = BTreeSet::new();
        for (_, id, outcome, _) in &self.told {
            assert_eq!(self.model.ends.get(id), Some(&Some(*outcome)), "{id}");
            assert!(told.insert(id), "{id} was told of twice");
        }
        for (device, queue) in &self.model.queues {
            assert!(queue.messages.is_empty(), "{device}: {:?}", queue.messages);
        }
    }
}
