//! When a device sends: in a closed loop, on a schedule, or once with all others.

use std::time::Duration;

use tokio::time::Instant;

use crate::args::Rate;
use crate::fleet::{Phase, Schedule};
use crate::outcome::Stats;

/// A message on its way.
#[derive(Clone, Copy)]
pub struct InFlight {
    /// When it was to be sent, which is when its latency begins: what a slow server holds up in
    /// the client counts as well.
    pub due: Instant,
    burst: bool,
}

impl InFlight {
    /// It was acknowledged.
    pub fn done(&self, pace: &Pace, stats: &mut Stats) {
        let now = Instant::now();
        if self.burst {
            stats.burst.record(now - self.due);
        } else if pace.schedule.is_some_and(|schedule| schedule.measures(now)) {
            stats.publish.record(now.saturating_duration_since(self.due));
        }
    }
}

pub struct Pace {
    /// Between two messages, and from the start to the first; none: as fast as answers come.
    period: Option<(Duration, Duration)>,
    sends: bool,
    schedule: Option<Schedule>,
    /// Of a rate: when the next message is due.
    next: Option<Instant>,
    bursts_due: u32,
    burst_at: Instant,
}

impl Pace {
    /// Of the device with this number of so many, whose turns are spread evenly.
    pub fn new(rate: Option<Rate>, devices: usize, number: usize) -> Self {
        let period = match rate {
            Some(Rate::PerSecond(rate)) => {
                let period = Duration::from_secs_f64(devices as f64 / rate);
                Some((period, period.mul_f64(number as f64 / devices as f64)))
            }
            _ => None,
        };
        let (schedule, next, bursts_due) = (None, None, 0);
        let (sends, burst_at) = (rate.is_some(), Instant::now());
        Self { period, sends, schedule, next, bursts_due, burst_at }
    }

    pub fn enter(&mut self, phase: Phase) {
        (self.schedule, self.next) = (None, None);
        match phase {
            Phase::Idle | Phase::Stop => {}
            Phase::Burst => {
                self.bursts_due += 1;
                self.burst_at = Instant::now();
            }
            Phase::Publish(schedule) if self.sends => {
                self.schedule = Some(schedule);
                self.next = self.period.map(|(_, first)| schedule.start + first);
            }
            Phase::Publish(_) => {}
        }
    }

    /// Whether messages are to be sent in this phase.
    pub fn is_busy(&self) -> bool {
        self.schedule.is_some() || self.bursts_due > 0
    }

    /// The next message, if one is due.
    pub fn take(&mut self, now: Instant) -> Option<InFlight> {
        if self.bursts_due > 0 {
            self.bursts_due -= 1;
            return Some(InFlight { due: self.burst_at, burst: true });
        }
        let schedule = self.schedule.filter(|schedule| now < schedule.until)?;
        match (self.next, self.period) {
            (Some(next), Some((period, _))) if next <= now => {
                self.next = Some(next + period);
                Some(InFlight { due: next, burst: false })
            }
            (None, _) if schedule.start <= now => Some(InFlight { due: now, burst: false }),
            _ => None,
        }
    }

    /// When to take again if nothing else happens.
    pub fn due(&self) -> Option<Instant> {
        let schedule = self.schedule?;
        self.next.filter(|next| *next < schedule.until)
    }
}
