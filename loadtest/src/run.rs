//! The course of a run: identities, connecting, settling, bursts, work, the end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::args::{Arguments, Broker, Command, Devices, Run};
use crate::check;
use crate::crew::{self, Crew, Seen};
use crate::fleet::Order;
use crate::plan::{Plan, Share};
use crate::report::{Course, Drained, Head, Report, phase};
use crate::rest::Rest;
use crate::target::Target;
use crate::{identities, log_file, report};

/// How long acknowledgements are waited for when nothing more is sent.
const LAST_ACKS: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

/// `Ok(false)`: it ran, but not every device and message came through.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &arguments.command {
        Command::Run(run) => {
            if let Some(part) = run.crew {
                let share = crew::share_of(&run.devices.share(), part);
                let target = Arc::new(Target::of(&run.devices.hub, &run.broker)?);
                let mut plan = Plan::new(&run.scenario()?, &target, &share)?;
                if part.0 > 0 {
                    plan = plan.without_feedback();
                }
                return crew::serve(run, plan, part.0).map(|()| true);
            }
            let report = runtime.block_on(measure(run))?;
            report.write(run.json.as_deref(), run.html.as_deref())?;
            Ok(report.is_clean())
        }
        Command::Create(devices) => runtime.block_on(create(devices)).map(|()| true),
        Command::Remove(devices) => runtime.block_on(remove(devices)).map(|()| true),
        Command::Check(arguments) => check::run(arguments),
        Command::Log(arguments) => runtime.block_on(log_file::read(arguments)).map(|()| true),
    }
}

fn of_hub(devices: &Devices) -> Result<(Rest, Plan)> {
    let scenario = devices.scenario()?;
    scenario.check()?;
    let target = Arc::new(Target::of(&devices.hub, &Broker::default())?);
    Ok((Rest::new(&target)?, Plan::new(&scenario, &target, &devices.share())?))
}

async fn create(devices: &Devices) -> Result<()> {
    let (rest, plan) = of_hub(devices)?;
    identities::create(&rest, &plan).await
}

async fn remove(devices: &Devices) -> Result<()> {
    let (rest, plan) = of_hub(devices)?;
    identities::remove(&rest, &plan).await
}

async fn measure(run: &Run) -> Result<Report> {
    let scenario = run.scenario()?;
    let json = run.json.as_deref().filter(|path| *path != Path::new("-"));
    json.into_iter().chain(run.html.as_deref()).try_for_each(report::probe)?;
    let target = Arc::new(Target::of(&run.devices.hub, &run.broker)?);
    let plan = |share: &Share| Plan::new(&scenario, &target, share);
    let all = plan(&run.devices.share())?;
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let rest = (target.hub.is_some() && !run.reuse).then(|| Rest::new(&target)).transpose()?;
    let course = async {
        if let Some(rest) = &rest {
            identities::create(rest, &all).await?;
        }
        match &run.history {
            Some(path) if target.hub.is_some() => {
                log_file::beside(path, &target, &scenario, async |sent| {
                    with_devices(run, &all, &plan, sent).await
                })
                .await
            }
            _ => with_devices(run, &all, &plan, &watch::Sender::new(None)).await,
        }
    };
    let measured = tokio::select! {
        measured = course => measured,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
    };
    match rest {
        Some(rest) if !run.keep => {
            let removed = identities::remove(&rest, &all).await;
            // What was measured matters more than what could not be tidied up.
            measured.and_then(|report| removed.map(|()| report))
        }
        _ => measured,
    }
}

async fn with_devices(
    run: &Run,
    all: &Plan,
    plan: &impl Fn(&Share) -> Result<Plan>,
    sent: &watch::Sender<Option<u64>>,
) -> Result<Report> {
    let mut course = Course::new(head(run, all)?, &run.watch, run.quiet)?;
    if !run.watch.is_empty() {
        first(all, plan, &mut course).await?;
    }
    course.enter(phase::CONNECT)?;
    let crew = Crew::start(run, plan(&run.devices.share())?)?;
    let mut going = Going { course, crew, next: Instant::now() + SECOND };
    let expected = all.expected();
    going.until(None, |seen| seen.settled >= expected).await?;
    going.settle("connected").await?;

    let scenario = &all.scenario;
    for _ in 0..scenario.burst {
        going.enter(phase::BURST)?;
        going.crew.enter(Order::Burst)?;
        // What a device was told a moment ago it has not begun yet.
        going.until(Some(LAST_ACKS / 300), |seen| seen.open > 0).await?;
        going.until(Some(LAST_ACKS), |seen| seen.open == 0).await?;
    }
    if scenario.burst > 0 {
        going.course.sample("just after bursts")?;
        going.settle("after bursts").await?;
    }
    let mut drained = None;
    if all.works() {
        going.crew.enter(Order::Work(scenario.warm_up + scenario.hold))?;
        if scenario.warm_up > 0.0 {
            going.phase(phase::WARM_UP, scenario.warm_up).await?;
        }
        going.phase(phase::HOLD, scenario.hold).await?;
        going.enter("drain")?;
        going.crew.enter(Order::Idle)?;
        going.until(Some(LAST_ACKS), |seen| seen.open == 0).await?;
        if run.history.is_some() && scenario.sends_c2d() {
            drained = Some(going.drain(all, run.devices.is_whole()).await?);
            // Who reads feedback ends.
            going.crew.enter(Order::Idle)?;
            going.until(Some(LAST_ACKS), |seen| seen.open == 0).await?;
        }
        going.course.sample("just after the work")?;
        going.settle("after the work").await?;
    } else {
        going.phase(phase::HOLD, scenario.hold).await?;
    }
    sent.send_replace(Some(going.crew.seen()?.telemetry));
    going.end(drained)
}

/// A device of each group connects, publishes and goes, before anything is measured: what the first
/// connection alone costs the server is not a connection's cost.
async fn first(
    all: &Plan,
    plan: &impl Fn(&Share) -> Result<Plan>,
    course: &mut Course,
) -> Result<()> {
    let good = |n: &usize| all.sides[0].group.misbehaviour(*n).is_none();
    let Some(number) = all.sides[0].numbers.clone().find(good) else { return Ok(()) };
    let one = plan(&Share { range: number..number + 1, ..Share::ALL })?.without_back_ends();
    let fleet = crate::fleet::Fleet::start(one, 1, None)?;
    let mut crew = Crew::Here(fleet);
    let (end, idle) = (Instant::now() + LAST_ACKS, all.sides[0].group.idle);
    while crew.seen()?.settled == 0 && Instant::now() < end {
        sleep(crew.look_every()).await;
    }
    if !idle {
        crew.enter(Order::Burst)?;
        sleep(crew.look_every() * 50).await;
        while crew.seen()?.open > 0 && Instant::now() < end {
            sleep(crew.look_every()).await;
        }
    }
    crew.stop(false)?;
    course.enter("before")?;
    while !course.is_settled() {
        sleep(SECOND).await;
        course.tick()?;
    }
    course.sample("before")
}

/// A run that is under way.
struct Going {
    course: Course,
    crew: Crew,
    /// When the course has its next second.
    next: Instant,
}

impl Going {
    fn collect(&mut self) -> Result<()> {
        for (slice, own) in self.crew.cut()? {
            self.course.add(&slice, own);
        }
        Ok(())
    }

    fn enter(&mut self, name: &'static str) -> Result<()> {
        self.collect()?;
        self.course.enter(name)
    }

    /// Lets the run go on until `done` says so (true) or the time is over.
    async fn until(
        &mut self,
        at_most: Option<Duration>,
        done: impl Fn(Seen) -> bool,
    ) -> Result<bool> {
        let end = at_most.map(|at_most| Instant::now() + at_most);
        loop {
            let is_done = done(self.crew.seen()?);
            let now = Instant::now();
            if is_done || end.is_some_and(|end| end <= now) {
                return Ok(is_done);
            }
            self.tick_by(now)?;
            let look = now + self.crew.look_every();
            sleep_until(end.map_or(look, |end| end.min(look)).min(self.next)).await;
        }
    }

    fn tick_by(&mut self, now: Instant) -> Result<()> {
        if self.next <= now {
            self.collect()?;
            self.course.tick()?;
            self.next = (self.next + SECOND).max(now);
        }
        Ok(())
    }

    /// A phase of so many seconds.
    async fn phase(&mut self, name: &'static str, seconds: f64) -> Result<()> {
        self.enter(name)?;
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        while Instant::now() < end {
            sleep_until(self.next.min(end)).await;
            self.tick_by(Instant::now())?;
        }
        Ok(())
    }

    /// With a history: until every C2D message has come to its end and its feedback was read, or
    /// nothing was heard of them for so long that they never will. Only then what is missing can be
    /// called lost.
    async fn drain(&mut self, all: &Plan, whole: bool) -> Result<Drained> {
        let scenario = &all.scenario;
        if scenario.drain == 0.0 {
            return Ok(Drained::No);
        }
        if scenario.asks_for_feedback() && !scenario.reads_feedback() {
            return Ok(Drained::Unread);
        }
        // Another machine may read feedback of this one's, and the other way around.
        let exact = whole || !scenario.asks_for_feedback();
        let patience = Duration::from_secs_f64(scenario.drain);
        self.crew.enter(Order::Drain(f64::from(u16::MAX)))?;
        loop {
            let before = self.crew.seen()?;
            if exact && before.awaited == 0 {
                return Ok(Drained::Yes);
            }
            let news = |seen: Seen| seen.arrived > before.arrived || exact && seen.awaited == 0;
            if !self.until(Some(patience), news).await? {
                // Who is away, or never acknowledges, has its messages still before it.
                let here =
                    self.crew.seen()?.up >= all.expected() && !scenario.sends_to_misbehaving();
                return Ok(if here { Drained::Yes } else { Drained::Away });
            }
        }
    }

    /// Notes the server's memory once it has stopped moving.
    async fn settle(&mut self, at: &'static str) -> Result<()> {
        self.enter("settle")?;
        while !self.course.is_settled() {
            sleep_until(self.next).await;
            self.tick_by(Instant::now())?;
        }
        self.course.sample(at)
    }

    /// `drained`: if there is a history.
    fn end(mut self, drained: Option<Drained>) -> Result<Report> {
        self.enter("end")?;
        let Self { mut course, crew, .. } = self;
        for (slice, own) in crew.stop(drained == Some(Drained::Yes))? {
            course.add(&slice, own);
        }
        let mut report = course.finish()?;
        report.drained = drained;
        Ok(report)
    }
}

fn head(run: &Run, all: &Plan) -> Result<Head> {
    let target = &all.target;
    let Ok(devices) = usize::try_from(all.expected()) else { bail!("too many devices") };
    Ok(Head {
        target: if target.hub.is_some() { "hub" } else { "broker" },
        server: target.address(),
        name: all.scenario.name.clone(),
        groups: all.scenario.describe(),
        devices,
        workers: usize::from(run.workers),
        tls: target.tls.is_some(),
    })
}
