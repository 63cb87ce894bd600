//! What a device sends and when: telemetry, or reports of its twin; in a closed loop, on a schedule,
//! or once with all others.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::args::{Rate, Work};
use crate::fleet::{Phase, Plan, Schedule};
use crate::mqtt;
use crate::outcome::{Event, Op, Tally};

/// A message on its way.
#[derive(Clone, Copy)]
struct InFlight {
    /// When it was to be sent, which is when its latency begins: what a slow server holds up in
    /// the client counts as well.
    due: Instant,
    op: Op,
}

pub struct Publisher<'a> {
    plan: &'a Plan,
    number: usize,
    topic: String,
    /// By packet or request id less one; allocated with the first message.
    slots: Vec<Option<InFlight>>,
    free: Vec<u16>,
    schedule: Option<Schedule>,
    /// Of a rate: when the next message is due.
    next: Option<Instant>,
    bursts_due: u32,
    burst_at: Instant,
    /// Reports so far: no two are the same.
    reports: u64,
}

impl<'a> Publisher<'a> {
    pub fn new(plan: &'a Plan, number: usize, topic: String) -> Self {
        Self {
            plan,
            number,
            topic,
            slots: Vec::new(),
            free: Vec::new(),
            schedule: None,
            next: None,
            bursts_due: 0,
            burst_at: Instant::now(),
            reports: 0,
        }
    }

    pub fn enter(&mut self, phase: Phase) {
        (self.schedule, self.next) = (None, None);
        match phase {
            Phase::Idle | Phase::Stop => {}
            // Devices are called then, and only answer.
            Phase::Publish(_) if self.plan.work == Work::Call => {}
            Phase::Burst => {
                self.bursts_due += 1;
                self.burst_at = Instant::now();
            }
            Phase::Publish(schedule) => {
                self.schedule = Some(schedule);
                // The devices' turns are spread evenly.
                self.next = self.period().map(|period| {
                    schedule.start + period.mul_f64(self.number as f64 / self.plan.devices as f64)
                });
            }
        }
        if self.slots.is_empty() && (self.schedule.is_some() || self.bursts_due > 0) {
            self.slots = vec![None; usize::from(self.plan.window)];
            self.free = (1..=self.plan.window).rev().collect();
        }
    }

    fn period(&self) -> Option<Duration> {
        match self.plan.rate {
            Some(Rate::PerSecond(rate)) => {
                Some(Duration::from_secs_f64(self.plan.devices as f64 / rate))
            }
            _ => None,
        }
    }

    /// Whether the next messages follow at once, so that buffers are worth keeping.
    pub fn is_busy(&self) -> bool {
        self.schedule.is_some()
    }

    /// What messages of a schedule are.
    fn op(&self) -> Op {
        if self.plan.work == Work::Report { Op::Report } else { Op::Telemetry }
    }

    /// Writes what may be sent now.
    pub fn fill(&mut self, out: &mut Vec<u8>, tally: &Tally) -> Result<()> {
        if self.bursts_due == 0 && self.schedule.is_none() {
            return Ok(());
        }
        let (op, now) = (self.op(), Instant::now());
        while let Some(&id) = self.free.last() {
            let message = if self.bursts_due > 0 {
                self.bursts_due -= 1;
                InFlight { due: self.burst_at, op: Op::Burst }
            } else if let Some(schedule) = self.schedule.filter(|schedule| now < schedule.until) {
                match (self.next, self.period()) {
                    (Some(next), Some(period)) if next <= now => {
                        self.next = Some(next + period);
                        InFlight { due: next, op }
                    }
                    (Some(_), _) => break,
                    (None, _) if now < schedule.start => break,
                    (None, _) => InFlight { due: now, op },
                }
            } else {
                break;
            };
            self.free.pop();
            self.slots[usize::from(id) - 1] = Some(message);
            self.write(out, id)?;
            tally.started(message.op, 1);
        }
        Ok(())
    }

    fn write(&mut self, out: &mut Vec<u8>, id: u16) -> Result<()> {
        if self.plan.work != Work::Report {
            return mqtt::publish(out, &self.topic, Some(id), &self.plan.body);
        }
        self.reports += 1;
        let topic = format!("$iothub/twin/PATCH/properties/reported/?$rid={id}");
        let text = String::from_utf8_lossy(&self.plan.body);
        let patch = format!(r#"{{"count":{},"text":"{text}"}}"#, self.reports);
        mqtt::publish(out, &topic, None, patch.as_bytes())
    }

    /// When to call `fill` again if nothing else happens.
    pub fn due(&self) -> Option<Instant> {
        let schedule = self.schedule.filter(|_| !self.free.is_empty())?;
        self.next.filter(|next| *next < schedule.until)
    }

    /// Takes a PUBACK or the answer to a report. `false`: for nothing that was on its way.
    pub fn acknowledged(&mut self, id: u16, tally: &Tally) -> bool {
        let slot = self.slots.get_mut(usize::from(id).wrapping_sub(1)).and_then(Option::take);
        let Some(message) = slot else {
            tally.count(Event::StrayAck, 1);
            return false;
        };
        self.free.push(id);
        tally.done(message.op, Instant::now().saturating_duration_since(message.due));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Totals;

    fn sent(tally: &Tally) -> u64 {
        Totals::of([tally]).sent()
    }

    fn schedule(start: Instant) -> Phase {
        Phase::Publish(Schedule { start, until: start + Duration::from_secs(3600) })
    }

    #[test]
    fn a_closed_loop_keeps_the_window_full() -> Result<()> {
        let plan = Plan::for_tests(2, Some(Rate::Max))?;
        let mut publisher = Publisher::new(&plan, 0, "t".into());
        let (mut out, tally) = (Vec::new(), Tally::default());
        let mut fill = |publisher: &mut Publisher| -> Result<u64> {
            let before = sent(&tally);
            publisher.fill(&mut out, &tally)?;
            Ok(sent(&tally) - before)
        };
        assert_eq!(fill(&mut publisher)?, 0);
        publisher.enter(schedule(Instant::now()));
        assert_eq!(fill(&mut publisher)?, 2);
        assert_eq!(fill(&mut publisher)?, 0);
        assert!(publisher.acknowledged(2, &tally));
        assert!(!publisher.acknowledged(2, &tally), "twice");
        assert!(!publisher.acknowledged(0, &tally) && !publisher.acknowledged(9, &tally));
        assert_eq!(fill(&mut publisher)?, 1);
        publisher.enter(Phase::Idle);
        assert!(publisher.acknowledged(1, &tally));
        assert_eq!(fill(&mut publisher)?, 0);
        let totals = Totals::of([&tally]);
        assert_eq!((totals.op(Op::Telemetry).done, totals.event(Event::StrayAck)), (2, 3));
        Ok(())
    }

    #[test]
    fn a_rate_is_kept_though_acknowledgements_are_late() -> Result<()> {
        // Two messages a second over two devices: one a second each, the second device's half a
        // second later.
        let plan = Plan::for_tests(2, Some(Rate::PerSecond(2.0)))?;
        let mut publisher = Publisher::new(&plan, 1, "t".into());
        let start = Instant::now() - Duration::from_millis(2_600);
        publisher.enter(schedule(start));
        let (mut out, tally) = (Vec::new(), Tally::default());
        publisher.fill(&mut out, &tally)?;
        assert_eq!(sent(&tally), 2, "the window is full, the third waits");
        assert_eq!(publisher.due(), None);
        assert!(publisher.acknowledged(1, &tally));
        let latency = tally.cut().ops[&Op::Telemetry].latencies.at([100.0])[0];
        assert!(latency >= 1_000.0, "counted from when it was due");
        publisher.fill(&mut out, &tally)?;
        assert_eq!(sent(&tally), 3);
        assert!(publisher.acknowledged(2, &tally));
        assert_eq!(publisher.due(), Some(start + Duration::from_millis(3_500)));
        Ok(())
    }

    #[test]
    fn a_burst_is_one_message() -> Result<()> {
        let plan = Plan::for_tests(2, None)?;
        let mut publisher = Publisher::new(&plan, 0, "t".into());
        let (mut out, tally) = (Vec::new(), Tally::default());
        publisher.enter(Phase::Burst);
        publisher.fill(&mut out, &tally)?;
        publisher.fill(&mut out, &tally)?;
        assert_eq!(Totals::of([&tally]).op(Op::Burst).started, 1);
        Ok(())
    }

    #[test]
    fn reports_differ_and_carry_their_request_id() -> Result<()> {
        let plan = Plan { work: Work::Report, ..Plan::for_tests(2, Some(Rate::Max))? };
        let mut publisher = Publisher::new(&plan, 0, "t".into());
        let (mut out, mut want) = (Vec::new(), Vec::new());
        publisher.enter(schedule(Instant::now()));
        publisher.fill(&mut out, &Tally::default())?;
        for n in [1, 2] {
            let topic = format!("$iothub/twin/PATCH/properties/reported/?$rid={n}");
            let patch = format!(r#"{{"count":{n},"text":"{}"}}"#, "x".repeat(16));
            mqtt::publish(&mut want, &topic, None, patch.as_bytes())?;
        }
        assert_eq!(out, want);
        Ok(())
    }

    #[test]
    fn who_is_called_sends_nothing_by_itself() -> Result<()> {
        let plan = Plan { work: Work::Call, ..Plan::for_tests(2, Some(Rate::Max))? };
        let mut publisher = Publisher::new(&plan, 0, "t".into());
        publisher.enter(schedule(Instant::now()));
        let mut out = Vec::new();
        publisher.fill(&mut out, &Tally::default())?;
        assert!(out.is_empty());
        Ok(())
    }
}
