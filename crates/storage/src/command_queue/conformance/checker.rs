//! Random sends, leases, settlements, disconnects, takeovers, purges, restarts and steps of the
//! clock, watched by a model: whatever is answered must be what the model answers. At the end every
//! message has ended exactly once, and feedback says the same.

use super::*;

const DEVICES: [&str; 3] = ["a", "b", "c"];

/// What the random part comes from: a number below its argument.
pub type Draw<'a> = dyn FnMut(u64) -> u64 + 'a;

struct Checker<'a> {
    draw: &'a mut Draw<'a>,
    rules: Rules,
    watch: Watch,
    now: i64,
    /// Names of messages and tokens.
    next: usize,
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
    let watch = Watch::default();
    let open = async || {
        let stores = open().await;
        Stores { queue: watch.over(stores.queue), ..stores }
    };
    let mut checker = Checker { draw, rules, watch: watch.clone(), now: NOW, next: 1 };
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

    fn token(&mut self) -> LockToken {
        self.next += 1;
        token(self.next)
    }

    async fn step(&mut self, stores: &Stores) {
        let device = self.pick(&DEVICES);
        let (queue, now, rules) = (&stores.queue, self.now, self.rules.clone());
        // The answers are the model's to judge.
        match self.one_of(100) {
            0..25 => self.send(stores, device).await,
            25..50 => self.lease(stores, device).await,
            50..70 => self.settle(stores).await,
            70..75 => {
                let newest = self.watch.model().await.epoch(device);
                let epoch = newest.saturating_sub(self.one_of(2));
                let in_vain = self.one_of(2) == 0;
                let _ = queue.command_release(device, epoch, in_vain, now, &rules).await;
            }
            75..78 => drop(queue.command_sweep(100, now, &rules).await),
            78..80 => drop(queue.command_purge(device, now, &rules).await),
            80..81 => {
                stores.delete(device).await;
                stores.create(device).await;
                self.watch.model().await.deleted(device);
            }
            81..88 => self.feedback(stores).await,
            88..90 => self.now -= self.one_of(5 * MINUTE as u64) as i64,
            _ => self.now += self.one_of(MINUTE as u64) as i64,
        }
        let device = self.pick(&DEVICES);
        let _ = queue.command_count(device, self.now, &rules).await;
    }

    async fn send(&mut self, stores: &Stores, device: &str) {
        let (id, ack) = (format!("m{}", self.next), self.pick(&Ack::ALL));
        self.next += 1;
        let expires = self.now + 1 + self.one_of(5 * MINUTE as u64) as i64;
        let sent = Command { ack, expires: Some(expires), ..command(&id) };
        let _ = stores.queue.command_send(device, sent, self.now, &self.rules).await;
    }

    async fn lease(&mut self, stores: &Stores, device: &str) {
        let newest = self.watch.model().await.epoch(device);
        let epoch = match self.one_of(10) {
            0..3 => 0,
            3..7 => newest.max(1),
            7..9 => newest + 1,
            _ => newest.saturating_sub(1),
        };
        let most = self.one_of(5);
        let bytes = if self.one_of(4) == 0 { 1 } else { usize::MAX };
        let tokens = (0..most).map(|_| self.token()).collect();
        let (now, rules) = (self.now, &self.rules);
        let _ = stores.queue.command_lease(device, epoch, tokens, bytes, now, rules).await;
    }

    /// Of anything that was ever handed out, mostly of late.
    async fn settle(&mut self, stores: &Stores) {
        let held = self.watch.model().await.handed_out.clone();
        let recent = held.len().min(if self.one_of(5) == 0 { usize::MAX } else { 8 });
        if recent == 0 {
            return;
        }
        let one = &held[held.len() - 1 - self.one_of(recent as u64) as usize];
        let epoch = one.epoch + u64::from(self.one_of(10) == 0);
        let ways = [Disposition::Complete, Disposition::Abandon, Disposition::Reject];
        let (way, tokens) = (self.pick(&ways), [one.token]);
        let (now, rules) = (self.now, &self.rules);
        let _ = stores.queue.command_settle(&one.device, epoch, &tokens, way, now, rules).await;
    }

    /// Reads a batch, and completes or abandons it, or lets its time run out.
    async fn feedback(&mut self, stores: &Stores) {
        let token = self.token();
        let (now, rules) = (self.now, self.rules.feedback.clone());
        let batch = stores.queue.feedback_lease(token, now, &rules).await;
        let way = match self.one_of(3) {
            0 => return,
            1 => Disposition::Complete,
            _ => Disposition::Abandon,
        };
        if matches!(batch, Ok(Some(_))) {
            let _ = stores.queue.feedback_settle(token, way, now, &rules).await;
        }
    }

    /// Lets everything end, and reads all of the feedback.
    async fn finish(mut self, stores: &Stores) {
        let now = self.now.max(NOW) + 100 * HOUR;
        let _ = stores.queue.command_sweep(100, now, &self.rules).await;
        let rules = FeedbackRules { batch_age: 0, ..self.rules.feedback.clone() };
        loop {
            let token = self.token();
            let batch = stores.queue.feedback_lease(token, now, &rules).await;
            if batch.expect("lease").is_none() {
                break;
            }
            let complete = Disposition::Complete;
            let _ = stores.queue.feedback_settle(token, complete, now, &rules).await;
        }
        self.watch.model().await.must_be_done();
    }
}
