//! What the hub publishes to a device: method calls, changes of desired properties, answers.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use dunlin_model::session::{QoS, Topic};
use dunlin_model::{ErrorCode, HubError};
use dunlin_proto::v1::invoke_response::Outcome;
use dunlin_proto::v1::{Absent, MethodAnswer};
use ntex::util::{ByteString, Bytes};
use ntex_mqtt::QoS as Sent;
use ntex_mqtt::v3::codec::{Codec, Encoded, Publish};
use tokio::sync::oneshot;

use super::connection::Connection;
use crate::queue::Call;

/// Messages of QoS 1 that a device has not acknowledged, before it is taken for stuck.
const WINDOW: usize = 100;
/// Method calls a device has not answered, before no more are made.
const CALLS: usize = 100;

/// Bytes that wait to be written to a device, before it is taken for stuck: many large ones at once
/// are no sign of that.
const UNWRITTEN: usize = 2 << 20;

/// What a device was sent and has not acknowledged.
#[derive(Default)]
pub struct Outbound {
    last: u16,
    unacknowledged: VecDeque<NonZeroU16>,
}

impl Outbound {
    /// A packet id that is not in use [MQTT-2.3.1-4]. `None`: too much is unacknowledged.
    fn next(&mut self) -> Option<NonZeroU16> {
        if self.unacknowledged.len() >= WINDOW {
            return None;
        }
        loop {
            self.last = self.last.wrapping_add(1);
            let id = NonZeroU16::new(self.last).filter(|id| !self.unacknowledged.contains(id));
            if let Some(id) = id {
                self.unacknowledged.push_back(id);
                return Some(id);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.unacknowledged.is_empty()
    }

    /// One nobody waits for is passed over: it is late, or of no meaning.
    pub fn acknowledge(&mut self, id: NonZeroU16) {
        if let Some(at) = self.unacknowledged.iter().position(|waiting| *waiting == id) {
            self.unacknowledged.remove(at);
        }
    }
}

/// A call the device has not answered.
pub struct Pending {
    /// Random, so that no answer of an earlier connection is taken for one of this.
    rid: u128,
    answer: oneshot::Sender<Result<Outcome, HubError>>,
}

impl Connection {
    /// Publishes with this packet id, or with QoS 0. It may be lost with the connection.
    pub(super) fn push(&self, topic: String, packet_id: Option<NonZeroU16>, body: Bytes) {
        let publish = Publish {
            dup: false,
            retain: false,
            qos: if packet_id.is_some() { Sent::AtLeastOnce } else { Sent::AtMostOnce },
            topic: ByteString::from(topic),
            packet_id,
            payload_size: u32::try_from(body.len()).unwrap_or(u32::MAX),
        };
        // A connection that is closing takes nothing more, which is as good as a lost one. Anything
        // else would have left half a packet behind.
        if self.io.encode(Encoded::Publish(publish, Some(body)), &Codec::new()).is_err() {
            self.end(ErrorCode::ServerError);
        }
    }

    /// Whether the device does not take what it is sent.
    fn is_stuck(&self) -> bool {
        let encrypted = self.io.with_write_dst_buf(|waiting| waiting.len());
        // One that is closing is not asked how much it has.
        let plain = self.io.with_write_buf(|waiting| waiting.len()).unwrap_or_default();
        plain + encrypted > UNWRITTEN
    }

    /// Whether as many callers wait as may.
    fn is_called_enough(&self) -> bool {
        let enough = self.if_rare(|rare| {
            if rare.calls.len() >= CALLS {
                rare.calls.retain(|call| !call.answer.is_closed());
            }
            rare.calls.len() >= CALLS
        });
        enough.unwrap_or_default()
    }

    /// Calls a method. Its answer comes as a message of the device, or never.
    pub(super) fn invoke(&self, call: Call) {
        let Call { method, payload, answer } = call;
        let refused = if self.session.subscriptions().get(Topic::Methods).is_none() {
            Some(Ok(Outcome::NotSubscribed(Absent {})))
        } else if self.is_stuck() || self.is_called_enough() {
            Some(Err(HubError::new(
                ErrorCode::DeviceMaximumInflightMethodExceeded,
                format!("{CALLS} calls wait for the device, or it does not take what it is sent"),
            )))
        } else {
            None
        };
        if let Some(refused) = refused {
            // Whoever called may have gone.
            let _ = answer.send(refused);
            return;
        }
        let rid = self.with_rare(|rare| {
            let rid = fastrand::u128(..);
            rare.calls.push(Pending { rid, answer });
            rid
        });
        // QoS 0 as IoT Hub has it: a lost call simply gets no answer. Nothing may follow the id.
        self.push(
            format!("$iothub/methods/POST/{method}/?$rid={}", guid(rid)),
            None,
            payload.into(),
        );
    }

    /// The device has answered a call; a second time, or too late, nobody waits for it. Without a
    /// status: with one beyond 64 bits.
    pub(super) fn method_answered(&self, rid: &str, status: Option<i64>, payload: &[u8]) {
        let pending = self.if_rare(|rare| {
            let at = rare.calls.iter().position(|call| guid(call.rid) == rid)?;
            Some(rare.calls.swap_remove(at))
        });
        if let Some(Some(pending)) = pending {
            let answer = match status {
                Some(status) => {
                    Ok(Outcome::Answer(MethodAnswer { status, payload: payload.to_vec() }))
                }
                None => Err(HubError::new(
                    ErrorCode::InvalidResponseWhileProxying,
                    "The device answered with a status that is no 64-bit integer",
                )),
            };
            let _ = pending.answer.send(answer);
        }
        self.tidy();
    }

    /// Forgets calls whose callers have gone.
    pub(super) fn forget_calls(&self) {
        self.if_rare(|rare| rare.calls.retain(|call| !call.answer.is_closed()));
        self.tidy();
    }

    /// Tells of changed desired properties. An older version than one that was told is not news:
    /// the device would take it for the present.
    pub(super) fn desired(&self, version: u64, patch: Vec<u8>) {
        let Some(qos) = self.session.subscriptions().get(Topic::Desired) else { return };
        let news = self.with_rare(|rare| {
            let news = version > rare.desired;
            rare.desired = rare.desired.max(version);
            news
        });
        if !news {
            return;
        }
        let packet_id = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => match self.with_rare(|rare| rare.outbound.next()) {
                None => return self.end(ErrorCode::DeviceConnectionClosedRemotely),
                id => id,
            },
        };
        // Nothing is kept for who does not listen: it reads its twin when it is back.
        if self.is_stuck() {
            return self.end(ErrorCode::DeviceConnectionClosedRemotely);
        }
        let topic = format!("$iothub/twin/PATCH/properties/desired/?$version={version}");
        self.push(topic, packet_id, patch.into());
    }
}

/// As a GUID is written: AMQP and IoT Edge take nothing else for a correlation id.
fn guid(id: u128) -> String {
    let hex = format!("{id:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_ids_in_use_are_passed_over() {
        let mut outbound = Outbound { last: u16::MAX - 1, ..Outbound::default() };
        let id = |id| NonZeroU16::new(id);
        assert_eq!(outbound.next(), id(u16::MAX));
        assert_eq!(outbound.next(), id(1), "0 is none");
        outbound.last = 0;
        assert_eq!(outbound.next(), id(2), "1 is in use");
        outbound.acknowledge(id(1).expect("an id"));
        outbound.acknowledge(id(7).expect("an id"));
        outbound.last = 0;
        assert_eq!(outbound.next(), id(1), "free again");
        while outbound.next().is_some() {}
        assert_eq!(outbound.unacknowledged.len(), WINDOW);
    }

    #[test]
    fn an_id_is_written_as_a_guid() {
        assert_eq!(
            guid(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            "01234567-89ab-cdef-0123-456789abcdef"
        );
        assert_eq!(guid(1).len(), 36);
    }
}
