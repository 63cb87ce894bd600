//! When a device sends: in a closed loop, on a schedule, or once with all others.

use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::{Phase, Schedule};

/// A message that is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Due {
    /// Its latency begins here: what a slow server holds up in the client counts as well.
    pub at: Instant,
    pub burst: bool,
}

pub struct Pace {
    /// Whether there is anything to send but in bursts.
    sends: bool,
    /// Between two messages, and from the start to the first; none: as fast as answers come.
    period: Option<(Duration, Duration)>,
    schedule: Option<Schedule>,
    /// Of a rate: when the next message is due.
    next: Option<Instant>,
    bursts_due: u32,
    burst_at: Instant,
}

impl Pace {
    pub fn new(sends: bool, period: Option<(Duration, Duration)>) -> Self {
        let (schedule, next, bursts_due, burst_at) = (None, None, 0, Instant::now());
        Self { sends, period, schedule, next, bursts_due, burst_at }
    }

    pub fn enter(&mut self, phase: Phase) {
        (self.schedule, self.next) = (None, None);
        match phase {
            Phase::Burst => {
                self.bursts_due += 1;
                self.burst_at = Instant::now();
            }
            Phase::Work(schedule) if self.sends => {
                self.schedule = Some(schedule);
                self.next = self.period.map(|(_, first)| schedule.start + first);
            }
            Phase::Idle | Phase::Work(_) | Phase::Drain(_) | Phase::Stop => {}
        }
    }

    /// Whether messages are to be sent in this phase.
    pub fn is_busy(&self) -> bool {
        self.schedule.is_some() || self.bursts_due > 0
    }

    /// The next message, if one is due.
    pub fn take(&mut self, now: Instant) -> Option<Due> {
        if self.bursts_due > 0 {
            self.bursts_due -= 1;
            return Some(Due { at: self.burst_at, burst: true });
        }
        if !self.is_due(now) {
            return None;
        }
        let at = self.next.unwrap_or(now);
        self.next = self.next.zip(self.period).map(|(next, (period, _))| next + period);
        Some(Due { at, burst: false })
    }

    /// Whether there is one to take.
    pub fn is_due(&self, now: Instant) -> bool {
        let on = self.schedule.filter(|on| on.start <= now && now < on.until);
        self.bursts_due > 0 || on.is_some_and(|_| self.next.is_none_or(|next| next <= now))
    }

    /// When to take again if nothing else happens.
    pub fn due(&self) -> Option<Instant> {
        let schedule = self.schedule?;
        self.next.filter(|next| *next < schedule.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(start: Instant) -> Phase {
        Phase::Work(Schedule { start, until: start + Duration::from_secs(3600) })
    }

    #[test]
    fn a_rate_is_kept_though_answers_are_late() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(true, Some((second, second / 2)));
        let start = Instant::now();
        pace.enter(schedule(start));
        assert_eq!(pace.take(start), None);
        assert_eq!(pace.due(), Some(start + second / 2));
        let late = start + second * 2;
        let due =
            |half_seconds: u32| Some(Due { at: start + second * half_seconds / 2, burst: false });
        assert_eq!([pace.take(late), pace.take(late), pace.take(late)], [due(1), due(3), None]);
        assert_eq!(pace.due(), Some(start + second * 5 / 2));
        assert_eq!(pace.take(start + second * 3600), None, "nothing after the end");
    }

    #[test]
    fn a_closed_loop_sends_at_once_and_ends_in_time() {
        let mut pace = Pace::new(true, None);
        let start = Instant::now();
        assert!(!pace.is_busy() && pace.take(start).is_none());
        pace.enter(schedule(start));
        for at in [start, start + Duration::from_secs(5)] {
            assert_eq!(pace.take(at), Some(Due { at, burst: false }));
        }
        assert_eq!((pace.due(), pace.take(start + Duration::from_secs(3600))), (None, None));
    }

    #[test]
    fn a_burst_is_one_message_of_silent_devices_too() {
        let mut pace = Pace::new(false, None);
        pace.enter(schedule(Instant::now()));
        assert!(pace.take(Instant::now()).is_none());
        pace.enter(Phase::Burst);
        assert!(pace.take(Instant::now()).is_some_and(|due| due.burst));
        assert!(pace.take(Instant::now()).is_none());
    }
}
