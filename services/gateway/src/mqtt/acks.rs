//! HOT PATH: what of a connection waits for the event log, and the order in which it is
//! acknowledged.

use std::collections::VecDeque;
use std::num::NonZeroU16;

/// Unacknowledged inbound messages of a connection; then it is not read from until one is durable.
const WINDOW: usize = 100;

/// Messages in order of receipt.
#[derive(Default)]
pub struct Acks {
    queue: VecDeque<Ack>,
    /// Sequence number of the first in the queue.
    first: u64,
}

struct Ack {
    /// `None`: QoS 0, which is not acknowledged but counts against the window.
    packet_id: Option<NonZeroU16>,
    durable: bool,
}

impl Acks {
    /// The sequence number of the next message.
    pub fn next(&self) -> u64 {
        self.first + self.queue.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.queue.len() >= WINDOW
    }

    /// A message that is durable when its sequence number is.
    pub fn wait(&mut self, packet_id: Option<NonZeroU16>) {
        self.queue.push_back(Ack { packet_id, durable: false });
    }

    /// A message that may be acknowledged when its turn comes.
    pub fn pass(&mut self, packet_id: NonZeroU16) {
        self.queue.push_back(Ack { packet_id: Some(packet_id), durable: true });
    }

    pub fn set_durable(&mut self, sequence: u64) {
        let at = usize::try_from(sequence.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        if let Some(ack) = self.queue.get_mut(at) {
            ack.durable = true;
        }
    }

    /// Takes what may be acknowledged now, in order.
    pub fn take(&mut self, mut acknowledge: impl FnMut(NonZeroU16)) {
        while self.queue.front().is_some_and(|ack| ack.durable) {
            self.first += 1;
            if let Some(packet_id) = self.queue.pop_front().and_then(|ack| ack.packet_id) {
                acknowledge(packet_id);
            }
        }
        // A burst must not cost memory for ever.
        if self.queue.is_empty() && self.queue.capacity() > 8 {
            self.queue = VecDeque::new();
        }
    }
}
