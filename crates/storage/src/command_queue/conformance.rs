//! What every `CommandQueue` must do: one function per part of its specification. Each wants a store
//! of its own, empty, beside the `DeviceStore` on the same data.

use std::collections::BTreeSet;
use std::sync::Arc;

use dunlin_model::command::{Ack, Disposition, LockToken, Outcome};
use dunlin_model::{Command, Identity};

use super::{CommandQueue, FeedbackRecord, FeedbackRules, Lease, Leased, Rules, Settlement, Swept};
use crate::device_store::conformance::{RACERS, race, sample};
use crate::device_store::{IdentityWrite, IfMatch};
use crate::presence::Epoch;
use crate::{DeviceStore, StoreError};

mod checker;
mod feedback;
mod locks;
pub mod model;
mod watched;

pub use checker::every_message_ends_once;
pub use feedback::*;
pub use locks::*;
pub use watched::Watch;

/// Two ports on the same data.
#[derive(Clone)]
pub struct Stores {
    pub devices: Arc<dyn DeviceStore>,
    pub queue: Arc<dyn CommandQueue>,
}

pub const NOW: i64 = 1_485_907_200_000;
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

pub fn rules() -> Rules {
    Rules {
        depth: 50,
        lock: MINUTE,
        max_delivery_count: 3,
        feedback: FeedbackRules {
            batch_records: 4,
            batch_age: 15_000,
            lock: MINUTE,
            ttl: HOUR,
            max_delivery_count: 3,
        },
    }
}

/// A message with that id, which lives for an hour.
pub fn command(id: &str) -> Command {
    let (message_id, body) = (Some(id.to_owned()), id.as_bytes().to_vec());
    let expires = Some(NOW + HOUR);
    Command { message_id, body, expires, ack: Ack::Full, ..Command::default() }
}

fn token(n: usize) -> LockToken {
    LockToken::from_bytes((n as u128).to_be_bytes())
}

fn ids(leased: &[Leased]) -> Vec<&str> {
    leased.iter().filter_map(|one| one.command.message_id.as_deref()).collect()
}

fn tokens(leased: &[Leased]) -> Vec<LockToken> {
    leased.iter().map(|one| one.token).collect()
}

impl Stores {
    async fn create(&self, joined: &str) {
        self.devices.identity_create(sample(joined)).await.expect("create");
    }

    async fn delete(&self, joined: &str) {
        let id = Identity::parse(joined).expect("an id");
        self.devices.identity_delete(&id, IfMatch::Any).await.expect("delete");
    }

    async fn send(&self, device: &str, command: Command, now: i64) -> Result<u64, StoreError> {
        self.queue.command_send(device, command, now, &rules()).await
    }

    /// A device `d` with these messages.
    async fn queued(&self, ids: &[&str]) {
        self.create("d").await;
        for id in ids {
            self.send("d", command(id), NOW).await.expect("send");
        }
    }

    /// The first `most` of `d`, under tokens from `first` on.
    async fn lease(
        &self,
        epoch: Epoch,
        first: usize,
        most: usize,
        now: i64,
    ) -> Result<Vec<Leased>, StoreError> {
        let tokens = (first..first + most).map(token).collect();
        let lease = self.queue.command_lease("d", epoch, tokens, usize::MAX, now, &rules()).await;
        lease.map(|lease| lease.messages)
    }

    async fn leased(&self, epoch: Epoch, first: usize, most: usize, now: i64) -> Vec<Leased> {
        self.lease(epoch, first, most, now).await.expect("lease")
    }

    async fn settle(
        &self,
        epoch: Epoch,
        tokens: &[LockToken],
        disposition: Disposition,
        now: i64,
    ) -> Vec<bool> {
        let settled =
            self.queue.command_settle("d", epoch, tokens, disposition, now, &rules()).await;
        settled.expect("settle").held
    }

    async fn purge(&self, device: &str, now: i64) -> Result<u32, StoreError> {
        self.queue.command_purge(device, now, &rules()).await
    }

    async fn release(&self, epoch: Epoch, in_vain: bool, now: i64) {
        self.queue.command_release("d", epoch, in_vain, now, &rules()).await.expect("release");
    }

    async fn count(&self, now: i64) -> u32 {
        self.queue.command_count("d", now, &rules()).await.expect("count")
    }

    async fn sweep(&self, now: i64) -> Swept {
        self.queue.command_sweep(100, now, &rules()).await.expect("sweep")
    }

    /// All feedback there is, batch by batch: message and outcome.
    async fn told(&self, now: i64) -> Vec<(String, Outcome)> {
        let mut told = Vec::new();
        let rules = FeedbackRules { batch_age: 0, ..rules().feedback };
        for n in 0.. {
            let token = token(1_000_000 + n);
            let Some(batch) = self.queue.feedback_lease(token, now, &rules).await.expect("lease")
            else {
                break;
            };
            let of = |record: FeedbackRecord| (record.message_id, record.outcome);
            told.extend(batch.records.into_iter().map(of));
            let settle = self.queue.feedback_settle(token, Disposition::Complete, now, &rules);
            assert!(settle.await.expect("settle"));
        }
        told
    }
}

fn ended(all: &[(&str, Outcome)]) -> Vec<(String, Outcome)> {
    all.iter().map(|(id, outcome)| ((*id).to_owned(), *outcome)).collect()
}

pub async fn a_message_is_handed_out_as_it_was_sent(stores: Stores) {
    stores.create("d").await;
    stores.create("e").await;
    let full = Command {
        message_id: Some("m".into()),
        correlation_id: Some("c".into()),
        user_id: Some("u".into()),
        content_type: Some("text/plain".into()),
        content_encoding: Some("utf-8".into()),
        expires: Some(NOW + 5),
        ack: Ack::Negative,
        properties: vec![("a".into(), "ä\u{2028}'".into()), ("a".into(), String::new())],
        body: vec![0, 0xff, b'x'],
    };
    let bare = Command { expires: Some(NOW + 5), ..Command::default() };
    assert_eq!(stores.send("d", full.clone(), NOW).await.expect("send"), 1);
    assert_eq!(stores.send("e", bare.clone(), NOW).await.expect("send"), 1, "each its own");
    assert_eq!(stores.send("d", bare.clone(), NOW + 1).await.expect("send"), 2);
    let leased = stores.leased(7, 0, 9, NOW + 2).await;
    let want = |command, n: usize, enqueued| Leased {
        command,
        token: token(n),
        sequence: n as u64 + 1,
        delivery_count: 0,
        enqueued,
    };
    assert_eq!(leased, [want(full, 0, NOW), want(bare, 1, NOW + 1)]);
    assert_eq!(stores.settle(7, &tokens(&leased), Disposition::Complete, NOW + 3).await, [true; 2]);
    assert_eq!(stores.send("d", command("n"), NOW + 4).await.expect("send"), 3, "it goes on");
}

pub async fn only_devices_have_queues(stores: Stores) {
    stores.create("d").await;
    stores.create("d/m").await;
    for id in ["x", "D", "d/m", ""] {
        let sent = stores.send(id, command("m"), NOW).await;
        assert!(matches!(sent, Err(StoreError::NotFound)), "{id}");
        let purged = stores.purge(id, NOW).await;
        assert!(matches!(purged, Err(StoreError::NotFound)), "{id}");
        let count = stores.queue.command_count(id, NOW, &rules()).await;
        assert!(matches!(count, Err(StoreError::NotFound)), "{id}");
        let lease = stores.queue.command_lease(id, 1, vec![token(0)], 9, NOW, &rules()).await;
        assert_eq!(lease.expect("lease"), Lease::default());
        let complete = Disposition::Complete;
        let settled =
            stores.queue.command_settle(id, 1, &[token(0)], complete, NOW, &rules()).await;
        assert_eq!(settled.expect("settle").held, [false]);
    }
    assert_eq!(stores.count(NOW).await, 0);
}

pub async fn a_full_queue_takes_no_more(stores: Stores) {
    stores.create("d").await;
    for n in 0..50 {
        stores.send("d", command(&n.to_string()), NOW).await.expect("send");
    }
    let full = |sent| assert!(matches!(sent, Err(StoreError::LimitReached)));
    full(stores.send("d", command("51"), NOW).await);
    // Those that are locked count, those that have ended do not.
    let leased = stores.leased(1, 0, 2, NOW).await;
    full(stores.send("d", command("51"), NOW).await);
    assert_eq!(stores.settle(1, &[leased[0].token], Disposition::Complete, NOW).await, [true]);
    let sequence = stores.send("d", command("51"), NOW).await.expect("send");
    assert_eq!(sequence, 51, "what was refused left no gap");
    full(stores.send("d", command("52"), NOW).await);
    let late = Command { expires: Some(NOW + 2 * HOUR), ..command("53") };
    stores.send("d", late, NOW + HOUR).await.expect("the others have expired");
    assert_eq!(stores.count(NOW + HOUR).await, 1);
}

pub async fn a_device_takes_its_queue_along(stores: Stores) {
    stores.queued(&["1", "2", "3", "4"]).await;
    stores.create("d/m").await;
    stores.create("e").await;
    stores.send("e", command("of e"), NOW).await.expect("send");
    stores.purge("e", NOW).await.expect("purge");
    let leased = stores.leased(9, 0, 2, NOW).await;
    stores.settle(9, &[leased[0].token], Disposition::Reject, NOW).await;
    stores.delete("d/m").await;
    assert_eq!(stores.count(NOW).await, 3, "a module is not meant");
    stores.delete("d").await;
    assert_eq!(stores.told(NOW).await, ended(&[("of e", Outcome::Purged)]));
    assert_eq!(stores.settle(9, &[leased[1].token], Disposition::Complete, NOW).await, [false]);

    stores.create("d").await;
    assert_eq!(stores.count(NOW).await, 0);
    assert_eq!(stores.leased(9, 10, 9, NOW).await, []);
    assert_eq!(stores.send("d", command("new"), NOW).await.expect("send"), 1, "it begins anew");
    assert_eq!(stores.settle(9, &[leased[1].token], Disposition::Complete, NOW).await, [false]);
    assert_eq!(ids(&stores.leased(1, 20, 9, NOW).await), ["new"], "so do epochs");

    // A group that is refused deletes nothing.
    let any = || IfMatch::Any;
    let delete = |id: &str| IdentityWrite::Delete(Identity::parse(id).expect("an id"), any());
    let written = stores.devices.identity_write(vec![vec![delete("d"), delete("x")]]).await;
    assert!(written.expect("written")[0].is_err());
    assert_eq!(stores.count(NOW).await, 1);
}

pub async fn a_purge_ends_all(stores: Stores) {
    stores.queued(&["1", "2"]).await;
    let early = Command { expires: Some(NOW + 5), ..command("3") };
    stores.send("d", early, NOW).await.expect("send");
    stores.create("e").await;
    stores.send("e", command("of e"), NOW).await.expect("send");
    let leased = stores.leased(1, 0, 1, NOW).await;
    assert_eq!(
        stores.purge("d", NOW + 5).await.expect("purge"),
        2,
        "one has expired, one is locked"
    );
    assert_eq!(stores.purge("d", NOW + 5).await.expect("purge"), 0);
    assert_eq!(stores.settle(1, &tokens(&leased), Disposition::Complete, NOW + 5).await, [false]);
    let want = [("3", Outcome::Expired), ("1", Outcome::Purged), ("2", Outcome::Purged)];
    assert_eq!(stores.told(NOW + 5).await, ended(&want));
    assert_eq!(stores.queue.command_count("e", NOW, &rules()).await.expect("count"), 1);
}

pub async fn concurrent_sends_each_have_a_place(stores: Stores) {
    stores.create("d").await;
    let few = Rules { depth: RACERS as u32 - 3, ..rules() };
    let sent = race(|n| {
        let (stores, few) = (stores.clone(), few.clone());
        async move { stores.queue.command_send("d", command(&n.to_string()), NOW, &few).await }
    });
    let (sent, refused): (Vec<_>, Vec<_>) = sent.await.into_iter().partition(Result::is_ok);
    let places: BTreeSet<_> = sent.into_iter().flatten().collect();
    assert_eq!(places, (1..RACERS as u64 - 2).collect());
    assert_eq!(refused.len(), 3);
    assert!(refused.iter().all(|one| matches!(one, Err(StoreError::LimitReached))));
}

pub async fn concurrent_leases_share_nothing(stores: Stores) {
    let all: Vec<_> = (0..RACERS).map(|n| n.to_string()).collect();
    stores.queued(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let settled = race(|n| {
        let stores = stores.clone();
        async move {
            let leased = stores.leased(0, 10 * n, 2, NOW).await;
            let complete = Disposition::Complete;
            let settled = stores.settle(0, &tokens(&leased), complete, NOW).await;
            assert_eq!(settled, vec![true; leased.len()]);
            ids(&leased).into_iter().map(str::to_owned).collect::<Vec<_>>()
        }
    });
    let mut settled = settled.await.concat();
    settled.sort_by_key(|id| id.parse::<usize>().expect("a number"));
    assert_eq!(settled, all, "each once");
    assert_eq!(stores.count(NOW).await, 0);
    assert_eq!(stores.told(NOW).await.len(), RACERS);
}
