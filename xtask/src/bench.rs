//! `cargo xtask bench`: measures the release binary, peers beside it, and prints a table.
//! docs/measurements.md says what each figure means and what it leaves out.

mod c2d;
mod cluster;
mod connect;
mod https;
mod idle;
mod latency;
mod method;
mod moving;
mod peers;
mod postgres;
mod publish;
mod registry;
mod sqlite;
mod start;
mod turn;
mod twin;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::suite::cargo;
use crate::{Result, process, workspace};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    C2d,
    Connect,
    Https,
    Idle,
    Latency,
    Method,
    Move,
    Publish,
    Registry,
    Start,
    Twin,
}

impl What {
    /// Whether it works for so many seconds a turn.
    fn is_timed(self) -> bool {
        !matches!(self, Self::Connect | Self::Idle | Self::Move | Self::Registry | Self::Start)
    }

    /// Whether it can be asked of a cluster. What is always asked of one is not told so.
    fn is_for_clusters(self) -> bool {
        matches!(self, Self::C2d | Self::Method | Self::Publish | Self::Twin)
    }
}

/// Numbers left out are the measurement's own.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    what: What,
    devices: Option<u32>,
    seconds: Option<u32>,
    rounds: Option<u32>,
    /// Server on processor 0, client on processor 1.
    pin: bool,
    /// Devices connect over WebSocket.
    websocket: bool,
    /// Devices show a certificate instead of a token.
    x509: bool,
    /// Of `cargo xtask cluster up` in place of `dunlin up`.
    cluster: bool,
}

impl Options {
    pub fn parse(args: &[String]) -> Result<Self> {
        let (what, rest) = match args.split_first().map(|(what, rest)| (what.as_str(), rest)) {
            Some(("c2d", rest)) => (What::C2d, rest),
            Some(("connect", rest)) => (What::Connect, rest),
            Some(("https", rest)) => (What::Https, rest),
            Some(("idle", rest)) => (What::Idle, rest),
            Some(("latency", rest)) => (What::Latency, rest),
            Some(("method", rest)) => (What::Method, rest),
            Some(("move", rest)) => (What::Move, rest),
            Some(("publish", rest)) => (What::Publish, rest),
            Some(("registry", rest)) => (What::Registry, rest),
            Some(("start", rest)) => (What::Start, rest),
            Some(("twin", rest)) => (What::Twin, rest),
            _ => {
                return Err(
                    "bench takes one of c2d, connect, https, idle, latency, method, move, publish, \
                     registry, start, twin"
                        .into(),
                );
            }
        };
        let mut options = Self {
            what,
            devices: None,
            seconds: None,
            rounds: None,
            pin: false,
            websocket: false,
            x509: false,
            cluster: false,
        };
        let mut rest = rest.iter();
        while let Some(arg) = rest.next() {
            let number = match (arg.as_str(), what) {
                ("--pin", What::C2d | What::Https | What::Idle | What::Method | What::Publish) => {
                    options.pin = true;
                    continue;
                }
                ("--seconds", what) if what.is_timed() => &mut options.seconds,
                ("--rounds", _) => &mut options.rounds,
                ("--websocket", What::Idle) => {
                    options.websocket = true;
                    continue;
                }
                ("--cluster", what) if what.is_for_clusters() => {
                    options.cluster = true;
                    continue;
                }
                ("--x509", What::Idle) => {
                    options.x509 = true;
                    continue;
                }
                ("--devices", what) if what != What::Start => &mut options.devices,
                (other, _) => return Err(format!("bench {what:?} takes no `{other}`")),
            };
            let value = rest.next().and_then(|value| value.parse().ok()).filter(|n| *n > 0);
            *number = Some(value.ok_or_else(|| format!("{arg} takes a number above 0"))?);
        }
        if options.pin && options.cluster {
            return Err("--pin is of one server: a cluster has many processes".into());
        }
        Ok(options)
    }
}

pub fn run(options: &Options) -> Result<bool> {
    let mut build = cargo(&["build", "--release", "-p", "dunlin", "-p", "dunlin-loadtest"])?;
    if !process::run_shown(&mut build)? {
        return Ok(false);
    }
    if options.what == What::Latency {
        let peer = ["build", "--release", "-p", "dunlin-storage", "--example", latency::PRODUCER];
        if !process::run_shown(&mut cargo(&peer)?)? {
            return Ok(false);
        }
    }
    let bench = Bench::new(options.pin)?;
    println!("{}", machine());
    let outcome = match options.what {
        What::C2d => c2d::run(&bench, options),
        What::Connect => connect::run(&bench, options),
        What::Https => https::run(&bench, options),
        What::Idle => idle::run(&bench, options),
        What::Latency => latency::run(&bench, options),
        What::Method => method::run(&bench, options),
        What::Move => moving::run(&bench, options),
        What::Publish => publish::run(&bench, options),
        What::Registry => registry::run(&bench, options),
        What::Start => start::run(&bench, options),
        What::Twin => twin::run(&bench, options),
    };
    // A folder of a failed run is left to be looked at.
    if let Ok(true) = outcome {
        fs::remove_dir_all(&bench.folder)
            .map_err(|error| format!("cannot remove {}: {error}", bench.folder.display()))?;
    }
    outcome
}

/// Where a measurement happens.
struct Bench {
    /// The release binaries.
    binaries: PathBuf,
    /// Fresh, of this run alone, on the disk that holds the target directory.
    folder: PathBuf,
    pin: bool,
}

impl Bench {
    fn new(pin: bool) -> Result<Self> {
        let target = workspace::target()?;
        let folder = target.join(format!("bench/{}", std::process::id()));
        fs::create_dir_all(&folder)
            .map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
        Ok(Self { binaries: target.join("release"), folder, pin })
    }

    fn hub_binary(&self) -> PathBuf {
        self.binaries.join("dunlin")
    }

    fn client(&self) -> Command {
        on_processor(self.pin.then_some("1"), &self.binaries.join("dunlin-loadtest"))
    }

    /// The server's processor, if it has one of its own.
    fn server_processor(&self) -> Option<&'static str> {
        self.pin.then_some("0")
    }
}

/// `program`, kept to one processor if asked. taskset becomes the program: same process id.
fn on_processor(processor: Option<&str>, program: &Path) -> Command {
    match processor {
        None => Command::new(program),
        Some(processor) => {
            let mut taskset = Command::new("taskset");
            taskset.arg("-c").arg(processor).arg(program);
            taskset
        }
    }
}

/// Processors, memory, kernel and load: figures mean nothing without.
fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
    };
    let processor = value(&read("/proc/cpuinfo"), "model name").unwrap_or_default();
    let memory = value(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    format!("{count} x {processor}, {memory}, Linux {}, load {load}", kernel.trim())
}

/// Memory is settled when it has not moved by more than this for this many samples.
const STEADY_KIB: u64 = 256;
const STEADY: usize = 6;

/// RSS in KiB once it has stopped moving, a minute at most; and the seconds that took.
fn settled(pid: u32) -> Result<(u64, usize)> {
    let mut samples = Vec::new();
    loop {
        thread::sleep(Duration::from_secs(1));
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .map_err(|error| format!("cannot read the hub's memory: {error}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        samples.push(rss.ok_or("no VmRSS")?);
        let recent = &samples[samples.len().saturating_sub(STEADY)..];
        let range = recent.iter().max().zip(recent.iter().min()).map_or(0, |(max, min)| max - min);
        if samples.len() == 60 || (recent.len() == STEADY && range <= STEADY_KIB) {
            return Ok((recent[recent.len() - 1], samples.len()));
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => (sorted[even / 2 - 1] + sorted[even / 2]) / 2.0,
        odd => sorted[odd / 2],
    }
}

/// The number behind `"name":` in the loadtest's JSON, where every name that is asked for is used
/// once. No JSON parser: xtask has no dependencies.
fn number(json: &str, name: &str) -> Result<f64> {
    let rest = json.split_once(&format!("\"{name}\":")).map(|(_, rest)| rest.trim_start());
    let value = rest.and_then(|rest| rest.split([',', '}', '\n']).next());
    let value = value.and_then(|value| value.trim().parse().ok());
    value.ok_or_else(|| format!("the report has no number `{name}`"))
}

/// The text behind `"name":` in hub.json; there is no escape in what is read of it.
fn text(json: &str, name: &str) -> Result<String> {
    let rest = json.split_once(&format!("\"{name}\":")).map(|(_, rest)| rest);
    let value = rest.and_then(|rest| rest.split('"').nth(1));
    value.map(str::to_owned).ok_or_else(|| format!("hub.json has no text `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args)
    }

    #[test]
    fn options_are_read() {
        let options = parsed("publish --devices 50 --seconds 3 --rounds 2 --pin");
        let want = Options {
            what: What::Publish,
            devices: Some(50),
            seconds: Some(3),
            rounds: Some(2),
            pin: true,
            websocket: false,
            x509: false,
            cluster: false,
        };
        assert_eq!(options, Ok(want));
        assert!(parsed("idle --websocket").is_ok_and(|options| options.websocket));
        assert!(parsed("idle --x509").is_ok_and(|options| options.x509));
        assert!(parsed("twin --cluster").is_ok_and(|options| options.cluster));
        for line in [
            "",
            "idle --cluster",
            "publish --pin --cluster",
            "connect --seconds 1",
            "fast",
            "idle --seconds 1",
            "start --pin",
            "start --devices 5",
            "twin --pin",
            "registry --seconds 1",
            "publish --websocket",
            "idle --devices 0",
            "idle 5",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn medians_are_of_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn numbers_and_texts_are_found() {
        let json = "{\n  \"a\": {\n    \"rate\": 12.5,\n    \"n\": 3\n  },\n  \"ca\": \"x y\",\n \"none\": null}";
        assert_eq!(number(json, "rate"), Ok(12.5));
        assert_eq!(number(json, "n"), Ok(3.0));
        assert!(number(json, "none").is_err() && number(json, "gone").is_err());
        assert_eq!(text(json, "ca").as_deref(), Ok("x y"));
    }
}
