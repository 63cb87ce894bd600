//! Back ends: they call methods, send C2D messages, change desired properties and query, one device
//! of their thread after the other. Of a plain broker a caller is an MQTT client that waits for a
//! reply.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::device::Shared;
use crate::feedback::Batch;
use crate::fleet::{self, Phase, Schedule};
use crate::history::{self, Kind, Line};
use crate::http::Answer;
use crate::link::Link;
use crate::mqtt::{self, Packet};
use crate::outcome::{Event, Op};
use crate::rest::Rest;
use crate::scenario::{Backend, Does, Rate, Retry};

/// How long a device may take to settle a message or a broker's to reply.
const PATIENCE: Duration = Duration::from_secs(30);

/// C2D messages by id, whose senders wait until the device has settled them.
pub type Waiting = RefCell<HashMap<String, oneshot::Sender<()>>>;

/// One of the back ends of a thread: it does one thing after the other.
struct Lane {
    shared: Rc<Shared>,
    backend: Backend,
    way: Way,
    devices: Rc<Vec<String>>,
    /// This lane's number, and how many the thread has.
    at: (usize, usize),
    /// Between two of its turns, and from the start to its first; none: as fast as answers come.
    period: Option<(Duration, Duration)>,
    /// Unlike that of any other lane of these devices, and of an earlier run.
    actor: u32,
    done: u32,
    /// When it began.
    since: Timestamp,
}

/// How it goes out.
enum Way {
    Hub(Rc<Rest>),
    Broker(Box<Link>),
}

/// All back ends of a thread, to their end.
pub async fn run(shared: Rc<Shared>, thread: usize, threads: usize) -> Result<()> {
    let plan = &shared.plan;
    let rest = match plan.target.hub {
        Some(_) => Some(Rc::new(Rest::new(&plan.target)?)),
        None => None,
    };
    let mut running = JoinSet::new();
    let mut actor = std::process::id() << 16;
    for backend in &plan.scenario.backends {
        let served = || plan.sides.iter().filter(|side| backend.serves(&side.group));
        let own =
            served().flat_map(|side| fleet::of_thread(side, thread, threads).map(|n| side.id(n)));
        let mut devices = own.collect::<Vec<_>>();
        let all: usize = served().map(|side| side.group.count).sum();
        let here: usize = served().map(|side| side.numbers.len()).sum();
        let (mut part, mut threads) = (here as f64 / all as f64, threads);
        if backend.does == Does::Feedback {
            // It is no device's: one thread of the first worker reads it.
            if thread > 0 {
                continue;
            }
            (part, threads, devices) = (1.0, 1, vec![String::new()]);
        }
        if devices.is_empty() {
            continue;
        }
        let devices = Rc::new(devices);
        // Of this process, and of them this thread's.
        let lanes = backend.parallel.map_or(threads, |all| (all as f64 * part).ceil() as usize);
        let of_thread = (thread..lanes).step_by(threads).count();
        for at in 0..of_thread {
            let way = match &rest {
                Some(rest) => Way::Hub(rest.clone()),
                None => Way::Broker(Box::new(caller(&shared, thread).await.context("the caller")?)),
            };
            let period = match backend.rate {
                Rate::Total(rate) => {
                    let period = Duration::from_secs_f64(lanes as f64 / (rate * part));
                    Some((period, period.mul_f64((at * threads + thread) as f64 / lanes as f64)))
                }
                Rate::Max | Rate::PerDevice(_) => None,
            };
            actor += 1;
            let (shared, backend, devices) = (shared.clone(), backend.clone(), devices.clone());
            let since = Timestamp::now();
            let at = (at, of_thread);
            running.spawn_local(
                Lane { shared, backend, way, devices, at, period, actor, done: 0, since }.run(),
            );
        }
    }
    while let Some(ended) = running.join_next().await {
        ended.context("a back end panicked")??;
    }
    Ok(())
}

/// A client of a broker that hears replies.
async fn caller(shared: &Shared, thread: usize) -> Result<Link> {
    let side = shared.plan.sides.first().context("a plan has devices")?;
    let id = format!("caller-{thread}");
    let mut link =
        Link::open(&shared.plan.target, side, side.tls.as_ref(), thread, &id, &shared.scratch)
            .await?;
    if link.subscribe(&shared.scratch, &["+/methods/res/#"]).await? > 0 {
        bail!("the broker does not grant the subscription to replies");
    }
    Ok(link)
}

impl Backend {
    fn op(&self) -> Op {
        match self.does {
            Does::Methods => Op::Method,
            Does::C2d => Op::C2d,
            Does::Desired => Op::Desired,
            Does::Queries => Op::Query,
            Does::Feedback => Op::Feedback,
        }
    }
}

impl Lane {
    async fn run(mut self) -> Result<()> {
        let mut phase = self.shared.phase.clone();
        loop {
            let now = *phase.borrow_and_update();
            match now {
                Phase::Stop => return Ok(()),
                Phase::Drain(_) if self.backend.does != Does::Feedback => {}
                Phase::Work(schedule) | Phase::Drain(schedule) => {
                    let mut stop = phase.clone();
                    tokio::select! {
                        worked = self.work(schedule, &mut phase) => worked?,
                        () = fleet::stopped(&mut stop) => return Ok(()),
                    }
                }
                Phase::Idle | Phase::Burst => {}
            }
            phase.changed().await?;
        }
    }

    async fn work(&mut self, schedule: Schedule, phase: &mut watch::Receiver<Phase>) -> Result<()> {
        let shared = self.shared.clone();
        let (tally, op) = (&shared.tally, self.backend.op());
        let mut due = schedule.start + self.period.map_or(Duration::ZERO, |(_, first)| first);
        let mut tries = 0;
        while due < schedule.until {
            sleep_until(due).await;
            let over = matches!(*phase.borrow(), Phase::Idle);
            if over && self.backend.does == Does::Feedback {
                return Ok(());
            }
            let (lane, lanes) = self.at;
            let devices = self.devices.clone();
            let id = &devices[(lane + self.done as usize * lanes) % devices.len()];
            self.done += 1;
            tally.started(op, 1);
            match self.once(id, due).await {
                Ok(()) => {
                    tally.done(op, Instant::now().saturating_duration_since(due));
                    tries = 0;
                }
                Err(error) => {
                    tally.failed(op, &format!("{error:#}"));
                    if error.downcast_ref::<Refused>().is_some_and(Refused::is_throttled) {
                        tally.count(Event::Throttled, 1);
                    }
                    tokio::select! {
                        () = sleep(Retry::default().wait(tries)) => tries += 1,
                        _ = phase.changed() => return Ok(()),
                    }
                }
            }
            due = self.period.map_or_else(Instant::now, |(period, _)| due + period);
        }
        Ok(())
    }

    async fn once(&mut self, id: &str, due: Instant) -> Result<()> {
        match (self.backend.does, &self.way) {
            (Does::Methods, _) => self.call(id).await,
            (Does::C2d, Way::Hub(rest)) => self.send(&rest.clone(), id, due).await,
            (Does::Desired, Way::Hub(rest)) => self.desire(&rest.clone(), id).await,
            (Does::Queries, Way::Hub(rest)) => {
                let body = json!({ "query": self.backend.query }).to_string();
                let answer = rest.send(Method::POST, &["devices", "query"], &[], body).await?;
                Refused::unless(&answer, StatusCode::OK)
            }
            (Does::Feedback, Way::Hub(rest)) => self.feedback(&rest.clone()).await,
            (_, Way::Broker(_)) => bail!("a broker cannot do this"),
        }
    }

    fn text(&self) -> String {
        let size = self.backend.size.draw();
        self.shared.plan.sides.first().map_or("", |side| &side.text[..size]).to_owned()
    }

    fn sequence(&self) -> u64 {
        history::id(self.actor, self.done)
    }

    fn note(&self, device: &str, sequence: u64, kind: Kind) {
        let mut pen = self.shared.pen.borrow_mut();
        if pen.writes() {
            let (time, epoch) = (history::now(), self.actor);
            pen.write(&Line { time, device, epoch, sequence, kind });
        }
    }

    /// Until the device has settled the message.
    async fn send(&mut self, rest: &Rest, id: &str, due: Instant) -> Result<()> {
        let sequence = self.sequence();
        let message = sequence.to_string();
        let (settled, wait) = oneshot::channel();
        self.shared.waiting.borrow_mut().insert(message.clone(), settled);
        let sent = self.enqueue(rest, id, &message, due).await;
        let settled = match sent {
            Ok(()) => timeout(PATIENCE, wait).await,
            Err(error) => {
                self.shared.waiting.borrow_mut().remove(&message);
                return Err(error);
            }
        };
        if settled.is_err() {
            self.shared.waiting.borrow_mut().remove(&message);
        }
        settled.map_err(|_| anyhow!("C2D: not settled within {PATIENCE:?}"))?.context("C2D")
    }

    async fn enqueue(&self, rest: &Rest, id: &str, message: &str, due: Instant) -> Result<()> {
        let tally = &self.shared.tally;
        let ack = self.backend.ack;
        let path = ["dunlin", "v1", "devices", id, "messages", "devicebound"];
        let headers = [("iothub-messageid", message), ("iothub-ack", ack.name())];
        self.note(id, self.sequence(), Kind::C2d { ask: ack.ask() });
        self.shared.awaited.sent(tally, self.sequence(), ack.ask());
        tally.started(Op::C2dSend, 1);
        let answer = rest.send(Method::POST, &path, &headers, self.text()).await;
        let taken = answer.and_then(|answer| Refused::unless(&answer, StatusCode::OK));
        match &taken {
            Ok(()) => {
                self.note(id, self.sequence(), Kind::Accepted);
                tally.done(Op::C2dSend, Instant::now().saturating_duration_since(due));
            }
            Err(error) => {
                self.shared.awaited.refused(tally, self.sequence());
                tally.failed(Op::C2dSend, &format!("{error:#}"));
            }
        }
        taken
    }

    async fn desire(&mut self, rest: &Rest, id: &str) -> Result<()> {
        let sequence = self.sequence();
        // No two are the same; whatever other back ends set stays.
        let name = format!("load{}", self.actor & 0xffff);
        let patch = json!({ "properties": { "desired": { name: {
            "count": self.done, "text": self.text(),
        }}}});
        self.note(id, sequence, Kind::Desire);
        let answer = rest.send(Method::PATCH, &["twins", id], &[], patch.to_string()).await?;
        Refused::unless(&answer, StatusCode::OK)?;
        if self.shared.pen.borrow().writes() {
            let twin: Value = serde_json::from_slice(&answer.body)?;
            let version = twin["properties"]["desired"]["$version"].as_u64();
            let version = version.context("a twin without a version of its desired properties")?;
            self.note(id, sequence, Kind::Desired { version });
        }
        Ok(())
    }

    /// A batch, if there is one.
    async fn feedback(&mut self, rest: &Rest) -> Result<()> {
        let Some(batch) = Batch::receive(rest).await? else { return Ok(()) };
        for record in &batch.records {
            let text = |name: &str| record[name].as_str().unwrap_or_default();
            let outcome = history::Outcome::parse(text("statusCode"));
            let device = text("deviceId");
            // What had ended before is an earlier run's, whose feedback may come as late as now.
            let ended = text("enqueuedTimeUtc").parse::<Timestamp>();
            let early = ended.is_ok_and(|ended| ended < self.since);
            let ours = !early && self.shared.plan.owns(device);
            // Those that are not a load test's have other ids.
            if let (true, Some(outcome), Ok(id)) =
                (ours, outcome, text("originalMessageId").parse())
            {
                self.note(device, id, Kind::Feedback(outcome));
                self.shared.awaited.told(&self.shared.tally, device, id);
            }
        }
        batch.complete(rest).await
    }

    /// Until the device's answer is here; it must be what the device was called with.
    async fn call(&mut self, id: &str) -> Result<()> {
        let sequence = self.sequence();
        let payload = format!("\"{sequence}:{}\"", self.text());
        self.note(id, sequence, Kind::Call);
        match &mut self.way {
            Way::Hub(rest) => {
                let body = format!(
                    r#"{{"methodName":"load","responseTimeoutInSeconds":30,"payload":{payload}}}"#
                );
                let answer = rest.send(Method::POST, &["twins", id, "methods"], &[], body).await?;
                Refused::unless(&answer, StatusCode::OK)?;
                if answer.body != format!(r#"{{"status":200,"payload":{payload}}}"#) {
                    bail!("the device answered something else");
                }
            }
            Way::Broker(link) => {
                let rid = self.done;
                let mut out = Vec::new();
                let topic = format!("{id}/methods/POST/load/?$rid={rid}");
                mqtt::publish(&mut out, &topic, None, payload.as_bytes())?;
                let reply = format!("{id}/methods/res/200/?$rid={rid}");
                link.send(&out).await?;
                let mut replied = false;
                while !replied {
                    let received = link.receive(&self.shared.scratch, |packet| match packet {
                        // Those of other callers come, too.
                        Packet::Publish { topic, body, .. } => {
                            replied |= topic == reply && body == payload.as_bytes();
                            Ok(())
                        }
                        other => bail!("{other:?} instead of the reply"),
                    });
                    timeout(PATIENCE, received).await.context("no reply")??;
                }
            }
        }
        self.note(id, sequence, Kind::Answer { status: 200 });
        Ok(())
    }
}

/// What the hub did not do.
#[derive(Debug)]
pub struct Refused {
    pub status: StatusCode,
    why: String,
}

impl Refused {
    pub fn unless(answer: &Answer, want: StatusCode) -> Result<()> {
        if answer.status == want {
            return Ok(());
        }
        Err(Self { status: answer.status, why: answer.error() }.into())
    }

    pub fn is_throttled(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.why)
    }
}

impl std::error::Error for Refused {}
