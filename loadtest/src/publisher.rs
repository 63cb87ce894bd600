//! What a device says over MQTT and what of it is on its way: telemetry, or reports of its twin.

use anyhow::Result;
use tokio::time::Instant;

use crate::args::Work;
use crate::fleet::{Phase, Plan};
use crate::mqtt;
use crate::outcome::Stats;
use crate::pace::{InFlight, Pace};

pub struct Publisher<'a> {
    plan: &'a Plan,
    topic: String,
    pace: Pace,
    /// By packet or request id less one; allocated with the first message.
    slots: Vec<Option<InFlight>>,
    free: Vec<u16>,
    /// Reports so far: no two are the same.
    reports: u64,
}

impl<'a> Publisher<'a> {
    pub fn new(plan: &'a Plan, number: usize, topic: String) -> Self {
        // Back ends set the pace of the others, and devices only answer.
        let by_device = matches!(plan.work, Work::Publish | Work::Report);
        let pace = Pace::new(plan.rate.filter(|_| by_device), plan.devices, number);
        Self { plan, topic, pace, slots: Vec::new(), free: Vec::new(), reports: 0 }
    }

    pub fn enter(&mut self, phase: Phase) {
        self.pace.enter(phase);
        if self.slots.is_empty() && self.pace.is_busy() {
            self.slots = vec![None; usize::from(self.plan.window)];
            self.free = (1..=self.plan.window).rev().collect();
        }
    }

    /// Whether the next messages follow at once, so that buffers are worth keeping.
    pub fn is_busy(&self) -> bool {
        self.pace.is_busy()
    }

    /// Writes what may be sent now; how many messages that is.
    pub fn fill(&mut self, out: &mut Vec<u8>) -> Result<u64> {
        let mut sent = 0;
        if !self.pace.is_busy() {
            return Ok(sent);
        }
        let now = Instant::now();
        while let Some(&id) = self.free.last()
            && let Some(message) = self.pace.take(now)
        {
            self.free.pop();
            self.slots[usize::from(id) - 1] = Some(message);
            self.write(out, id)?;
            sent += 1;
        }
        Ok(sent)
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
        self.pace.due().filter(|_| !self.free.is_empty())
    }

    /// Takes a PUBACK or the answer to a report. `false`: for nothing that was on its way.
    pub fn acknowledged(&mut self, id: u16, stats: &mut Stats) -> bool {
        let slot = self.slots.get_mut(usize::from(id).wrapping_sub(1)).and_then(Option::take);
        let Some(message) = slot else {
            stats.stray_acks += 1;
            return false;
        };
        self.free.push(id);
        message.done(&self.pace, stats);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::args::Rate;
    use crate::fleet::Schedule;

    fn schedule(start: Instant) -> Phase {
        let measured = start..start + Duration::from_secs(3600);
        Phase::Publish(Schedule { start, from: measured.start, until: measured.end })
    }

    #[test]
    fn a_closed_loop_keeps_the_window_full() -> Result<()> {
        let plan = Plan::for_tests(2, Some(Rate::Max))?;
        let mut publisher = Publisher::new(&plan, 0, "t".into());
        let (mut out, mut stats) = (Vec::new(), Stats::default());
        assert_eq!(publisher.fill(&mut out)?, 0);
        publisher.enter(schedule(Instant::now()));
        assert_eq!(publisher.fill(&mut out)?, 2);
        assert_eq!(publisher.fill(&mut out)?, 0);
        assert!(publisher.acknowledged(2, &mut stats));
        assert!(!publisher.acknowledged(2, &mut stats), "twice");
        assert!(!publisher.acknowledged(0, &mut stats) && !publisher.acknowledged(9, &mut stats));
        assert_eq!(publisher.fill(&mut out)?, 1);
        publisher.enter(Phase::Idle);
        assert!(publisher.acknowledged(1, &mut stats));
        assert_eq!(publisher.fill(&mut out)?, 0);
        assert_eq!((stats.publish.count(), stats.stray_acks), (1, 3));
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
        let mut out = Vec::new();
        assert_eq!(publisher.fill(&mut out)?, 2, "the window is full, the third waits");
        assert_eq!(publisher.due(), None);
        let mut stats = Stats::default();
        assert!(publisher.acknowledged(1, &mut stats));
        assert!(stats.publish.max() >= 1_000.0, "counted from when it was due");
        assert_eq!(publisher.fill(&mut out)?, 1);
        assert!(publisher.acknowledged(2, &mut stats));
        assert_eq!(publisher.due(), Some(start + Duration::from_millis(3_500)));
        Ok(())
    }

    #[test]
    fn a_burst_is_one_message() -> Result<()> {
        let plan = Plan::for_tests(2, None)?;
        let mut publisher = Publisher::new(&plan, 0, "t".into());
        let mut out = Vec::new();
        publisher.enter(Phase::Burst);
        assert_eq!(publisher.fill(&mut out)?, 1);
        assert_eq!(publisher.fill(&mut out)?, 0);
        Ok(())
    }

    #[test]
    fn reports_differ_and_carry_their_request_id() -> Result<()> {
        let plan = Plan { work: Work::Report, ..Plan::for_tests(2, Some(Rate::Max))? };
        let mut publisher = Publisher::new(&plan, 0, "t".into());
        let (mut out, mut want) = (Vec::new(), Vec::new());
        publisher.enter(schedule(Instant::now()));
        assert_eq!(publisher.fill(&mut out)?, 2);
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
        assert_eq!(publisher.fill(&mut Vec::new())?, 0);
        Ok(())
    }
}
