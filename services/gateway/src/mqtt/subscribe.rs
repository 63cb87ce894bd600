//! SUBSCRIBE and UNSUBSCRIBE: what a session wants, stored before it is acknowledged.

use std::num::NonZeroU16;
use std::rc::Rc;

use dunlin_model::session::QoS;
use dunlin_model::{ErrorCode, Subscriptions};
use ntex::util::ByteString;
use ntex_mqtt::QoS as Asked;
use ntex_mqtt::v3::codec::{Packet, SubscribeReturnCode};

use super::connection::{Connection, End};
use super::filter::{self, Filter};
use crate::queue::Message;
use crate::worker::Worker;

/// Unanswered changes of a connection; then it is not read from until one is stored.
const WINDOW: u8 = 16;

/// What is due to the device once its subscriptions are stored.
pub enum SubscribeAnswer {
    Subscribed { packet_id: NonZeroU16, status: Vec<SubscribeReturnCode> },
    Unsubscribed { packet_id: NonZeroU16 },
}

impl Connection {
    pub(super) fn subscribe(
        &self,
        packet_id: NonZeroU16,
        filters: &[(ByteString, Asked)],
        worker: &Rc<Worker>,
    ) -> Option<End> {
        let identity = self.session.identity();
        let mut wanted = self.session.subscriptions();
        let mut status = Vec::with_capacity(filters.len());
        for (filter, asked) in filters {
            status.push(match filter::parse(filter, identity) {
                Filter::Known(topic) => {
                    let (granted, qos) = match asked {
                        Asked::AtMostOnce => (Asked::AtMostOnce, QoS::AtMostOnce),
                        _ => (Asked::AtLeastOnce, QoS::AtLeastOnce),
                    };
                    wanted = wanted.with(topic, qos);
                    SubscribeReturnCode::Success(granted)
                }
                Filter::Unknown => SubscribeReturnCode::Failure,
                Filter::Forbidden(rule) => return Some(End::Violation(rule)),
            });
        }
        let refused = status.iter().filter(|code| **code == SubscribeReturnCode::Failure).count();
        if refused > 0 {
            tracing::debug!(%identity, refused, "filters of no topic of the hub's");
        }
        self.want(wanted, SubscribeAnswer::Subscribed { packet_id, status }, worker);
        None
    }

    pub(super) fn unsubscribe(
        &self,
        packet_id: NonZeroU16,
        filters: &[ByteString],
        worker: &Rc<Worker>,
    ) {
        let mut wanted = self.session.subscriptions();
        for filter in filters {
            // What was never subscribed is unsubscribed [MQTT-3.10.4-5].
            if let Filter::Known(topic) = filter::parse(filter, self.session.identity()) {
                wanted = wanted.without(topic);
            }
        }
        self.want(wanted, SubscribeAnswer::Unsubscribed { packet_id }, worker);
    }

    /// From now on the session wants this; it is answered when that is durable.
    fn want(&self, wanted: Subscriptions, answer: SubscribeAnswer, worker: &Rc<Worker>) {
        let changed = wanted != self.session.subscriptions();
        self.session.set_subscriptions(wanted);
        let saving = self.saving.get();
        // Nothing new may still be something that is not stored yet.
        if !self.session.is_durable() || !changed && saving == 0 {
            self.answer(answer, worker);
            return;
        }
        self.saving.set(saving + 1);
        let (key, queue) = (self.key(), worker.queue.clone());
        worker.gateway.sessions.store(self.session.report(), move |stored| {
            queue.tell(key, Message::Stored { answer, durable: stored.is_some() });
        });
    }

    /// Whether nothing more may be asked for until something is stored.
    pub(super) fn is_saving_enough(&self) -> bool {
        self.saving.get() >= WINDOW
    }

    pub(super) fn stored(&self, answer: SubscribeAnswer, durable: bool, worker: &Rc<Worker>) {
        self.saving.set(self.saving.get().saturating_sub(1));
        if durable {
            self.answer(answer, worker);
            self.resume();
        } else {
            // Told nothing, the device would wait: it connects and subscribes again.
            self.end(ErrorCode::ServiceUnavailable);
        }
    }

    fn answer(&self, answer: SubscribeAnswer, worker: &Rc<Worker>) {
        match answer {
            SubscribeAnswer::Subscribed { packet_id, status } => {
                self.reply(Packet::SubscribeAck { packet_id, status });
                self.look_for_commands(worker);
            }
            SubscribeAnswer::Unsubscribed { packet_id } => {
                self.reply(Packet::UnsubscribeAck { packet_id });
            }
        }
    }
}
