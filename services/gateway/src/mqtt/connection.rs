//! HOT PATH: a connected MQTT device: packets in, acknowledgements out in order.
//!
//! Its task reads; acknowledgements are written straight from the worker's queue, without waking
//! it. Everything rare sits behind one box.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};

use dunlin_model::event::{DUP_PROPERTY, MESSAGE_TYPE_PROPERTY, RETAIN_PROPERTY};
use dunlin_model::{ErrorCode, limits};
use dunlin_storage::event_log::{Full, Header, Token};
use ntex::io::{Filter, Io, IoRef, IoStatusUpdate, RecvError};
use ntex::util::Bytes;
use ntex_mqtt::QoS;
use ntex_mqtt::v3::codec::{Codec, Decoded, Encoded, LastWill, Packet, Publish};

use super::acks::Acks;
use super::commands::Commands;
use super::frame::Frames;
use super::push::{Outbound, Pending};
use super::topic::{self, Topic};
use super::twin::{self, Requests};
use crate::queue::Message;
use crate::session::DeviceSession;
use crate::twin::TwinRequest;
use crate::worker::Worker;

/// Packets of one connection that are handled before others have their turn.
const BURST: usize = 64;

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The device said DISCONNECT: its will is not published.
    Disconnect,
    /// The device went away without a word.
    Lost,
    /// The device broke a rule of MQTT or of the hub.
    Violation(&'static str),
    /// The hub ends it.
    Hub(ErrorCode),
}

pub struct Connection {
    key: u64,
    pub(super) io: IoRef,
    pub(super) session: DeviceSession,
    /// Seconds of silence that are allowed, and the worker's time of the last packet.
    silence: u32,
    heard: Cell<u32>,
    acks: RefCell<Acks>,
    ending: Cell<Option<End>>,
    draining: Cell<bool>,
    /// Subscriptions that are being stored.
    pub(super) saving: Cell<u8>,
    rare: RefCell<Option<Box<Rare>>>,
}

/// What most connections never have.
#[derive(Default)]
pub(super) struct Rare {
    will: Option<LastWill>,
    /// A message the event log had no room for.
    stalled: Option<(Publish, Bytes)>,
    pub twin: Requests,
    pub calls: Vec<Pending>,
    pub outbound: Outbound,
    pub commands: Commands,
    /// The version of the desired properties that was told last.
    pub desired: u64,
}

impl Connection {
    pub fn new(
        key: u64,
        io: IoRef,
        session: DeviceSession,
        keep_alive: u16,
        will: Option<LastWill>,
        now: u32,
    ) -> Rc<Self> {
        Rc::new(Self {
            key,
            io,
            session,
            silence: allowed_silence(keep_alive),
            heard: Cell::new(now),
            acks: RefCell::default(),
            ending: Cell::new(None),
            draining: Cell::new(false),
            saving: Cell::new(0),
            rare: RefCell::new(
                will.map(|will| Box::new(Rare { will: Some(will), ..Rare::default() })),
            ),
        })
    }

    pub fn key(&self) -> u64 {
        self.key
    }

    /// The worker's time of the last packet.
    pub fn heard(&self) -> u32 {
        self.heard.get()
    }

    pub fn session(&self) -> &DeviceSession {
        &self.session
    }

    /// Handles what arrives until the connection is to end.
    pub fn poll<F: Filter>(
        &self,
        io: &Io<F>,
        worker: &Rc<Worker>,
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        for _ in 0..BURST {
            if let Some(end) = self.ending.get() {
                return Poll::Ready(end);
            }
            if self.is_paused() {
                if self.draining.get() && self.owes_nothing() {
                    return Poll::Ready(End::Hub(ErrorCode::ServiceUnavailable));
                }
                return match io.poll_read_pause(cx) {
                    Poll::Ready(IoStatusUpdate::PeerGone(_)) => Poll::Ready(End::Lost),
                    _ => Poll::Pending,
                };
            }
            let end = match io.poll_recv(&Frames { connect_only: false }, cx) {
                Poll::Ready(Ok(packet)) => self.receive(packet, worker),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => match error {
                    // The device takes no acknowledgements: nothing more is read until it does.
                    RecvError::WriteBackpressure => match io.poll_flush(cx, false) {
                        Poll::Ready(Ok(())) => None,
                        Poll::Ready(Err(_)) => Some(End::Lost),
                        Poll::Pending => return Poll::Pending,
                    },
                    RecvError::Decoder(_) => Some(End::Violation("malformed packet")),
                    RecvError::PeerGone(_) => Some(End::Lost),
                    RecvError::KeepAlive => None,
                },
            };
            if let Some(end) = end {
                return Poll::Ready(end);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_paused(&self) -> bool {
        self.draining.get()
            || self.acks.borrow().is_full()
            || self.is_saving_enough()
            || self
                .rare
                .borrow()
                .as_ref()
                .is_some_and(|rare| rare.stalled.is_some() || rare.twin.is_full())
    }

    /// Whether everything that was asked of the hub has its answer.
    fn owes_nothing(&self) -> bool {
        self.acks.borrow().is_empty()
            && self.saving.get() == 0
            && self.rare.borrow().as_ref().is_none_or(|rare| rare.twin.is_empty())
    }

    /// Goes on reading, or ends, if that is what was waited for.
    pub(super) fn resume(&self) {
        self.io.notify_dispatcher();
    }

    pub(super) fn with_rare<T>(&self, work: impl FnOnce(&mut Rare) -> T) -> T {
        work(self.rare.borrow_mut().get_or_insert_default())
    }

    /// As `with_rare`, if there is anything rare.
    pub(super) fn if_rare<T>(&self, work: impl FnOnce(&mut Rare) -> T) -> Option<T> {
        self.rare.borrow_mut().as_deref_mut().map(work)
    }

    /// Gives back what only a request needed.
    pub(super) fn tidy(&self) {
        let mut rare = self.rare.borrow_mut();
        let unused = |rare: &Rare| {
            rare.will.is_none()
                && rare.stalled.is_none()
                && rare.twin.is_empty()
                && rare.calls.is_empty()
                && rare.outbound.is_empty()
                && rare.commands.is_empty()
                && rare.desired == 0
        };
        if rare.as_deref().is_some_and(unused) {
            *rare = None;
        }
    }

    /// What other threads have for this connection.
    pub fn tell(&self, message: Message, worker: &Rc<Worker>) {
        // Who is leaving is asked nothing new: its answer would not be read.
        let asks = matches!(message, Message::Invoke(_));
        if self.ending.get().is_some() || asks && self.draining.get() {
            return message.undeliverable();
        }
        match message {
            Message::Stored { answer, durable } => self.stored(answer, durable, worker),
            Message::Twin(answer) => self.twin_answered(answer, worker),
            Message::Invoke(call) => self.invoke(call),
            Message::Desired { version, patch } => self.desired(version, patch),
            Message::Commands => self.commands_wait(worker),
            Message::Leased(leased) => self.leased(leased, worker),
        }
    }

    fn receive(&self, packet: Decoded, worker: &Rc<Worker>) -> Option<End> {
        self.heard.set(worker.now());
        let packet = match packet {
            Decoded::Publish(publish, body, _) => {
                return match self.publish(&publish, &body, worker) {
                    Ok(()) => None,
                    Err(Refused::Full) => {
                        let mut rare = self.rare.borrow_mut();
                        rare.get_or_insert_default().stalled = Some((publish, body));
                        worker.stall(self.key);
                        None
                    }
                    Err(Refused::Violation(rule)) => Some(End::Violation(rule)),
                };
            }
            Decoded::Packet(packet, _) => packet,
            // Frames come whole.
            Decoded::PayloadChunk(..) => return Some(End::Violation("malformed packet")),
        };
        match packet {
            Packet::PingRequest => self.reply(Packet::PingResponse),
            Packet::Disconnect => return Some(End::Disconnect),
            Packet::Subscribe { packet_id, topic_filters } => {
                return self.subscribe(packet_id, &topic_filters, worker);
            }
            Packet::Unsubscribe { packet_id, topic_filters } => {
                self.unsubscribe(packet_id, &topic_filters, worker);
            }
            Packet::PublishAck { packet_id } => {
                let held = self.if_rare(|rare| rare.outbound.acknowledge(packet_id));
                if let Some(held) = held.flatten() {
                    self.acknowledged(held, worker);
                }
                self.tidy();
            }
            Packet::Connect(_) => return Some(End::Violation("second CONNECT")),
            Packet::PublishReceived { .. }
            | Packet::PublishRelease { .. }
            | Packet::PublishComplete { .. } => return Some(End::Violation("QoS 2")),
            Packet::ConnectAck(_)
            | Packet::SubscribeAck { .. }
            | Packet::UnsubscribeAck { .. }
            | Packet::PingResponse => return Some(End::Violation("a server's packet")),
        }
        None
    }

    /// Hands a message to the event log; its acknowledgement follows when it is durable.
    fn publish(&self, publish: &Publish, body: &[u8], worker: &Rc<Worker>) -> Result<(), Refused> {
        if publish.qos == QoS::ExactlyOnce {
            return Err(Refused::Violation("QoS 2"));
        }
        let text = match topic::parse(&publish.topic, self.session.identity()) {
            Some(Topic::Events { bag }) => bag,
            Some(request) => {
                self.request(&request, publish, body, worker);
                return Ok(());
            }
            None => return Err(Refused::Violation("unknown topic, or another identity's")),
        };
        let mut bag = worker.bag.borrow_mut();
        bag.read(text);
        if bag.size() + body.len() > limits::D2C_MESSAGE_BYTES {
            return Err(Refused::Violation("message over 256 KB"));
        }
        let mut acks = self.acks.borrow_mut();
        let token = Token { connection: self.key, sequence: acks.next() };
        let marks = marks(publish.retain, publish.dup);
        self.session.send(bag.headers().chain(marks), body, token, Some(&worker.sink))?;
        worker.time(token);
        acks.wait(publish.packet_id);
        Ok(())
    }

    /// Takes a request, or the answer to one of the hub's. Its PUBACK says no more than that.
    #[cold]
    fn request(&self, topic: &Topic<'_>, publish: &Publish, body: &[u8], worker: &Rc<Worker>) {
        match topic {
            Topic::TwinGet { rid } => self.request_twin(rid, Ok(TwinRequest::Get), worker),
            Topic::TwinReported { rid, version } => {
                self.request_twin(rid, twin::report(*version, body), worker);
            }
            Topic::MethodAnswer { status, rid } => self.method_answered(rid, *status, body),
            Topic::Events { .. } => {}
        }
        if let Some(packet_id) = publish.packet_id {
            self.acks.borrow_mut().pass(packet_id);
            self.acknowledge();
        }
    }

    /// Tries the message again that found no room. `false`: there is still none.
    pub fn retry(&self, worker: &Rc<Worker>) -> bool {
        let stalled = self.rare.borrow_mut().as_mut().and_then(|rare| rare.stalled.take());
        let Some((publish, body)) = stalled else { return true };
        if self.ending.get().is_some() {
            return true;
        }
        match self.publish(&publish, &body, worker) {
            Err(Refused::Full) => {
                self.rare.borrow_mut().get_or_insert_default().stalled = Some((publish, body));
                return false;
            }
            Err(Refused::Violation(rule)) => self.ending.set(Some(End::Violation(rule))),
            Ok(()) => {}
        }
        self.io.notify_dispatcher();
        true
    }

    /// The event log has written a message, or could not. Acknowledges in order of receipt; after
    /// one that is not durable nothing of this connection is acknowledged any more.
    pub fn complete(&self, sequence: u64, durable: bool) {
        if self.ending.get().is_some() {
            return;
        }
        if !durable {
            self.end(ErrorCode::ServerError);
            return;
        }
        let was_paused = self.acks.borrow().is_full();
        self.acks.borrow_mut().set_durable(sequence);
        self.acknowledge();
        if was_paused || self.draining.get() {
            self.resume();
        }
    }

    /// Sends the acknowledgements whose turn it is.
    fn acknowledge(&self) {
        self.acks.borrow_mut().take(|packet_id| self.reply(Packet::PublishAck { packet_id }));
    }

    pub(super) fn reply(&self, packet: Packet) {
        // A connection that is closing takes nothing more, which is as good as a lost one.
        let _ = self.io.encode(Encoded::Packet(packet), &Codec::new());
    }

    /// Ends the connection from outside its task: takes no further packet from here on.
    pub fn end(&self, reason: ErrorCode) {
        if self.ending.get().is_none() {
            self.ending.set(Some(End::Hub(reason)));
            self.io.notify_dispatcher();
        }
    }

    /// It has ended. What comes for it from now on comes too late.
    pub fn ended(&self, end: End, in_order: bool) {
        self.ending.set(Some(end));
        if in_order {
            self.close_leases();
        }
    }

    /// Whether it is to end.
    pub(super) fn is_leaving(&self) -> bool {
        self.draining.get() || self.ending.get().is_some()
    }

    /// Takes no further packet and ends when what it sent is acknowledged.
    pub fn drain(&self) {
        self.draining.set(true);
        self.io.notify_dispatcher();
    }

    /// Ends it if it was silent for too long, or its token has expired.
    pub fn check(&self, now: u32, wall: u64, worker: &Rc<Worker>) {
        // What is not read is not heard: that silence is the hub's own.
        if self.is_paused() {
            self.heard.set(now);
        }
        self.check_commands(now, worker);
        self.forget_calls();
        if now.saturating_sub(self.heard.get()) > self.silence {
            self.end(ErrorCode::DeviceConnectionClosedRemotely);
        } else if wall > self.session.ends() {
            self.end(ErrorCode::IotHubUnauthorized);
        }
    }

    /// Publishes the will, unless the device said DISCONNECT [MQTT-3.1.2-8]. Nobody waits for it.
    pub fn publish_will(&self, end: End, worker: &Worker) {
        let will = self.rare.borrow_mut().as_mut().and_then(|rare| rare.will.take());
        let (Some(will), true) = (will, end != End::Disconnect) else { return };
        let Some(Topic::Events { bag: text }) = topic::parse(&will.topic, self.session.identity())
        else {
            return;
        };
        let mut bag = worker.bag.borrow_mut();
        bag.read(text);
        let is_will = Header { name: MESSAGE_TYPE_PROPERTY, value: Some("Will") };
        let headers = bag.headers().chain(marks(will.retain, false)).chain([is_will]);
        let token = Token { connection: self.key, sequence: u64::MAX };
        if self.session.send(headers, &will.message, token, None).is_err() {
            tracing::warn!(identity = %self.session.identity(), "no room in the event log for a will");
        }
    }
}

enum Refused {
    Full,
    Violation(&'static str),
}

impl From<Full> for Refused {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

/// What becomes of RETAIN and DUP: properties of the message.
fn marks<'a>(retain: bool, dup: bool) -> impl Iterator<Item = Header<'a>> {
    let mark = |name, set: bool| set.then_some(Header { name, value: Some("true") });
    [mark(RETAIN_PROPERTY, retain), mark(DUP_PROPERTY, dup)].into_iter().flatten()
}

/// One and a half keep-alives [MQTT-3.1.2-24] and never more than the hub's limit; keep-alive 0
/// asks for none and gets the limit. Rounded up, and a second for the coarse clock.
fn allowed_silence(keep_alive: u16) -> u32 {
    match u32::from(keep_alive) {
        0 => limits::MQTT_SILENCE_SECONDS,
        seconds => (seconds * 3).div_ceil(2).min(limits::MQTT_SILENCE_SECONDS) + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_one_and_a_half_keep_alives_up_to_the_limit() {
        for (keep_alive, want) in [(0, 1_767), (1, 3), (60, 91), (1_177, 1_767), (65_535, 1_768)] {
            assert_eq!(allowed_silence(keep_alive), want, "{keep_alive}");
        }
    }
}
