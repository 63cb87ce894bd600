//! What the hub publishes to a device: C2D messages, method calls, changes of desired properties,
//! answers.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use dunlin_model::session::{QoS, Topic};
use dunlin_model::{ErrorCode, HubError};
use dunlin_proto::v1::invoke_response::Outcome;
use dunlin_proto::v1::{Absent, MethodAnswer};
use ntex::util::{ByteString, Bytes};
use ntex_mqtt::QoS as Level;
use ntex_mqtt::v3::codec::{Codec, Encoded, Publish};
use tokio::sync::oneshot;

use super::connection::Connection;
use crate::queue::Call;

/// Messages of QoS 1 that a device has not acknowledged, before it is taken for stuck.
const WINDOW: usize = 100;
/// C2D messages of these: as many as a queue holds.
const COMMANDS: usize = 50;
/// Method calls a device has not answered, before no more are made.
const CALLS: usize = 100;

/// Bytes that wait to be written to a device, before it is taken for stuck: many large ones at once
/// are no sign of that.
const UNWRITTEN: usize = 2 << 20;
/// Bytes that wait to be written, before what can wait does.
const CONGESTED: usize = 64 << 10;

/// What a device was sent and has not acknowledged.
#[derive(Default)]
pub struct Outbound {
    last: u16,
    unacknowledged: VecDeque<Sent>,
}

struct Sent {
    packet_id: NonZeroU16,
    /// Of a C2D message.
    held: Option<Held>,
}

/// A C2D message that is leased for this connection.
pub struct Held {
    pub sequence: u64,
    pub lock_token: String,
    /// The worker's time at which its lock runs out.
    pub until: u32,
}

/// Of a lock that has run out.
const LOST: u32 = u32::MAX;

impl Outbound {
    /// A packet id that is not in use [MQTT-2.3.1-4]. `None`: too much is unacknowledged.
    fn next(&mut self, held: Option<Held>) -> Option<NonZeroU16> {
        if self.unacknowledged.len() >= WINDOW {
            return None;
        }
        loop {
            self.last = self.last.wrapping_add(1);
            let in_use = |id| self.unacknowledged.iter().any(|sent| sent.packet_id == id);
            if let Some(packet_id) = NonZeroU16::new(self.last).filter(|id| !in_use(*id)) {
                self.unacknowledged.push_back(Sent { packet_id, held });
                return Some(packet_id);
            }
        }
    }

    /// As `next`, for a C2D message. One that is sent again keeps its packet id [MQTT-2.3.1-3].
    pub fn hold(&mut self, held: Held) -> Option<NonZeroU16> {
        let is_it = |sent: &&mut Sent| {
            sent.held.as_ref().is_some_and(|known| known.sequence == held.sequence)
        };
        match self.unacknowledged.iter_mut().find(is_it) {
            Some(sent) => {
                sent.held = Some(held);
                Some(sent.packet_id)
            }
            None => self.next(Some(held)),
        }
    }

    /// How many more C2D messages may be on their way.
    pub fn room(&self) -> usize {
        let held = self.unacknowledged.iter().filter_map(|sent| sent.held.as_ref());
        COMMANDS.saturating_sub(held.filter(|held| held.until != LOST).count())
    }

    /// Takes note of locks that have run out; whether there are any new ones.
    pub fn lose(&mut self, now: u32) -> bool {
        let held = self.unacknowledged.iter_mut().filter_map(|sent| sent.held.as_mut());
        let mut lost = false;
        for held in held.filter(|held| held.until <= now) {
            held.until = LOST;
            lost = true;
        }
        lost
    }

    pub fn is_empty(&self) -> bool {
        self.unacknowledged.is_empty()
    }

    /// The C2D message that it was. One nobody waits for is passed over: it is late, or of no
    /// meaning.
    pub fn acknowledge(&mut self, id: NonZeroU16) -> Option<Held> {
        let at = self.unacknowledged.iter().position(|sent| sent.packet_id == id)?;
        self.unacknowledged.remove(at)?.held
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
        self.send(topic, packet_id, false, body);
    }

    /// As `push`. `dup`: it was sent before.
    pub(super) fn send(
        &self,
        topic: String,
        packet_id: Option<NonZeroU16>,
        dup: bool,
        body: Bytes,
    ) {
        let publish = Publish {
            dup,
            retain: false,
            qos: if packet_id.is_some() { Level::AtLeastOnce } else { Level::AtMostOnce },
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
        self.unwritten() > UNWRITTEN
    }

    /// Whether what can wait had better wait where it is: it would fill this process' memory.
    pub(super) fn is_congested(&self) -> bool {
        self.unwritten() > CONGESTED
    }

    fn unwritten(&self) -> usize {
        let encrypted = self.io.with_write_dst_buf(|waiting| waiting.len());
        // One that is closing is not asked how much it has.
        let plain = self.io.with_write_buf(|waiting| waiting.len()).unwrap_or_default();
        plain + encrypted
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
            QoS::AtLeastOnce => match self.with_rare(|rare| rare.outbound.next(None)) {
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
        assert_eq!(outbound.next(None), id(u16::MAX));
        assert_eq!(outbound.next(None), id(1), "0 is none");
        outbound.last = 0;
        assert_eq!(outbound.next(None), id(2), "1 is in use");
        outbound.acknowledge(id(1).expect("an id"));
        outbound.acknowledge(id(7).expect("an id"));
        outbound.last = 0;
        assert_eq!(outbound.next(None), id(1), "free again");
        while outbound.next(None).is_some() {}
        assert_eq!(outbound.unacknowledged.len(), WINDOW);
    }

    #[test]
    fn a_command_has_its_place_until_its_lock_is_lost() {
        let mut outbound = Outbound::default();
        let held = |sequence, until| Held { sequence, lock_token: format!("{sequence}"), until };
        outbound.next(None);
        for sequence in 0..COMMANDS as u64 {
            assert!(outbound.hold(held(sequence, 60 + u32::from(sequence > 1))).is_some());
        }
        assert_eq!(outbound.room(), 0);
        assert!(!outbound.lose(59));
        assert!(outbound.lose(60), "two have run out");
        assert_eq!(outbound.room(), 2);
        assert!(!outbound.lose(60), "which is no news any more");
        // Handed out again it is the same packet.
        assert_eq!(outbound.hold(held(1, 120)), NonZeroU16::new(3));
        assert_eq!(outbound.room(), 1);
        let first = outbound.acknowledge(NonZeroU16::new(2).expect("an id"));
        assert_eq!(first.map(|held| held.sequence), Some(0), "late, but it may still be told");
        assert_eq!(outbound.room(), 1);
        outbound.acknowledge(NonZeroU16::new(3).expect("an id"));
        assert_eq!(outbound.room(), 2);
        assert!(outbound.acknowledge(NonZeroU16::MIN).is_none(), "it was no command");
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
