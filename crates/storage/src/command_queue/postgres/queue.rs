//! The queue of one device in memory: what takes a message from a state to the next.

use std::ops::Range;

use dunlin_model::Command;
use dunlin_model::command::{Ack, Disposition, LockToken, Outcome};

use crate::StoreError;
use crate::command_queue::{Rules, Settlement};
use crate::presence::Epoch;

/// What a property takes beside its text, on any wire.
const PROPERTY_BYTES: usize = 16;

/// What decides on the next state of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) sequence: u64,
    pub(super) message_id: Option<String>,
    pub(super) ack: Ack,
    pub(super) size: usize,
    pub(super) expires: i64,
    /// When a look at it is due: the end of its lock, or of its life if it has none.
    pub(super) due: i64,
    pub(super) delivery_count: u32,
    pub(super) lock: Option<(LockToken, Epoch)>,
}

/// What became of a message whose sender wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) message_id: String,
    pub(super) outcome: Outcome,
    pub(super) at: i64,
}

/// A hand-out; whoever has the body completes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Handed {
    pub(super) token: LockToken,
    pub(super) sequence: u64,
    pub(super) delivery_count: u32,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Queue {
    /// The last one that was given.
    pub(super) sequence: u64,
    /// Of the newest connection that was handed messages.
    pub(super) epoch: Epoch,
    /// In their order.
    pub(super) messages: Vec<Message>,
    pub(super) ends: Vec<End>,
}

pub(super) fn size(command: &Command) -> usize {
    command.size() + PROPERTY_BYTES * command.properties.len()
}

impl Queue {
    /// Puts each message back as `change` leaves it, or ends it.
    fn each(&mut self, now: i64, mut change: impl FnMut(&mut Message) -> Option<Outcome>) {
        let ends = &mut self.ends;
        self.messages.retain_mut(|message| match change(message) {
            Some(outcome) => {
                if message.ack.wants(outcome) {
                    let message_id = message.message_id.clone().unwrap_or_default();
                    ends.push(End { message_id, outcome, at: now });
                }
                false
            }
            None => true,
        });
    }

    /// Ends what time has ended. Whether a message is to be had again.
    pub(super) fn look(&mut self, now: i64, rules: &Rules) -> bool {
        let mut returned = false;
        self.each(now, |message| {
            if message.due > now {
                return None;
            }
            let end = message.put_back(message.lock.is_some(), now, rules);
            returned |= end.is_none();
            end
        });
        returned
    }

    fn take_back(&mut self, epochs: &Range<Epoch>, in_vain: bool, now: i64, rules: &Rules) {
        self.each(now, |message| match message.lock {
            Some((_, epoch)) if epochs.contains(&epoch) => message.put_back(in_vain, now, rules),
            _ => None,
        });
    }

    /// What is refused leaves everything as it was.
    pub(super) fn send(
        &mut self,
        command: &Command,
        now: i64,
        rules: &Rules,
    ) -> Result<u64, StoreError> {
        let expires = command
            .expires
            .ok_or_else(|| StoreError::unavailable("postgres", "a message without an end"))?;
        let before = self.clone();
        self.look(now, rules);
        if self.messages.len() >= rules.depth as usize {
            *self = before;
            return Err(StoreError::LimitReached);
        }
        self.sequence += 1;
        self.messages.push(Message {
            sequence: self.sequence,
            message_id: command.message_id.clone(),
            ack: command.ack,
            size: size(command),
            expires,
            due: expires,
            delivery_count: 0,
            lock: None,
        });
        Ok(self.sequence)
    }

    /// What is handed out, and whether time had ended a lock.
    pub(super) fn lease(
        &mut self,
        epoch: Epoch,
        tokens: &[LockToken],
        bytes: usize,
        now: i64,
        rules: &Rules,
    ) -> Result<(Vec<Handed>, bool), StoreError> {
        if self.messages.is_empty() {
            return Ok((Vec::new(), false));
        }
        if epoch != 0 && epoch < self.epoch {
            return Err(StoreError::PreconditionFailed);
        }
        let returned = self.look(now, rules);
        if epoch != 0 {
            self.take_back(&(1..epoch), true, now, rules);
        }
        let (mut handed, mut filled) = (Vec::new(), 0);
        let free = self.messages.iter_mut().filter(|message| message.lock.is_none());
        for (token, message) in tokens.iter().zip(free) {
            if filled >= bytes {
                break;
            }
            filled += message.size;
            (message.lock, message.due) = (Some((*token, epoch)), now + rules.lock);
            let Message { sequence, delivery_count, .. } = *message;
            handed.push(Handed { token: *token, sequence, delivery_count });
        }
        if epoch != 0 && !handed.is_empty() {
            self.epoch = epoch;
        }
        Ok((handed, returned))
    }

    pub(super) fn settle(
        &mut self,
        epoch: Epoch,
        tokens: &[LockToken],
        disposition: Disposition,
        now: i64,
        rules: &Rules,
    ) -> Settlement {
        let mut returned = self.look(now, rules);
        let settle = |token: &LockToken| {
            let mut held = false;
            self.each(now, |message| {
                if message.lock != Some((*token, epoch)) {
                    return None;
                }
                held = true;
                match disposition {
                    Disposition::Complete => Some(Outcome::Success),
                    Disposition::Reject => Some(Outcome::Rejected),
                    Disposition::Abandon => {
                        let end = message.put_back(true, now, rules);
                        returned |= end.is_none();
                        end
                    }
                }
            });
            held
        };
        let held = tokens.iter().map(settle).collect();
        Settlement { held, returned }
    }

    pub(super) fn release(&mut self, epoch: Epoch, in_vain: bool, now: i64, rules: &Rules) {
        let held = |message: &Message| message.lock.is_some_and(|(_, by)| by == epoch);
        if epoch == 0 || !self.messages.iter().any(held) {
            return;
        }
        self.look(now, rules);
        self.take_back(&(epoch..epoch.saturating_add(1)), in_vain, now, rules);
    }

    pub(super) fn purge(&mut self, now: i64, rules: &Rules) -> u32 {
        self.look(now, rules);
        let all = self.messages.len();
        self.each(now, |_| Some(Outcome::Purged));
        u32::try_from(all).unwrap_or(u32::MAX)
    }
}

impl Message {
    /// A message nobody holds any more is where it was, unless that is its end.
    fn put_back(&mut self, in_vain: bool, now: i64, rules: &Rules) -> Option<Outcome> {
        let count = self.delivery_count + u32::from(in_vain);
        if in_vain && count >= rules.max_delivery_count {
            return Some(Outcome::DeliveryCountExceeded);
        }
        if self.expires <= now {
            return Some(Outcome::Expired);
        }
        (self.due, self.delivery_count, self.lock) = (self.expires, count, None);
        None
    }
}
