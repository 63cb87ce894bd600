//! A scenario made ready: what every device and back end of a process knows.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::scenario::{Auth, Connect, Does, Group, Protocol, Rate, Retry, Scenario};
use crate::target::Target;

pub struct Plan {
    pub target: Arc<Target>,
    pub scenario: Scenario,
    /// Of each group of the scenario.
    pub sides: Vec<Side>,
}

/// A group of devices, as far as this process has it.
pub struct Side {
    pub group: Group,
    /// None: no TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// Those that are this process's, by their number in the group.
    pub numbers: Range<usize>,
    /// Of the group's first device among all.
    first: usize,
    connecting: Arc<Semaphore>,
    /// What bodies are cut from.
    pub text: String,
}

/// Which devices are this process's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Of each group, by number.
    pub range: Range<usize>,
    /// One of so many equal parts of that.
    pub part: (usize, usize),
}

impl Share {
    pub const ALL: Self = Self { range: 0..usize::MAX, part: (0, 1) };

    pub fn of(&self, count: usize) -> Range<usize> {
        let range = self.range.start.min(count)..self.range.end.min(count);
        let (index, parts) = self.part;
        let at = |index: usize| range.start + range.len() * index / parts;
        at(index)..at(index + 1)
    }
}

impl Plan {
    pub fn new(scenario: &Scenario, target: &Arc<Target>, share: &Share) -> Result<Self> {
        let mut first = 0;
        let side = |group: &Group| {
            let at_once = match group.connect {
                Connect::AtOnce(devices) => devices,
                Connect::Storm | Connect::PerSecond(_) => Semaphore::MAX_PERMITS,
            };
            let sizes = [&group.telemetry, &group.reports].map(|stream| stream.size.largest());
            let largest =
                sizes.into_iter().chain(scenario.backends.iter().map(|b| b.size.largest()));
            let text = "0123456789abcdef".repeat(largest.max().unwrap_or(0).div_ceil(16));
            let side = Side {
                group: group.clone(),
                tls: target.tls_for(group.auth)?,
                numbers: share.of(group.count),
                first,
                connecting: Arc::new(Semaphore::new(at_once)),
                text,
            };
            first += group.count;
            Ok(side)
        };
        let sides = scenario.groups.iter().map(side).collect::<Result<Vec<_>>>()?;
        let plan = Self { target: target.clone(), scenario: scenario.clone(), sides };
        if plan.target.hub.is_none() {
            plan.check_for_broker()?;
        }
        if plan.devices() == 0 {
            bail!("no device of the scenario is in this worker's share");
        }
        Ok(plan)
    }

    fn check_for_broker(&self) -> Result<()> {
        let group = |group: &Group| {
            group.protocol == Protocol::Mqtt
                && group.auth == Auth::Sas
                && group.reports.rate.is_none()
        };
        let calls = self.scenario.backends.iter().all(|backend| backend.does == Does::Methods);
        if !calls || !self.scenario.groups.iter().all(group) {
            bail!("a broker knows MQTT telemetry and calls only: leave out the rest, or --broker");
        }
        Ok(())
    }

    pub fn without_back_ends(mut self) -> Self {
        self.scenario.backends.clear();
        self
    }

    /// For all workers of a run but the first.
    pub fn without_feedback(mut self) -> Self {
        self.scenario.backends.retain(|backend| backend.does != Does::Feedback);
        self
    }

    /// Whether this may be the id of one of the devices.
    pub fn owns(&self, id: &str) -> bool {
        let number = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
        let mut numbers = self.sides.iter().filter_map(|side| id.strip_prefix(&*side.group.prefix));
        numbers.any(number)
    }

    /// This process's.
    pub fn devices(&self) -> usize {
        self.sides.iter().map(|side| side.numbers.len()).sum()
    }

    /// Those of them that are to connect and stay.
    pub fn expected(&self) -> u64 {
        let good = |side: &Side| {
            side.numbers.clone().filter(|n| side.group.misbehaviour(*n).is_none()).count()
        };
        self.sides.iter().map(good).sum::<usize>() as u64
    }

    pub fn ids(&self) -> impl Iterator<Item = (String, &Side)> {
        self.sides.iter().flat_map(|side| side.numbers.clone().map(move |n| (side.id(n), side)))
    }

    /// Whether devices or back ends have something to do.
    pub fn works(&self) -> bool {
        let sends = |group: &Group| group.telemetry.rate.is_some() || group.reports.rate.is_some();
        !self.scenario.backends.is_empty()
            || self.scenario.groups.iter().any(|group| sends(group) || group.reconnect.is_some())
    }
}

impl Side {
    pub fn id(&self, number: usize) -> String {
        format!("{}{number:06}", self.group.prefix)
    }

    /// Of a device among all of the scenario.
    pub fn overall(&self, number: usize) -> usize {
        self.first + number
    }

    /// When a device may connect at the start.
    pub async fn turn(
        &self,
        number: usize,
        start: Instant,
    ) -> Result<Option<OwnedSemaphorePermit>> {
        if let Connect::PerSecond(rate) = self.group.connect {
            let at = Duration::from_secs_f64(number as f64 / rate);
            tokio::time::sleep_until(start + at).await;
            return Ok(None);
        }
        let turn = self.connecting.clone().acquire_owned().await;
        turn.map(Some).context("the semaphore is never closed")
    }

    pub fn retry(&self) -> Retry {
        self.group.retry.unwrap_or_default()
    }

    pub fn keep_alive(&self) -> u16 {
        // Who dropped its TLS state cannot ping.
        if self.group.idle { 1_170 } else { self.group.keep_alive }
    }

    /// Between two of a device's messages, and from the start to its first; none: as fast as
    /// answers come.
    pub fn period(&self, rate: Rate, number: usize) -> Option<(Duration, Duration)> {
        let seconds = match rate {
            Rate::Max => return None,
            Rate::Total(rate) => self.group.count as f64 / rate,
            Rate::PerDevice(rate) => 1.0 / rate,
        };
        let period = Duration::from_secs_f64(seconds);
        // Their turns are spread evenly.
        Some((period, period.mul_f64(number as f64 / self.group.count as f64)))
    }
}
