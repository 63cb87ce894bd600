//! A scenario: which devices and back ends there are and what they do, from a TOML file.

mod check;
mod describe;
#[cfg(test)]
mod documented;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::history::Ask;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    pub name: String,
    /// Seconds of work before what is measured, and seconds that are measured.
    pub warm_up: f64,
    pub hold: f64,
    /// Rounds, before the work, in which every device publishes one message at the same time.
    pub burst: u32,
    /// With a history: seconds in the end without any news of C2D messages that have not come to
    /// their end, or of feedback on them, before they are taken for lost. 0: none, and nothing is.
    pub drain: f64,
    #[serde(rename = "devices")]
    pub groups: Vec<Group>,
    pub backends: Vec<Backend>,
}

/// Devices that are alike.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Group {
    /// Device ids are this and a number.
    pub prefix: String,
    pub count: usize,
    pub protocol: Protocol,
    pub tls: Tls,
    pub auth: Auth,
    pub connect: Connect,
    /// Devices that cannot connect, or lose their connection, try again; those that are throttled
    /// do so in any case.
    pub retry: Option<Retry>,
    pub reconnect: Option<Reconnect>,
    /// Seconds, over MQTT.
    pub keep_alive: u16,
    /// To C2D messages, methods, twin answers and desired properties.
    pub subscribe: bool,
    /// Once connected, drops the TLS state and keeps the socket. It can neither publish nor ping.
    pub idle: bool,
    /// Over HTTPS, a connection for each request.
    pub connection_per_request: bool,
    pub telemetry: Stream,
    /// Reported properties.
    pub reports: Stream,
    pub methods: Methods,
    pub c2d: C2d,
    pub misbehave: Option<Misbehave>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    Mqtt,
    MqttWs,
    Https,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    /// Every handshake is a full one.
    Full,
    /// A device that connects again resumes its TLS session, if the hub lets it.
    Resume,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
    Sas,
    X509,
}

/// How devices connect at the start.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connect {
    /// All at once.
    Storm,
    /// So many at the same time.
    AtOnce(usize),
    /// A ramp.
    PerSecond(f64),
}

/// Waits, doubled with each failure, before a device tries again. Seconds.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    pub first: f64,
    pub most: f64,
    /// Waits between half and all of it.
    pub jitter: bool,
    /// A device that has not been connected for so long gives up.
    pub give_up: f64,
}

/// Connections that their devices end in good order, and open again at once.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconnect {
    /// Seconds between them, the mean if they have jitter.
    pub every: f64,
    /// Without it all devices do so at the same time.
    #[serde(default = "yes")]
    pub jitter: bool,
}

fn yes() -> bool {
    true
}

/// Messages of a kind.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stream {
    /// None: none, but in bursts.
    pub rate: Option<Rate>,
    pub size: Size,
    /// Messages that may be unacknowledged over MQTT.
    pub window: u16,
    /// Messages in a request over HTTPS.
    pub batch: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rate {
    /// As fast as acknowledgements allow.
    Max,
    /// A second, over all.
    Total(f64),
    PerDevice(f64),
}

/// Bytes of a body.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "`size` is a number, { from = 1, to = 9 } or { weights = [[bytes, weight], …] }"
)]
pub enum Size {
    Fixed(usize),
    Uniform { from: usize, to: usize },
    Weighted { weights: Vec<(usize, u32)> },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Methods {
    /// Seconds until a call is answered, with what it was called with.
    pub delay: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct C2d {
    /// Over HTTPS: seconds between two looks; none: the device does not look.
    pub poll: Option<f64>,
    /// Shares, over HTTPS; whatever is left is completed.
    pub abandon: f64,
    pub reject: f64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Misbehave {
    /// Of the group's devices.
    pub share: f64,
    pub kinds: Vec<Misbehaviour>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Misbehaviour {
    /// Bytes that are no MQTT.
    Garbage,
    /// A CONNECT, byte by byte.
    SlowLoris,
    /// A packet longer than the hub takes.
    Oversize,
    /// Never acknowledges a C2D message.
    NoAcks,
    /// A token signed with another key.
    BadToken,
    /// Opens a connection and says nothing.
    HalfOpen,
}

/// What a back end does to devices in turn.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    pub does: Does,
    pub rate: Rate,
    /// At the same time; none: one for each client thread.
    pub parallel: Option<usize>,
    #[serde(default = "Size::small")]
    pub size: Size,
    /// Only devices whose group has this prefix.
    pub devices: Option<String>,
    /// Of C2D messages: of which ends feedback is asked for.
    #[serde(default)]
    pub ack: Ack,
    #[serde(default = "all_devices")]
    pub query: String,
}

fn all_devices() -> String {
    "SELECT * FROM devices".into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Does {
    Methods,
    C2d,
    Desired,
    Queries,
    /// Reads it, and asks for no more than there is.
    Feedback,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ack {
    #[default]
    None,
    Positive,
    Negative,
    Full,
}

impl Ack {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Positive => "positive",
            Self::Negative => "negative",
            Self::Full => "full",
        }
    }

    pub fn ask(self) -> Ask {
        match self {
            Self::None => Ask::None,
            Self::Positive => Ask::Positive,
            Self::Negative => Ask::Negative,
            Self::Full => Ask::Full,
        }
    }
}

impl Default for Scenario {
    fn default() -> Self {
        let (name, groups, backends) = Default::default();
        Self { name, warm_up: 0.0, hold: 10.0, burst: 0, drain: 60.0, groups, backends }
    }
}

impl Default for Group {
    fn default() -> Self {
        Self {
            prefix: "load-".into(),
            count: 100,
            protocol: Protocol::Mqtt,
            tls: Tls::Full,
            auth: Auth::Sas,
            connect: Connect::AtOnce(64),
            retry: None,
            reconnect: None,
            keep_alive: 240,
            subscribe: true,
            idle: false,
            connection_per_request: false,
            telemetry: Stream::default(),
            reports: Stream::default(),
            methods: Methods::default(),
            c2d: C2d { poll: None, abandon: 0.0, reject: 0.0 },
            misbehave: None,
        }
    }
}

impl Default for C2d {
    fn default() -> Self {
        Self { poll: None, abandon: 0.0, reject: 0.0 }
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self { rate: None, size: Size::Fixed(256), window: 1, batch: 1 }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self { first: 1.0, most: 30.0, jitter: true, give_up: 600.0 }
    }
}

impl Retry {
    /// Before try number `tries`, from 0.
    pub fn wait(&self, tries: u32) -> Duration {
        let full = (self.first * 2_f64.powi(tries.min(30) as i32)).min(self.most);
        let part = if self.jitter { 0.5 + fastrand::f64() / 2.0 } else { 1.0 };
        Duration::from_secs_f64(full * part)
    }
}

impl Size {
    fn small() -> Self {
        Self::Fixed(64)
    }

    pub fn draw(&self) -> usize {
        match self {
            Self::Fixed(size) => *size,
            Self::Uniform { from, to } => fastrand::usize(*from..=*to),
            Self::Weighted { weights } => {
                let all: u32 = weights.iter().map(|(_, weight)| weight).sum();
                let mut at = fastrand::u32(..all);
                let drawn = weights.iter().find(|(_, weight)| {
                    let here = at < *weight;
                    at = at.saturating_sub(*weight);
                    here
                });
                drawn.map_or(0, |(size, _)| *size)
            }
        }
    }

    pub fn largest(&self) -> usize {
        match self {
            Self::Fixed(size) => *size,
            Self::Uniform { to, .. } => *to,
            Self::Weighted { weights } => weights.iter().map(|(size, _)| *size).max().unwrap_or(0),
        }
    }
}

impl Scenario {
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the scenario {}", path.display()))?;
        let mut scenario =
            Self::parse(&text).with_context(|| format!("{} is no scenario", path.display()))?;
        if scenario.name.is_empty() {
            scenario.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        }
        Ok(scenario)
    }

    fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }
}

impl Scenario {
    fn back_ends(&self, does: Does) -> impl Iterator<Item = &Backend> {
        self.backends.iter().filter(move |backend| backend.does == does)
    }

    pub fn sends_c2d(&self) -> bool {
        self.back_ends(Does::C2d).next().is_some()
    }

    pub fn asks_for_feedback(&self) -> bool {
        self.back_ends(Does::C2d).any(|backend| backend.ack != Ack::None)
    }

    pub fn reads_feedback(&self) -> bool {
        self.back_ends(Does::Feedback).next().is_some()
    }

    /// Whether C2D messages go to devices that need not take them.
    pub fn sends_to_misbehaving(&self) -> bool {
        let mut bad = self.groups.iter().filter(|group| group.misbehave.is_some());
        bad.any(|group| self.back_ends(Does::C2d).any(|backend| backend.serves(group)))
    }
}

impl Backend {
    pub fn of(does: Does, rate: Rate, parallel: Option<usize>, size: Size) -> Self {
        let (devices, ack, query) = (None, Ack::None, all_devices());
        Self { does, rate, parallel, size, devices, ack, query }
    }

    pub fn serves(&self, group: &Group) -> bool {
        self.devices.as_ref().is_none_or(|prefix| *prefix == group.prefix)
    }
}

impl Group {
    /// How the device with this number of the group misbehaves, if it does.
    pub fn misbehaviour(&self, number: usize) -> Option<Misbehaviour> {
        let Misbehave { share, kinds } = self.misbehave.as_ref()?;
        let before = |number: usize| (number as f64 * share).floor() as usize;
        let (at, next) = (before(number), before(number + 1));
        (next > at).then(|| kinds[at % kinds.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most() {
        let steady = Retry { first: 1.0, most: 10.0, jitter: false, give_up: 60.0 };
        let waits = [0, 1, 2, 3, 4, 4_000_000].map(|tries| steady.wait(tries).as_secs_f64());
        assert_eq!(waits, [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]);
        let spread = Retry { jitter: true, ..steady };
        let waits: Vec<_> = (0..100).map(|_| spread.wait(1).as_secs_f64()).collect();
        assert!(waits.iter().all(|wait| (1.0..=2.0).contains(wait)));
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }

    #[test]
    fn sizes_are_those_of_the_distribution() {
        let drawn = |size: &Size| (0..1_000).map(|_| size.draw()).collect::<Vec<_>>();
        assert!(drawn(&Size::Fixed(7)).iter().all(|size| *size == 7));
        let uniform = drawn(&Size::Uniform { from: 3, to: 5 });
        assert!([3, 4, 5].iter().all(|size| uniform.contains(size)));
        assert!(uniform.iter().all(|size| (3..=5).contains(size)));
        let weights = vec![(64, 3), (0, 0), (1_024, 1)];
        let weighted = drawn(&Size::Weighted { weights });
        let small = weighted.iter().filter(|size| **size == 64).count();
        assert!((600..900).contains(&small), "{small}");
        assert_eq!(weighted.iter().filter(|size| **size == 1_024).count(), 1_000 - small);
    }
}
