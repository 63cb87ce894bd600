//! The course of a run: identities, connecting, settling, bursts, publishing, the end.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::args::{Arguments, Command, Devices, Hub, Log, Run, Work};
use crate::check;
use crate::fleet::{Fleet, Phase, Plan, Schedule};
use crate::history::{LogReader, Recorder};
use crate::identities;
use crate::outcome::Totals;
use crate::process::{self, Memory};
use crate::report::{Bursts, Connecting, Parts, Publishing, Report, Sample, Silence};
use crate::rest::Rest;
use crate::target;

/// How often counters are looked at.
const LOOK: Duration = Duration::from_millis(2);
/// How long acknowledgements are waited for when nothing more is sent.
const LAST_ACKS: Duration = Duration::from_secs(30);
/// Memory is settled when this many samples, a second apart, lie within `STEADY_KIB`.
const STEADY_SAMPLES: usize = 6;
const STEADY_KIB: u64 = 256;
const SETTLE_AT_MOST: Duration = Duration::from_secs(90);

/// `Ok(false)`: it ran, but not every device and message came through.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &arguments.command {
        Command::Run(run) => {
            let report = runtime.block_on(measure(run))?;
            report.write(run.json.as_deref(), run.rate)?;
            Ok(report.is_clean())
        }
        Command::Create(devices) => runtime.block_on(create(devices)).map(|()| true),
        Command::Remove(devices) => runtime.block_on(remove(devices)).map(|()| true),
        Command::Check(arguments) => check::run(arguments),
        Command::Log(arguments) => runtime.block_on(log(arguments)).map(|()| true),
    }
}

fn ids(devices: usize, prefix: &str) -> Vec<String> {
    (0..devices).map(|number| identities::id(prefix, number)).collect()
}

fn rest(hub: &Hub) -> Result<Rest> {
    let ca = hub.ca.as_deref().context("set DUNLIN_CA or --ca to the hub's CA certificate")?;
    Rest::new(&target::login(hub)?, &target::tls(ca, None)?, hub.address)
}

async fn create(devices: &Devices) -> Result<()> {
    identities::create(&rest(&devices.hub)?, &ids(devices.devices, &devices.prefix)).await
}

async fn remove(devices: &Devices) -> Result<()> {
    identities::remove(&rest(&devices.hub)?, &ids(devices.devices, &devices.prefix)).await
}

async fn log(log: &Log) -> Result<()> {
    let rest = rest(&log.hub)?;
    let recorder = Recorder::create(&log.history, "log")?;
    let open = async |path: &str| rest.stream(path).await;
    let reader = LogReader::open(&log.from, &log.prefix, recorder.pen(), open).await?;
    // How many there are is not known: it ends by being idle.
    let (_sent, sent) = watch::channel(Some(u64::MAX));
    let seen = reader.read(sent, Duration::from_secs(log.idle)).await?;
    recorder.finish(false)?;
    let (messages, others) = (seen.messages, seen.others);
    Ok(writeln!(io::stdout(), "messages={messages} others={others}")?)
}

async fn measure(run: &Run) -> Result<Report> {
    if run.devices == 0 {
        bail!("--devices takes a number above 0");
    }
    if run.work != Work::Publish && run.no_subscribe {
        bail!("without subscriptions nobody hears calls or answers: leave out --no-subscribe");
    }
    let plan = Plan::of(run, run.devices)?;
    if run.work == Work::Report && plan.target.hub.is_none() {
        bail!("a broker has no twins: leave out --work report or --broker");
    }
    let owned = plan.target.hub.is_some() && !run.reuse;
    if owned {
        identities::create(&rest(&run.hub)?, &ids(run.devices, &run.prefix)).await?;
    }
    let measured = with_devices(run, &plan).await;
    if owned && !run.keep {
        let removed = identities::remove(&rest(&run.hub)?, &ids(run.devices, &run.prefix)).await;
        // What was measured matters more than what could not be tidied up.
        measured.and_then(|report| removed.map(|()| report))
    } else {
        measured
    }
}

async fn with_devices(run: &Run, plan: &Arc<Plan>) -> Result<Report> {
    let mut watch = Watch { pid: run.watch, connections: 0, samples: Vec::new() };
    if run.watch.is_some() {
        // What the first connection alone costs is not a connection's cost.
        let first = Plan::of(run, 1)?;
        let fleet = Fleet::start(&first, 1)?;
        connected(&fleet, 1).await;
        fleet.enter(Phase::Burst);
        until(LAST_ACKS, || run.idle_drops_tls || fleet.totals().acked + fleet.totals().failed > 0)
            .await;
        fleet.stop()?;
        watch.settled("before").await?;
    }

    let own = std::process::id();
    let (start, own_before, server_before) = (Instant::now(), process::cpu(own)?, watch.cpu()?);
    let fleet = Fleet::start(plan, run.threads)?;
    connected(&fleet, run.devices).await;
    let seconds = start.elapsed().as_secs_f64();
    let all = fleet.totals().connected;
    let per_connect = |cpu: f64| cpu * 1e6 / all.max(1) as f64;
    let server_after = watch.cpu()?;
    let connecting = Connecting {
        connect_seconds: seconds,
        connects_per_s: all as f64 / seconds,
        client_cpu_us_per_connect: per_connect(process::cpu(own)?.since(own_before).total()),
        server_cpu_us_per_connect: server_before
            .zip(server_after)
            .map(|(before, after)| per_connect(after.since(before).total())),
    };
    watch.connections = all;
    watch.settled("connected").await?;

    let bursts = burst(run, &fleet, &mut watch).await?;
    let (publishing, silence) = match run.rate {
        Some(_) => (Some(publish(run, &fleet, &mut watch).await?), None),
        None => (None, hold(run, &watch).await?),
    };
    let totals = fleet.totals();
    let stats = fleet.stop()?;
    let memory = watch.samples;
    let parts = Parts { totals, stats, connecting, bursts, publishing, silence, memory };
    Ok(Report::new(run, plan, parts))
}

/// Waits until every device has connected or failed to.
async fn connected(fleet: &Fleet, devices: usize) {
    let devices = devices as u64;
    while {
        let Totals { connected, failed, .. } = fleet.totals();
        connected + failed < devices
    } {
        sleep(LOOK).await;
    }
}

/// Whether `condition` came true in time.
async fn until(at_most: Duration, condition: impl Fn() -> bool) -> bool {
    let end = Instant::now() + at_most;
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}

async fn burst(run: &Run, fleet: &Fleet, watch: &mut Watch) -> Result<Option<Bursts>> {
    if run.burst == 0 {
        return Ok(None);
    }
    let mut seconds = Vec::new();
    for _ in 0..run.burst {
        let before = fleet.totals();
        let start = Instant::now();
        fleet.enter(Phase::Burst);
        let done = || {
            let now = fleet.totals();
            now.acked - before.acked + now.lost >= before.connected
        };
        until(LAST_ACKS, done).await;
        seconds.push(start.elapsed().as_secs_f64());
    }
    watch.at_once("just after bursts")?;
    watch.settled("after bursts").await?;
    Ok(Some(Bursts { burst_rounds: run.burst, burst_seconds: seconds }))
}

/// Seconds in which nothing happens; what the server does all the same.
async fn hold(run: &Run, watch: &Watch) -> Result<Option<Silence>> {
    let (start, before) = (Instant::now(), watch.cpu()?);
    sleep(Duration::from_secs_f64(run.hold)).await;
    let cpu = before.zip(watch.cpu()?).map(|(before, after)| after.since(before).total());
    let silence_seconds = start.elapsed().as_secs_f64();
    Ok(cpu.filter(|_| run.hold > 0.0).map(|cpu| Silence {
        silence_seconds,
        silence_server_cpu_percent: 100.0 * cpu / silence_seconds,
    }))
}

async fn publish(run: &Run, fleet: &Fleet, watch: &mut Watch) -> Result<Publishing> {
    let own = std::process::id();
    let start = Instant::now();
    let from = start + Duration::from_secs_f64(run.warm_up);
    let until_ = from + Duration::from_secs_f64(run.hold);
    fleet.enter(Phase::Publish(Schedule { start, from, until: until_ }));
    sleep_until(from).await;
    let began = (Instant::now(), fleet.totals(), process::cpu(own)?, watch.cpu()?);
    let switches = watch.switches()?;
    sleep_until(until_).await;
    let ended = (Instant::now(), fleet.totals(), process::cpu(own)?, watch.cpu()?);
    let switches =
        switches.zip(watch.switches()?).map(|(before, after)| after.saturating_sub(before));
    fleet.enter(Phase::Idle);
    until(LAST_ACKS, || fleet.totals().acked >= fleet.totals().sent).await;
    watch.at_once("just after publishing")?;
    watch.settled("after publishing").await?;

    let acked = ended.1.acked - began.1.acked;
    let seconds = (ended.0 - began.0).as_secs_f64();
    let per_message = |cpu: f64| cpu * 1e6 / acked.max(1) as f64;
    let server = began.3.zip(ended.3).map(|(before, after)| after.since(before));
    Ok(Publishing {
        measured_seconds: seconds,
        measured_acked: acked,
        messages_per_s: acked as f64 / seconds,
        client_cpu_us_per_message: per_message(ended.2.since(began.2).total()),
        server_cpu_us_per_message: server.map(|cpu| per_message(cpu.total())),
        server_user_us_per_message: server.map(|cpu| per_message(cpu.user)),
        server_system_us_per_message: server.map(|cpu| per_message(cpu.system)),
        server_cpu_cores: server.map(|cpu| cpu.total() / seconds),
        server_switches_per_1000: switches.map(|count| count as f64 * 1e3 / acked.max(1) as f64),
    })
}

/// The process that is watched, if any.
struct Watch {
    pid: Option<u32>,
    connections: u64,
    samples: Vec<Sample>,
}

impl Watch {
    fn cpu(&self) -> Result<Option<process::Cpu>> {
        self.pid.map(process::cpu).transpose()
    }

    fn switches(&self) -> Result<Option<u64>> {
        self.pid.map(process::context_switches).transpose()
    }

    fn at_once(&mut self, at: &'static str) -> Result<()> {
        let Some(pid) = self.pid else { return Ok(()) };
        self.push(at, process::memory(pid)?, None)
    }

    /// Takes the sample once memory has stopped moving.
    async fn settled(&mut self, at: &'static str) -> Result<()> {
        let Some(pid) = self.pid else { return Ok(()) };
        let start = Instant::now();
        let mut last = vec![process::memory(pid)?];
        loop {
            sleep(Duration::from_secs(1)).await;
            let memory = process::memory(pid)?;
            last.push(memory);
            let recent = &last[last.len().saturating_sub(STEADY_SAMPLES)..];
            let rss = || recent.iter().map(|memory| memory.rss);
            let range = rss().max().unwrap_or(0) - rss().min().unwrap_or(0);
            let steady = recent.len() == STEADY_SAMPLES && range <= STEADY_KIB;
            if steady || start.elapsed() > SETTLE_AT_MOST {
                let after = steady.then(|| start.elapsed().as_secs_f64());
                return self.push(at, memory, after);
            }
        }
    }

    fn push(&mut self, at: &'static str, memory: Memory, settled: Option<f64>) -> Result<()> {
        let base = self.samples.first().map_or(memory, |first| first.memory);
        self.samples.push(Sample::new(at, memory, base, self.connections, settled));
        Ok(())
    }
}
