//! C2D messages of a connection: leased as there is room, published, completed on PUBACK.
//!
//! There is one lease call at a time. A connection that has nothing of them keeps nothing for them.

use std::rc::Rc;
use std::sync::Arc;

use dunlin_model::ErrorCode;
use dunlin_model::session::{QoS, Topic};
use dunlin_proto::v1::{Disposition, LeasedCommand};
use tokio::sync::oneshot;

use super::connection::Connection;
use super::devicebound;
use super::push::Held;
use crate::commands::{Leased, Leases};
use crate::queue::Message;
use crate::worker::Worker;

/// Seconds between attempts at a lease call that fails, at most.
const MAX_PAUSE: u32 = 30;

#[derive(Default)]
pub(super) struct Commands {
    leases: Option<Arc<Leases>>,
    /// A lease call is under way.
    asking: bool,
    /// There may be more in the queue than was leased.
    more: bool,
    /// Lease calls that failed in a row, and the worker's time of the next.
    failures: u32,
    retry: Option<u32>,
    /// Who waits for what is being given back, the connection having ended.
    heirs: Option<Vec<oneshot::Sender<()>>>,
}

impl Commands {
    pub fn is_empty(&self) -> bool {
        !self.asking
            && !self.more
            && self.retry.is_none()
            && self.heirs.is_none()
            && self.leases.as_ref().is_none_or(|leases| leases.is_empty())
    }
}

impl Connection {
    /// Leases what the queue has and the device has room for.
    pub(super) fn look_for_commands(&self, worker: &Rc<Worker>) {
        // Modules have no queue.
        let wanted = self.session.subscriptions().get(Topic::Commands).is_some()
            && self.session.identity().module_id().is_none();
        if !wanted || self.is_leaving() {
            return;
        }
        let congested = self.is_congested();
        let call = self.with_rare(|rare| {
            let commands = &mut rare.commands;
            commands.more = true;
            let most = rare.outbound.room();
            if commands.asking || commands.retry.is_some() || most == 0 || congested {
                return None;
            }
            (commands.asking, commands.more) = (true, false);
            let leases = commands.leases.get_or_insert_with(|| self.session.leases());
            Some((leases.clone(), most))
        });
        if let Some((leases, most)) = call {
            let (key, queue) = (self.key(), worker.queue.clone());
            leases.lease(most, move |leased| queue.tell(key, Message::Leased(leased)));
        }
    }

    /// The queue has something: whatever failed before, the role is there.
    pub(super) fn commands_wait(&self, worker: &Rc<Worker>) {
        self.if_rare(|rare| rare.commands.retry = None);
        self.look_for_commands(worker);
    }

    /// What came of the lease call.
    pub(super) fn leased(&self, Leased { result, leases }: Leased, worker: &Rc<Worker>) {
        let qos = self.session.subscriptions().get(Topic::Commands);
        match (result, qos) {
            (Ok(leased), Some(qos)) => {
                self.with_rare(|rare| {
                    rare.commands.more |= leased.more;
                    (rare.commands.asking, rare.commands.failures) = (false, 0);
                });
                // A second for the coarse clock.
                let until = worker.now() + leased.lock_seconds + 1;
                for command in leased.commands {
                    self.deliver(command, qos, until, &leases);
                }
            }
            // Unsubscribed meanwhile.
            (Ok(leased), None) if !leased.commands.is_empty() => {
                // It is a call like the one that has ended.
                let (key, queue) = (self.key(), worker.queue.clone());
                return leases.give_back(move |none| queue.tell(key, Message::Leased(none)));
            }
            (Ok(_), None) => {
                self.with_rare(|rare| (rare.commands.asking, rare.commands.more) = (false, false));
            }
            (Err(error), _) => {
                let (identity, again) = (self.session.identity(), error.retryable());
                tracing::debug!(%identity, %error, again, "C2D messages cannot be leased");
                self.with_rare(|rare| {
                    let commands = &mut rare.commands;
                    // Else a newer connection has them, or the device is gone: this one goes too.
                    (commands.asking, commands.more) = (false, again);
                    commands.failures += 1;
                    let pause = (1 << commands.failures.min(5)).min(MAX_PAUSE);
                    // Many connections fail at once, and are not to try again at once.
                    commands.retry = again.then(|| worker.now() + fastrand::u32(1..=pause));
                });
            }
        }
        drop(leases);
        if self.if_rare(|rare| rare.commands.more) == Some(true) {
            self.look_for_commands(worker);
        }
        self.tidy();
    }

    /// `until`: the worker's time at which its lock runs out.
    fn deliver(&self, leased: LeasedCommand, qos: QoS, until: u32, leases: &Arc<Leases>) {
        let LeasedCommand { command, lock_token, sequence, delivery_count, .. } = leased;
        let command = command.unwrap_or_default();
        let Some(topic) = devicebound::topic(self.session.identity(), &command) else {
            let identity = self.session.identity();
            tracing::info!(%identity, sequence, "a C2D message is rejected: its properties fit no topic");
            leases.settle(lock_token, Disposition::Reject);
            return;
        };
        let (packet_id, dup) = match qos {
            QoS::AtMostOnce => {
                leases.settle(lock_token, Disposition::Complete);
                (None, false)
            }
            QoS::AtLeastOnce => {
                let held = Held { sequence, lock_token, until };
                match self.with_rare(|rare| rare.outbound.hold(held)) {
                    None => return self.end(ErrorCode::DeviceConnectionClosedRemotely),
                    id => (id, delivery_count > 0),
                }
            }
        };
        self.send(topic, packet_id, dup, command.body.into());
    }

    /// PUBACK: the message is done with. One whose lock is lost comes again all the same.
    pub(super) fn acknowledged(&self, held: Held, worker: &Rc<Worker>) {
        let more = self.with_rare(|rare| {
            if let Some(leases) = &rare.commands.leases {
                leases.settle(held.lock_token, Disposition::Complete);
            }
            rare.commands.more
        });
        if more {
            self.look_for_commands(worker);
        }
    }

    /// Once a second: what is due again, and whose lock has run out.
    pub(super) fn check_commands(&self, now: u32, worker: &Rc<Worker>) {
        let due = self.if_rare(|rare| {
            let commands = &mut rare.commands;
            if commands.retry.is_some_and(|at| at <= now) {
                commands.retry = None;
            }
            rare.outbound.lose(now) || commands.more && !commands.asking
        });
        if due == Some(true) {
            self.look_for_commands(worker);
        }
    }

    /// Whether it has leased anything.
    pub fn has_leases(&self) -> bool {
        self.if_rare(|rare| rare.commands.leases.is_some()) == Some(true)
    }

    /// It is closed as it should be: what it still holds was not in vain.
    pub(super) fn close_leases(&self) {
        self.if_rare(|rare| rare.commands.leases.as_ref().map(|leases| leases.close()));
    }

    /// Settles what is acknowledged and gives back the rest; resolves when that is done.
    pub(super) async fn give_leases_back(&self) {
        let (done, gone) = oneshot::channel();
        self.with_rare(|rare| {
            rare.commands.heirs = Some(Vec::new());
            if let Some(leases) = rare.commands.leases.take() {
                leases.when_gone(done);
            }
        });
        // By being dropped, it tells.
        let _ = gone.await;
    }

    /// Tells when what is leased is settled or given back, by dropping `done`: at once, if there is
    /// nothing.
    pub fn when_leases_are_gone(&self, done: oneshot::Sender<()>) {
        self.if_rare(|rare| match (&rare.commands.leases, &mut rare.commands.heirs) {
            (Some(leases), _) => leases.when_gone(done),
            // They go with the connection.
            (None, Some(heirs)) => heirs.push(done),
            (None, None) => {}
        });
    }
}
