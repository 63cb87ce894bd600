//! Feedback: who gets a record, and the queue that they are read from.

use super::*;
use crate::command_queue::FeedbackBatch;

impl Stores {
    async fn feedback(&self, n: usize, now: i64) -> Option<FeedbackBatch> {
        self.queue.feedback_lease(token(n), now, &rules().feedback).await.expect("lease")
    }

    async fn feedback_settle(&self, n: usize, disposition: Disposition, now: i64) -> bool {
        let rules = rules().feedback;
        self.queue.feedback_settle(token(n), disposition, now, &rules).await.expect("settle")
    }

    /// That many records of `d`, as of `now`.
    async fn purged(&self, messages: usize, now: i64) {
        for n in 0..messages {
            let late = Command { expires: Some(now + HOUR), ..command(&n.to_string()) };
            self.send("d", late, now).await.expect("send");
        }
        self.purge("d", now).await.expect("purge");
    }
}

fn of(batch: Option<FeedbackBatch>) -> Option<Vec<String>> {
    batch.map(|batch| batch.records.into_iter().map(|record| record.message_id).collect())
}

pub async fn feedback_is_what_the_message_asked_for(stores: Stores) {
    stores.create("d").await;
    for ack in Ack::ALL {
        for end in Outcome::ALL {
            let id = Some(format!("{} {}", ack.as_str(), end.as_str()));
            let expires = Some(NOW + 9);
            let sent = Command { message_id: id, ack, expires, ..command("") };
            stores.send("d", sent, NOW).await.expect("send");
            let held = stores.leased(1, 0, 1, NOW).await;
            let settle = async |disposition| stores.settle(1, &[token(0)], disposition, NOW).await;
            match end {
                Outcome::Success => assert_eq!(settle(Disposition::Complete).await, [true]),
                Outcome::Rejected => assert_eq!(settle(Disposition::Reject).await, [true]),
                Outcome::Purged => {
                    stores.purge("d", NOW).await.expect("purge");
                }
                Outcome::Expired => {
                    stores.release(1, false, NOW).await;
                    stores.sweep(NOW + 9).await;
                }
                Outcome::DeliveryCountExceeded => {
                    for _ in 0..3 {
                        assert_eq!(settle(Disposition::Abandon).await, [true]);
                        stores.leased(1, 0, 1, NOW).await;
                    }
                }
            }
            assert_eq!((held.len(), stores.count(NOW).await), (1, 0));
        }
    }
    let want = Ack::ALL.into_iter().flat_map(|ack| {
        let ends = Outcome::ALL.into_iter().filter(move |end| ack.wants(*end));
        ends.map(move |end| (format!("{} {}", ack.as_str(), end.as_str()), end))
    });
    assert_eq!(stores.told(NOW).await, want.collect::<Vec<_>>());
}

pub async fn a_record_has_every_field(stores: Stores) {
    stores.create("d").await;
    let nameless = Command { message_id: None, ..command("") };
    stores.send("d", nameless, NOW).await.expect("send");
    stores.purge("d", NOW + 5).await.expect("purge");
    let want = FeedbackBatch {
        token: token(3),
        sequence: 1,
        delivery_count: 0,
        enqueued: NOW + 15_005,
        records: vec![FeedbackRecord {
            message_id: String::new(),
            outcome: Outcome::Purged,
            enqueued: NOW + 5,
            device_id: "d".into(),
            generation_id: "generation of d".into(),
        }],
    };
    assert_eq!(stores.feedback(3, NOW + 15_005).await, Some(want));
}

pub async fn a_batch_is_full_or_ripe(stores: Stores) {
    stores.create("d").await;
    assert_eq!(stores.feedback(0, NOW).await, None);
    stores.purged(3, NOW).await;
    assert_eq!(stores.feedback(0, NOW + 14_999).await, None);
    stores.purged(1, NOW + 14_999).await;
    assert_eq!(of(stores.feedback(0, NOW + 14_999).await).expect("full").len(), 4);
    stores.purged(6, NOW + 14_999).await;
    assert_eq!(of(stores.feedback(1, NOW + 14_999).await).expect("full").len(), 4);
    assert_eq!(stores.feedback(2, NOW + 29_998).await, None);
    let last = stores.feedback(2, NOW + 29_999).await.expect("ripe");
    assert_eq!((last.records.len(), last.sequence), (2, 3));
    // A clock that was set back does not hold them up.
    stores.purged(1, NOW + HOUR).await;
    assert_eq!(of(stores.feedback(3, NOW).await).expect("ripe").len(), 1);
}

pub async fn a_batch_is_read_under_a_lock(stores: Stores) {
    stores.create("d").await;
    stores.purged(8, NOW).await;
    let first = stores.feedback(0, NOW).await.expect("full");
    let second = stores.feedback(1, NOW).await.expect("another");
    assert_eq!(stores.feedback(2, NOW).await, None);
    assert!(stores.feedback_settle(0, Disposition::Abandon, NOW).await);
    assert!(!stores.feedback_settle(0, Disposition::Complete, NOW).await);
    let again = stores.feedback(3, NOW).await.expect("back");
    assert_eq!(again, FeedbackBatch { token: token(3), delivery_count: 1, ..first });
    assert!(stores.feedback_settle(3, Disposition::Complete, NOW).await);
    assert_eq!(stores.feedback(4, NOW + MINUTE - 1).await, None);
    assert!(!stores.feedback_settle(1, Disposition::Complete, NOW + MINUTE).await);
    let again = stores.feedback(4, NOW + MINUTE).await.expect("its time is over");
    assert_eq!(again, FeedbackBatch { token: token(4), delivery_count: 1, ..second });
    // Two hand-outs in vain; with the third it goes.
    assert!(stores.feedback_settle(4, Disposition::Abandon, NOW + MINUTE).await);
    stores.feedback(5, NOW + MINUTE).await.expect("the third time");
    assert!(stores.feedback_settle(5, Disposition::Abandon, NOW + MINUTE).await);
    assert_eq!(stores.feedback(6, NOW + MINUTE).await, None);
    stores.purged(4, NOW).await;
    stores.feedback(7, NOW).await.expect("full");
    assert!(stores.feedback_settle(7, Disposition::Reject, NOW).await);
    assert_eq!(stores.feedback(8, NOW).await, None);
}

pub async fn a_sweep_ends_no_lock_of_feedback(stores: Stores) {
    stores.create("d").await;
    stores.purged(4, NOW).await;
    stores.feedback(0, NOW).await.expect("full");
    let short = Command { expires: Some(NOW + 9), ..command("") };
    stores.send("d", short, NOW).await.expect("send");
    stores.sweep(NOW + MINUTE).await;
    assert_eq!(stores.count(NOW).await, 0, "there was something to look at");
    // The clock was set back. So the lock ends for who asks later, and for nobody else.
    assert!(stores.feedback_settle(0, Disposition::Complete, NOW).await);
}

pub async fn old_feedback_goes(stores: Stores) {
    stores.create("d").await;
    stores.purged(5, NOW).await;
    let held = stores.feedback(0, NOW + HOUR - 1).await.expect("full");
    assert_eq!(held.records.len(), 4);
    assert_eq!(stores.feedback(1, NOW + HOUR).await, None, "the fifth is too old");
    assert!(stores.feedback_settle(0, Disposition::Complete, NOW + HOUR).await, "it was held");
    stores.purged(4, NOW).await;
    stores.feedback(2, NOW).await.expect("full");
    stores.sweep(NOW + HOUR).await;
    assert_eq!(stores.feedback(3, NOW).await, None, "nobody had it in time");
    assert!(!stores.feedback_settle(2, Disposition::Complete, NOW).await);
}

pub async fn feedback_goes_with_its_device(stores: Stores) {
    for id in ["d", "e"] {
        stores.create(id).await;
    }
    stores.purged(3, NOW).await;
    stores.send("e", command("of e"), NOW).await.expect("send");
    stores.purge("e", NOW).await.expect("purge");
    assert_eq!(stores.feedback(0, NOW).await.expect("full").records.len(), 4);
    stores.purged(4, NOW).await;
    stores.feedback(1, NOW).await.expect("full");
    stores.delete("d").await;
    assert!(stores.feedback_settle(0, Disposition::Abandon, NOW).await);
    assert_eq!(of(stores.feedback(2, NOW).await), Some(vec!["of e".to_owned()]));
    assert!(stores.feedback_settle(1, Disposition::Complete, NOW).await, "what is left of it");
    assert!(stores.feedback_settle(2, Disposition::Abandon, NOW).await);
    stores.delete("e").await;
    assert_eq!(stores.feedback(3, NOW).await, None);
}
