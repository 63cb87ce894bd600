//! What a device says over MQTT and what of it is on its way: telemetry, or reports of its twin.

use anyhow::{Context, Result};
use tokio::time::Instant;

use super::Device;
use super::pace::{Due, Pace};
use crate::fleet::Phase;
use crate::history::{Kind, stamp};
use crate::mqtt;
use crate::outcome::{Event, Op};
use crate::scenario::Stream;

/// A message on its way.
#[derive(Clone, Copy)]
struct InFlight {
    due: Due,
    epoch: u32,
    sequence: u64,
}

pub struct Outbox {
    /// Telemetry or Report.
    op: Op,
    pub pace: Pace,
    window: u16,
    /// By packet or request id less one; allocated with the first message.
    slots: Vec<Option<InFlight>>,
    free: Vec<u16>,
    /// Of the last message on this connection.
    sequence: u64,
    epoch: u32,
}

impl Outbox {
    pub fn new(op: Op, stream: &Stream, pace: Pace) -> Self {
        let (slots, free, sequence, epoch) = Default::default();
        Self { op, pace, window: stream.window, slots, free, sequence, epoch }
    }

    pub fn enter(&mut self, phase: Phase) {
        // A burst is of telemetry.
        if matches!(phase, Phase::Burst) && self.op == Op::Report {
            return;
        }
        self.pace.enter(phase);
        if self.slots.is_empty() && self.pace.is_busy() {
            self.slots = vec![None; usize::from(self.window)];
            self.free = (1..=self.window).rev().collect();
        }
    }

    /// Writes what may be sent now.
    pub fn fill(&mut self, device: &Device, out: &mut Vec<u8>) -> Result<()> {
        if !self.pace.is_busy() {
            return Ok(());
        }
        let now = Instant::now();
        while let Some(&id) = self.free.last()
            && let Some(due) = self.pace.take(now)
        {
            if self.epoch != device.epoch {
                (self.epoch, self.sequence) = (device.epoch, 0);
            }
            self.sequence += 1;
            self.free.pop();
            let message = InFlight { due, epoch: self.epoch, sequence: self.sequence };
            self.slots[usize::from(id) - 1] = Some(message);
            device.shared.tally.started(self.op(due), 1);
            match self.op {
                Op::Report => self.report(device, id, out)?,
                _ => self.telemetry(device, id, out)?,
            }
        }
        Ok(())
    }

    fn op(&self, due: Due) -> Op {
        if due.burst { Op::Burst } else { self.op }
    }

    fn telemetry(&self, device: &Device, id: u16, out: &mut Vec<u8>) -> Result<()> {
        let side = device.side();
        let size = side.group.telemetry.size.draw();
        let topic = format!("devices/{}/messages/events/", device.id);
        if device.shared.pen.borrow().writes() {
            let mut body = Vec::with_capacity(size);
            stamp::write(&mut body, &device.id, self.epoch, self.sequence, size);
            device.note(self.epoch, self.sequence, Kind::Send);
            return mqtt::publish(out, &topic, Some(id), &body);
        }
        mqtt::publish(out, &topic, Some(id), &side.text.as_bytes()[..size])
    }

    fn report(&self, device: &Device, id: u16, out: &mut Vec<u8>) -> Result<()> {
        let side = device.side();
        let topic = format!("$iothub/twin/PATCH/properties/reported/?$rid={id}");
        let text = &side.text[..side.group.reports.size.draw()];
        // No two are the same.
        let patch =
            format!(r#"{{"epoch":{},"count":{},"text":"{text}"}}"#, self.epoch, self.sequence);
        device.note(self.epoch, self.sequence, Kind::Report);
        mqtt::publish(out, &topic, None, patch.as_bytes())
    }

    /// When to call `fill` again if nothing else happens.
    pub fn due(&self) -> Option<Instant> {
        self.pace.due().filter(|_| !self.free.is_empty())
    }

    pub fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    fn take(&mut self, device: &Device, id: u16) -> Option<InFlight> {
        let slot = self.slots.get_mut(usize::from(id).wrapping_sub(1)).and_then(Option::take);
        match slot {
            Some(_) => self.free.push(id),
            None => device.shared.tally.count(Event::StrayAck, 1),
        }
        slot
    }

    fn done(&mut self, device: &Device, id: u16, kind: Kind) {
        if let Some(message) = self.take(device, id) {
            device.note(message.epoch, message.sequence, kind);
            let latency = Instant::now().saturating_duration_since(message.due.at);
            device.shared.tally.done(self.op(message.due), latency);
        }
    }

    /// A PUBACK.
    pub fn acknowledged(&mut self, device: &Device, id: u16) {
        self.done(device, id, Kind::Ack);
    }

    /// An answer on `$iothub/twin/res/`, of which this is the rest of the topic.
    pub fn answered(&mut self, device: &Device, answer: &str) -> Result<()> {
        let Answer { status, id, version } = Answer::parse(answer)?;
        if status == "204" {
            self.done(device, id, Kind::Reported { version });
        } else if self.take(device, id).is_some() {
            device.shared.tally.failed(Op::Report, status);
            if status == "429" {
                device.shared.tally.count(Event::Throttled, 1);
            }
        }
        Ok(())
    }

    /// The connection is over: what was on its way is in doubt.
    pub fn give_up(&mut self, device: &Device) {
        for (id, slot) in (1..).zip(&mut self.slots) {
            if let Some(message) = slot.take() {
                self.free.push(id);
                let op = if message.due.burst { Op::Burst } else { self.op };
                device.shared.tally.failed(op, "connection lost");
            }
        }
    }
}

/// `{status}/?$rid={id}&$version={n}`.
struct Answer<'a> {
    status: &'a str,
    id: u16,
    version: u64,
}

impl<'a> Answer<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        let (status, query) = text.split_once("/?").context("an answer without request id")?;
        let of = |name| query.split('&').find_map(|pair| pair.strip_prefix(name));
        let id = of("$rid=").context("an answer without request id")?;
        let id = id.parse().context("an answer with another's request id")?;
        let version =
            of("$version=").map_or(Ok(0), str::parse).context("a version that is none")?;
        Ok(Self { status, id, version })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fleet::Schedule;
    use crate::outcome::Totals;

    fn work(start: Instant) -> Phase {
        Phase::Work(Schedule { start, until: start + Duration::from_secs(3600) })
    }

    fn outbox(op: Op, window: u16, period: Option<Duration>) -> Outbox {
        let stream = Stream { window, ..Stream::default() };
        let period = period.map(|period| (period, Duration::ZERO));
        Outbox::new(op, &stream, Pace::new(true, period))
    }

    #[test]
    fn a_closed_loop_keeps_the_window_full() -> Result<()> {
        let device = Device::for_tests()?;
        let mut outbox = outbox(Op::Telemetry, 2, None);
        let mut out = Vec::new();
        outbox.fill(&device, &mut out)?;
        assert!(out.is_empty());
        outbox.enter(work(Instant::now()));
        outbox.fill(&device, &mut out)?;
        let count = || Totals::of([&*device.shared.tally]);
        assert_eq!(count().op(Op::Telemetry).started, 2);
        outbox.acknowledged(&device, 1);
        outbox.fill(&device, &mut out)?;
        assert_eq!(count().op(Op::Telemetry).started, 3);
        for stray in [0, 3, 7] {
            outbox.acknowledged(&device, stray);
        }
        assert_eq!((count().op(Op::Telemetry).done, count().event(Event::StrayAck)), (1, 3));
        outbox.give_up(&device);
        assert!(outbox.is_empty());
        assert_eq!(count().op(Op::Telemetry).failed, 2);
        Ok(())
    }

    #[test]
    fn a_full_window_waits_and_counts_from_when_it_was_due() -> Result<()> {
        let device = Device::for_tests()?;
        let mut outbox = outbox(Op::Telemetry, 1, Some(Duration::from_secs(1)));
        let start = Instant::now() - Duration::from_millis(2_600);
        outbox.enter(work(start));
        let mut out = Vec::new();
        outbox.fill(&device, &mut out)?;
        assert_eq!(outbox.due(), None, "the window is full");
        outbox.acknowledged(&device, 1);
        let [median] = device.shared.tally.cut().ops[&Op::Telemetry].latencies.at([50.0]);
        assert!(median >= 2_500.0, "{median} ms");
        assert_eq!(outbox.due(), Some(start + Duration::from_secs(1)));
        Ok(())
    }

    #[test]
    fn reports_differ_and_carry_their_request_id() -> Result<()> {
        let device = Device::for_tests()?;
        let mut outbox = outbox(Op::Report, 2, None);
        outbox.enter(work(Instant::now()));
        let (mut out, mut want) = (Vec::new(), Vec::new());
        outbox.fill(&device, &mut out)?;
        for n in [1, 2] {
            let topic = format!("$iothub/twin/PATCH/properties/reported/?$rid={n}");
            let text = &device.side().text[..256];
            let patch = format!(r#"{{"epoch":0,"count":{n},"text":"{text}"}}"#);
            mqtt::publish(&mut want, &topic, None, patch.as_bytes())?;
        }
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&want));
        let before = out.len();
        outbox.enter(Phase::Burst);
        outbox.fill(&device, &mut out)?;
        assert_eq!(out.len(), before, "a burst is of telemetry");
        outbox.answered(&device, "204/?$rid=2&$version=7")?;
        outbox.answered(&device, "429/?$rid=1")?;
        let totals = Totals::of([&*device.shared.tally]);
        let count = totals.op(Op::Report);
        assert_eq!((count.started, count.done, count.failed), (2, 1, 1));
        assert_eq!(totals.event(Event::Throttled), 1);
        for bad in ["204", "204/?$version=1", "204/?$rid=x", "204/?$rid=1&$version=x"] {
            assert!(outbox.answered(&device, bad).is_err(), "{bad}");
        }
        Ok(())
    }
}
