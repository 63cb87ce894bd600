//! The command line: a scenario, and flags for what is asked for most.

use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::check;
use crate::plan::Share;
use crate::scenario::{
    Auth, Backend, Connect, Does, Group, Protocol, Rate, Reconnect, Retry, Scenario, Size, Tls,
};

#[derive(Debug, Parser)]
#[command(name = "dunlin-loadtest", version, about = "Simulates devices and measures the hub")]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Connects devices, has them and back ends work, prints what came of it. Fails unless every
    /// device connected, every subscription was granted and every message was acknowledged.
    Run(Box<Run>),
    /// Creates the devices of a run and leaves them: `run --reuse` takes them.
    Create(Devices),
    /// Removes them.
    Remove(Devices),
    Check(check::Arguments),
    /// Reads the hub's event stream into a history, for `check`: of a run on several machines, or of
    /// one that was killed.
    Log(Log),
}

/// Which devices, where.
#[derive(Debug, Args)]
pub struct Devices {
    /// A scenario (docs/loadtest.md). Flags override it; those of devices want one group in it.
    #[arg(value_name = "SCENARIO.toml")]
    pub scenario: Option<PathBuf>,
    /// Devices, one connection each [default: 100].
    #[arg(long)]
    pub devices: Option<usize>,
    /// Device ids are this and a number [default: load-].
    #[arg(long)]
    pub prefix: Option<String>,
    /// Only the devices with these numbers.
    #[arg(long, value_name = "FROM..TO", value_parser = range)]
    pub range: Option<Range<usize>>,
    /// Only part I, from 0, of N equal parts: one of several machines. Without I it is
    /// JOB_COMPLETION_INDEX, as Kubernetes sets it.
    #[arg(long, value_name = "I/N", value_parser = part)]
    pub worker: Option<(usize, usize)>,
    #[command(flatten)]
    pub hub: Hub,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub devices: Devices,
    /// What the messages are [default: publish].
    #[arg(long, value_enum, requires = "rate")]
    pub work: Option<Work>,
    /// Messages per second over all devices, or `max`: as fast as acknowledgements allow. Without
    /// it the devices stay silent.
    #[arg(long, value_parser = rate)]
    pub rate: Option<Rate>,
    /// Seconds that are measured, once every device is connected [default: 10].
    #[arg(long)]
    pub hold: Option<f64>,
    /// Seconds of work before what is measured [default: 0].
    #[arg(long)]
    pub warm_up: Option<f64>,
    /// With --history: seconds without news before C2D messages and feedback that are missing in the
    /// end are taken for lost; 0: does not wait for them [default: 60].
    #[arg(long, requires = "history")]
    pub drain: Option<f64>,
    /// Unacknowledged messages a device may have; C2D messages on their way to it [default: 1].
    #[arg(long, requires = "rate")]
    pub window: Option<u16>,
    /// Bytes of a message's body; of the text in a report or a call [default: 256].
    #[arg(long)]
    pub size: Option<usize>,
    /// Rounds in which every device publishes one message at the same time [default: 0].
    #[arg(long)]
    pub burst: Option<u32>,
    /// All but `mqtt` by the port of the connection string [default: mqtt].
    #[arg(long, value_enum)]
    pub protocol: Option<Protocol>,
    /// `full`: every handshake is a full one [default: full].
    #[arg(long, value_enum)]
    pub tls: Option<Tls>,
    /// Over HTTPS a connection for each request.
    #[arg(long)]
    pub connection_per_request: bool,
    /// Keep-alive in seconds [default: 240].
    #[arg(long)]
    pub keep_alive: Option<u16>,
    /// Drops the TLS state of a device once it is connected and keeps its socket: the server sees a
    /// silent device. It can neither publish nor ping, so its keep-alive is 1170.
    #[arg(long, conflicts_with_all = ["rate", "burst", "keep_alive"])]
    pub idle_drops_tls: bool,
    /// Do not subscribe to C2D messages, methods, twin answers and desired properties.
    #[arg(long)]
    pub no_subscribe: bool,
    /// Devices that may be connecting at the same time [default: 64].
    #[arg(long, conflicts_with_all = ["ramp", "storm"])]
    pub connecting: Option<usize>,
    /// Devices that begin to connect in a second.
    #[arg(long, conflicts_with = "storm")]
    pub ramp: Option<f64>,
    /// All devices connect at once, and try again until they are in.
    #[arg(long)]
    pub storm: bool,
    /// Who cannot connect, or loses the connection, tries again, after longer and longer waits.
    #[arg(long)]
    pub retry: bool,
    /// Each device connects anew after so many seconds, in the mean.
    #[arg(long, value_name = "SECONDS")]
    pub reconnect: Option<f64>,
    /// Processes that share the devices.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: u16,
    /// One of them, for itself.
    #[arg(long, hide = true, value_parser = part)]
    pub crew: Option<(usize, usize)>,
    /// Client threads of a process; 0: as many as there are processors.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Writes down every send, acknowledgement, receipt and disposition, for `check`. With several
    /// workers each writes a file of its own, with its number behind the name.
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Writes the report as one JSON object to this file; `-`: to standard output, instead of text.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Writes the report as a page with plots to this file; it holds all it needs.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Do not show how it goes.
    #[arg(long)]
    pub quiet: bool,
    /// Leaves the devices in the hub's registry.
    #[arg(long)]
    pub keep: bool,
    /// Takes the devices that `create` made with the same login and prefix, and leaves them.
    #[arg(long)]
    pub reuse: bool,
    /// Samples the memory and processor time of this process (the server), or of all of this name,
    /// along the way. May be given several times.
    #[arg(long, value_name = "PID|NAME")]
    pub watch: Vec<String>,
    #[command(flatten)]
    pub broker: Broker,
}

#[derive(Debug, Args)]
pub struct Log {
    /// The file to write, which may not be there yet.
    pub history: PathBuf,
    /// Only of devices whose ids begin like this.
    #[arg(long, default_value = "load-")]
    pub prefix: String,
    /// Where to begin: start, end, or a time as 2026-01-31T12:00:00Z.
    #[arg(long, default_value = "start")]
    pub from: String,
    /// Ends when nothing new came for so many seconds.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub idle: u64,
    #[command(flatten)]
    pub hub: Hub,
}

/// Where the hub is.
#[derive(Debug, Args)]
pub struct Hub {
    /// The hub's owner connection string.
    #[arg(long, env = "DUNLIN_LOGIN", hide_env_values = true, value_name = "CONNSTR")]
    pub login: Option<String>,
    /// PEM file with the CA of the hub's certificate; none: the system's.
    #[arg(long, env = "DUNLIN_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The devices show this certificate (PEM) instead of a token: all the same one, by whose
    /// thumbprint they are registered.
    #[arg(long, value_name = "FILE", requires = "x509_key")]
    pub x509: Option<PathBuf>,
    /// PEM file with its key.
    #[arg(long, value_name = "FILE", requires = "x509")]
    pub x509_key: Option<PathBuf>,
    #[arg(long, default_value_t = 8883)]
    pub mqtt_port: u16,
    /// Connect to this address instead of what the host name resolves to.
    #[arg(long)]
    pub address: Option<IpAddr>,
}

/// A plain MQTT broker in the hub's place, for comparison: no identities, no SAS.
#[derive(Debug, Default, Args)]
pub struct Broker {
    /// Drive this MQTT broker instead of a hub. Several of a host take devices in turn.
    #[arg(long, value_name = "HOST:PORT")]
    pub broker: Vec<String>,
    /// PEM file with the CA of the broker's certificate; without it there is no TLS.
    #[arg(long, value_name = "FILE", requires = "broker")]
    pub broker_ca: Option<PathBuf>,
}

/// What is sent, and what acknowledges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// Telemetry by devices: PUBACK, or 204.
    Publish,
    /// Reported properties by devices, QoS 0: the answer 204. Of a hub only.
    Report,
    /// Direct methods of the devices in turn, by one caller, one at a time: the answer. Of a hub
    /// over HTTPS, of a broker over MQTT.
    Call,
    /// C2D messages by back ends: the device's PUBACK. Of a hub only.
    C2d,
}

impl Devices {
    pub fn scenario(&self) -> Result<Scenario> {
        let mut scenario = match &self.scenario {
            Some(path) => Scenario::read(path)?,
            None => Scenario { groups: vec![Group::default()], ..Scenario::default() },
        };
        if self.scenario.is_none() && self.hub.x509.is_some() {
            scenario.groups[0].auth = Auth::X509;
        }
        if let Some(devices) = self.devices {
            one(&mut scenario, "--devices")?.count = devices;
        }
        if let Some(prefix) = &self.prefix {
            one(&mut scenario, "--prefix")?.prefix.clone_from(prefix);
        }
        Ok(scenario)
    }

    /// Whether no other machine has devices of the run.
    pub fn is_whole(&self) -> bool {
        self.share() == Share::ALL
    }

    pub fn share(&self) -> Share {
        let range = self.range.clone().unwrap_or(Share::ALL.range);
        Share { range, part: self.worker.unwrap_or(Share::ALL.part) }
    }
}

/// The group that flags are for.
fn one<'a>(scenario: &'a mut Scenario, flag: &str) -> Result<&'a mut Group> {
    match &mut scenario.groups[..] {
        [group] => Ok(group),
        _ => bail!("{flag} is for a scenario with one group of devices: change the file"),
    }
}

impl Run {
    /// The file with what the flags say of it.
    pub fn scenario(&self) -> Result<Scenario> {
        let mut scenario = self.devices.scenario()?;
        scenario.hold = self.hold.unwrap_or(scenario.hold);
        scenario.warm_up = self.warm_up.unwrap_or(scenario.warm_up);
        scenario.drain = self.drain.unwrap_or(scenario.drain);
        scenario.burst = self.burst.unwrap_or(scenario.burst);
        if let Some(rate) = self.rate {
            self.work(&mut scenario, rate)?;
        } else if let Some(size) = self.size {
            one(&mut scenario, "--size")?.telemetry.size = Size::Fixed(size);
        }
        if let Some(protocol) = self.protocol {
            one(&mut scenario, "--protocol")?.protocol = protocol;
        }
        if let Some(tls) = self.tls {
            one(&mut scenario, "--tls")?.tls = tls;
        }
        if let Some(seconds) = self.keep_alive {
            one(&mut scenario, "--keep-alive")?.keep_alive = seconds;
        }
        if self.connection_per_request {
            one(&mut scenario, "--connection-per-request")?.connection_per_request = true;
        }
        if self.idle_drops_tls {
            one(&mut scenario, "--idle-drops-tls")?.idle = true;
        }
        if self.no_subscribe {
            one(&mut scenario, "--no-subscribe")?.subscribe = false;
        }
        if let Some(devices) = self.connecting {
            one(&mut scenario, "--connecting")?.connect = Connect::AtOnce(devices);
        }
        if let Some(rate) = self.ramp {
            one(&mut scenario, "--ramp")?.connect = Connect::PerSecond(rate);
        }
        if self.storm {
            one(&mut scenario, "--storm")?.connect = Connect::Storm;
        }
        if self.retry || self.storm {
            one(&mut scenario, "--retry")?.retry.get_or_insert_with(Retry::default);
        }
        if let Some(every) = self.reconnect {
            one(&mut scenario, "--reconnect")?.reconnect = Some(Reconnect { every, jitter: true });
        }
        if scenario.name.is_empty() {
            scenario.name = self.name().into();
        }
        scenario.check()?;
        Ok(scenario)
    }

    /// Of a scenario that is in no file.
    fn name(&self) -> &'static str {
        match self.rate.map(|_| self.work.unwrap_or(Work::Publish)) {
            None => "idle",
            Some(Work::Publish) => "telemetry",
            Some(Work::Report) => "reports",
            Some(Work::Call) => "methods",
            Some(Work::C2d) => "C2D",
        }
    }

    fn work(&self, scenario: &mut Scenario, rate: Rate) -> Result<()> {
        let group = one(scenario, "--rate")?;
        let window = self.window.unwrap_or(1);
        let size = Size::Fixed(self.size.unwrap_or(256));
        let backend = |does, parallel| Backend::of(does, rate, Some(parallel), size.clone());
        match self.work.unwrap_or(Work::Publish) {
            Work::Publish => {
                let stream = &mut group.telemetry;
                (stream.rate, stream.window, stream.size) = (Some(rate), window, size);
            }
            Work::Report => {
                let stream = &mut group.reports;
                (stream.rate, stream.window, stream.size) = (Some(rate), window, size);
            }
            Work::Call => scenario.backends.push(backend(Does::Methods, 1)),
            Work::C2d => {
                let parallel = group.count * usize::from(window);
                scenario.backends.push(backend(Does::C2d, parallel));
            }
        }
        Ok(())
    }
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(Rate::Total(rate)),
        _ => Err("a number of messages per second, or `max`".into()),
    }
}

fn range(text: &str) -> Result<Range<usize>, String> {
    let parsed = text
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse::<usize>().ok()?..to.parse::<usize>().ok()?));
    parsed.filter(|range| !range.is_empty()).ok_or_else(|| "two numbers, as 1000..2000".into())
}

fn part(text: &str) -> Result<(usize, usize)> {
    let (index, parts) = text.split_once('/').context("a part, as 0/4")?;
    let index = match index {
        "" => std::env::var("JOB_COMPLETION_INDEX").context("no JOB_COMPLETION_INDEX is set")?,
        index => index.to_owned(),
    };
    let (index, parts): (usize, usize) =
        (index.parse().context("a part, as 0/4")?, parts.parse().context("a part, as 0/4")?);
    if index >= parts {
        bail!("parts of {parts} are 0 to {}", parts.max(1) - 1);
    }
    Ok((index, parts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn scenario(line: &str) -> Result<Scenario> {
        let words = ["dunlin-loadtest", "run"].into_iter().chain(line.split_whitespace());
        match Arguments::try_parse_from(words)?.command {
            Command::Run(run) => run.scenario(),
            _ => bail!("another command"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_make_a_scenario() -> Result<()> {
        let plain = scenario("")?;
        assert_eq!((&*plain.name, &plain.groups[..]), ("idle", &[Group::default()][..]));
        let busy = scenario("--devices 5 --rate max --window 10 --size 16 --hold 3 --storm")?;
        let group = &busy.groups[0];
        assert_eq!((busy.hold, group.count, group.connect), (3.0, 5, Connect::Storm));
        assert_eq!((group.telemetry.rate, group.telemetry.window), (Some(Rate::Max), 10));
        assert!(group.retry.is_some());
        let c2d = scenario("--devices 5 --rate 20 --work c2d --window 2")?;
        let backend = &c2d.backends[0];
        assert_eq!((backend.does, backend.parallel), (Does::C2d, Some(10)));
        assert_eq!(c2d.groups[0].telemetry.rate, None);
        for bad in [
            "--work call",
            "--rate 0",
            "--devices 0",
            "--protocol https --idle-drops-tls",
            "--protocol https --rate 1 --work report",
            "--no-subscribe --rate 1 --work call",
            "--window 2000 --rate max",
            "--connecting 5 --storm",
        ] {
            assert!(scenario(bad).is_err(), "{bad}");
        }
        Ok(())
    }

    #[test]
    fn a_rate_is_a_number_or_max() {
        assert_eq!(rate("max"), Ok(Rate::Max));
        assert_eq!(rate("0.5"), Ok(Rate::Total(0.5)));
        for bad in ["0", "-1", "inf", "fast", ""] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_and_ranges_are_read() {
        assert_eq!(range("10..20"), Ok(10..20));
        assert_eq!(part("3/4").ok(), Some((3, 4)));
        assert!(["", "5", "5..", "7..7", "9..3"].into_iter().all(|bad| range(bad).is_err()));
        assert!(["", "4/4", "1/0", "x/2", "1"].into_iter().all(|bad| part(bad).is_err()));
    }
}
