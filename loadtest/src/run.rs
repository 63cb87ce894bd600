//! The course of a run: identities, connecting, settling, bursts, publishing, the end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

use crate::args::{Arguments, Command, Devices, Hub, Rate, Run, Work};
use crate::fleet::{Fleet, Phase, Plan, Schedule};
use crate::identities;
use crate::outcome::{Event, Totals};
use crate::report::{Course, Head, Report, phase};
use crate::rest::Rest;
use crate::target;

/// How often counters are looked at.
const LOOK: Duration = Duration::from_millis(2);
/// How long acknowledgements are waited for when nothing more is sent.
const LAST_ACKS: Duration = Duration::from_secs(30);
/// How often what was counted is taken.
const SECOND: Duration = Duration::from_secs(1);

/// `Ok(false)`: it ran, but not every device and message came through.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &arguments.command {
        Command::Run(run) => {
            let report = runtime.block_on(measure(run))?;
            report.write(run.json.as_deref(), run.html.as_deref())?;
            Ok(report.is_clean())
        }
        Command::Create(devices) => runtime.block_on(create(devices)).map(|()| true),
        Command::Remove(devices) => runtime.block_on(remove(devices)).map(|()| true),
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
    let mut course = Course::new(head(run, plan), &run.watch, run.quiet)?;
    let watched = !run.watch.is_empty();
    if watched {
        // What the first connection alone costs is not a connection's cost. It is not counted.
        let first = Plan::of(run, 1)?;
        let fleet = Fleet::start(&first, 1)?;
        let connected = || {
            let totals = fleet.totals();
            totals.event(Event::Connected) + totals.event(Event::GaveUp) > 0
        };
        until(LAST_ACKS, connected).await;
        fleet.enter(Phase::Burst);
        until(LAST_ACKS, || run.idle_drops_tls || fleet.totals().acked() > 0).await;
        fleet.stop()?;
        course.enter("before")?;
        while !course.is_settled() {
            sleep(SECOND).await;
            course.tick()?;
        }
        course.sample("before")?;
    }
    course.enter(phase::CONNECT)?;
    let mut steps = Steps { fleet: Fleet::start(plan, run.threads)?, course };
    let devices = run.devices as u64;
    steps
        .until(None, |now| now.event(Event::Connected) + now.event(Event::GaveUp) >= devices)
        .await?;
    steps.settle("connected", watched).await?;
    for _ in 0..run.burst {
        let before = steps.fleet.totals();
        let ready = before.event(Event::Up) - before.event(Event::Down);
        steps.enter(phase::BURST)?;
        steps.fleet.enter(Phase::Burst);
        let done =
            |now: &Totals| now.acked() - before.acked() + now.lost() - before.lost() >= ready;
        steps.until(Some(LAST_ACKS), done).await?;
    }
    if run.burst > 0 {
        steps.course.sample("just after bursts")?;
        steps.settle("after bursts", watched).await?;
    }
    if run.rate.is_some() {
        publish(run, &mut steps, watched).await?;
    } else if run.hold > 0.0 {
        steps.enter(phase::HOLD)?;
        steps.until(Some(Duration::from_secs_f64(run.hold)), |_| false).await?;
    }
    steps.enter("end")?;
    let Steps { fleet, mut course } = steps;
    course.add(&fleet.stop()?, None);
    course.finish()
}

async fn publish(run: &Run, steps: &mut Steps, watched: bool) -> Result<()> {
    let (warm_up, hold) = (Duration::from_secs_f64(run.warm_up), Duration::from_secs_f64(run.hold));
    let start = Instant::now();
    steps.enter(if run.warm_up > 0.0 { phase::WARM_UP } else { phase::HOLD })?;
    steps.fleet.enter(Phase::Publish(Schedule { start, until: start + warm_up + hold }));
    if run.warm_up > 0.0 {
        steps.until(Some(warm_up), |_| false).await?;
        steps.enter(phase::HOLD)?;
    }
    steps.until(Some(hold), |_| false).await?;
    steps.enter("drain")?;
    steps.fleet.enter(Phase::Idle);
    steps.until(Some(LAST_ACKS), |now| now.acked() >= now.sent()).await?;
    steps.course.sample("just after publishing")?;
    steps.settle("after publishing", watched).await
}

fn head(run: &Run, plan: &Plan) -> Head {
    let doing = match (run.work, run.rate) {
        (_, None) => "stay connected".to_owned(),
        (work, Some(rate)) => {
            let what = match work {
                Work::Publish => "publish messages",
                Work::Report => "report properties",
                Work::Call => "are called",
            };
            let pace = match rate {
                Rate::Max => format!("as fast as {} at a time are acknowledged", run.window),
                Rate::PerSecond(rate) => format!("{rate} a second over all"),
            };
            format!("{what} of {} bytes, {pace}", run.size)
        }
    };
    let carried = if run.websocket { "MQTT over WebSocket" } else { "MQTT" };
    Head {
        target: if plan.target.hub.is_some() { "hub" } else { "broker" },
        server: format!("{}:{}", plan.target.name.to_str(), plan.target.address.port()),
        name: "run".to_owned(),
        groups: vec![format!("{} devices over {carried} {doing}", run.devices)],
        devices: run.devices,
        workers: 1,
        tls: true,
    }
}

/// A fleet that is led through the phases of its course.
struct Steps {
    fleet: Fleet,
    course: Course,
}

impl Steps {
    fn enter(&mut self, phase: &str) -> Result<()> {
        self.course.add(&self.fleet.cut(), None);
        self.course.enter(phase)
    }

    /// Goes on until `condition` comes true, at most so long.
    async fn until(
        &mut self,
        at_most: Option<Duration>,
        condition: impl Fn(&Totals) -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        let mut tick = start + SECOND;
        while at_most.is_none_or(|at_most| start.elapsed() < at_most)
            && !condition(&self.fleet.totals())
        {
            sleep(LOOK).await;
            if Instant::now() >= tick {
                self.tick()?;
                tick += SECOND;
            }
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<()> {
        self.course.add(&self.fleet.cut(), None);
        self.course.tick()
    }

    /// Samples the server's memory once that has stopped moving, if it is watched.
    async fn settle(&mut self, at: &'static str, watched: bool) -> Result<()> {
        if !watched {
            return Ok(());
        }
        self.enter("settle")?;
        while !self.course.is_settled() {
            sleep(SECOND).await;
            self.tick()?;
        }
        self.course.sample(at)
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
