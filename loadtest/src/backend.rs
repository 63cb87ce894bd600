//! Back ends: they call methods and send C2D messages to the devices of their thread, in turn.
//! Of a plain broker a caller is an MQTT client that waits for a reply.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hyper::{Method, StatusCode};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::args::{Rate, Work};
use crate::device::Shared;
use crate::fleet::{Phase, Schedule};
use crate::identities;
use crate::link::Link;
use crate::mqtt::{self, Packet};
use crate::rest::Rest;

/// How long a device may take to settle a message or a broker's to reply.
const PATIENCE: Duration = Duration::from_secs(30);

/// C2D messages by id, whose senders wait until the device has settled them.
pub type Waiting = RefCell<HashMap<String, oneshot::Sender<()>>>;

/// One of the back ends of a thread: it does one thing after the other.
struct Lane {
    shared: Rc<Shared>,
    line: Line,
    /// Ids of the thread's devices.
    devices: Rc<Vec<String>>,
    /// This lane's number, and how many the thread has.
    at: (usize, usize),
    /// Between two of its turns, and from the start to its first; none: as fast as answers come.
    period: Option<(Duration, Duration)>,
    /// What is sent, JSON.
    payload: String,
    done: usize,
}

/// How it goes out.
enum Line {
    Hub(Rc<Rest>),
    Broker(Box<Link>),
}

/// All back ends of a thread, to their end.
pub async fn run(shared: Rc<Shared>, thread: usize, threads: usize) -> Result<()> {
    let plan = &shared.plan;
    let numbers = (thread..plan.devices).step_by(threads);
    let devices: Vec<_> = numbers.map(|number| identities::id(&plan.prefix, number)).collect();
    let devices = Rc::new(devices);
    // All lanes, and how many of them are this thread's.
    let window = usize::from(plan.window);
    let (all, lanes) = match plan.work {
        Work::Call if thread == 0 => (1, 1),
        Work::C2d => (plan.devices * window, devices.len() * window),
        Work::Call | Work::Publish | Work::Report => return Ok(()),
    };
    let rest = match plan.target.hub {
        Some(_) => Some(Rc::new(Rest::new(&plan.target)?)),
        None => None,
    };
    let mut running = JoinSet::new();
    for lane in 0..lanes {
        let line = match &rest {
            Some(rest) => Line::Hub(rest.clone()),
            None => Line::Broker(Box::new(caller(&shared).await.context("the caller")?)),
        };
        let period = match plan.rate {
            Some(Rate::PerSecond(rate)) => {
                let period = Duration::from_secs_f64(all as f64 / rate);
                let turn = (lane * threads + thread) as f64 / all as f64;
                Some((period, period.mul_f64(turn)))
            }
            _ => None,
        };
        let payload = format!("\"{}\"", String::from_utf8_lossy(&plan.body));
        let (shared, devices, at) = (shared.clone(), devices.clone(), (lane, lanes));
        let lane = Lane { shared, line, devices, at, period, payload, done: 0 };
        running.spawn_local(lane.run());
    }
    while let Some(ended) = running.join_next().await {
        ended.context("a back end panicked")??;
    }
    Ok(())
}

/// A client of a broker that hears replies.
async fn caller(shared: &Shared) -> Result<Link> {
    let number = shared.plan.devices;
    let mut link = Link::open(&shared.plan, &shared.scratch, number, "caller", 0).await?;
    if link.subscribe(&shared.scratch, &["+/methods/res/#"]).await? > 0 {
        bail!("the broker does not grant the subscription to replies");
    }
    Ok(link)
}

impl Lane {
    async fn run(mut self) -> Result<()> {
        let mut phase = self.shared.phase.clone();
        loop {
            let now = *phase.borrow_and_update();
            match now {
                Phase::Stop => return Ok(()),
                Phase::Publish(schedule) => self.work(schedule).await?,
                Phase::Idle | Phase::Burst => {}
            }
            phase.changed().await?;
        }
    }

    async fn work(&mut self, schedule: Schedule) -> Result<()> {
        let shared = self.shared.clone();
        let mut due = schedule.start + self.period.map_or(Duration::ZERO, |(_, first)| first);
        while due < schedule.until {
            sleep_until(due).await;
            let (lane, lanes) = self.at;
            let devices = self.devices.clone();
            let id = &devices[(lane + self.done * lanes) % devices.len()];
            self.done += 1;
            shared.counters.sent.fetch_add(1, Relaxed);
            match shared.plan.work {
                Work::C2d => self.send(id).await,
                _ => self.call(id).await,
            }
            .with_context(|| format!("device {id}"))?;
            shared.counters.acked.fetch_add(1, Relaxed);
            let now = Instant::now();
            if schedule.measures(now) {
                shared.stats.borrow_mut().publish.record(now - due);
            }
            due = self.period.map_or(now, |(period, _)| due + period);
        }
        Ok(())
    }

    /// Until the device has acknowledged the message.
    async fn send(&mut self, id: &str) -> Result<()> {
        let Line::Hub(rest) = &self.line else { bail!("a broker has no C2D messages") };
        let message = format!("{id}-{}-{}", self.at.0, self.done);
        let (settled, wait) = oneshot::channel();
        self.shared.waiting.borrow_mut().insert(message.clone(), settled);
        let path = ["dunlin", "v1", "devices", id, "messages", "devicebound"];
        let headers = [("iothub-messageid", &*message)];
        let answer = rest.send(Method::POST, &path, &headers, self.payload.clone()).await?;
        if answer.status != StatusCode::OK {
            bail!("C2D: {}: {}", answer.status, answer.text());
        }
        let settled = timeout(PATIENCE, wait).await;
        Ok(settled.map_err(|_| anyhow!("C2D: not acknowledged within {PATIENCE:?}"))??)
    }

    /// Until the device's answer is here; it must be what the device was called with.
    async fn call(&mut self, id: &str) -> Result<()> {
        let payload = &self.payload;
        match &mut self.line {
            Line::Hub(rest) => {
                let body = format!(
                    r#"{{"methodName":"load","responseTimeoutInSeconds":30,"payload":{payload}}}"#
                );
                let answer = rest.send(Method::POST, &["twins", id, "methods"], &[], body).await?;
                let want = format!(r#"{{"status":200,"payload":{payload}}}"#);
                if answer.status != StatusCode::OK || answer.body != want {
                    bail!("method: {}: {}", answer.status, answer.text());
                }
            }
            Line::Broker(link) => {
                let shared = &self.shared;
                let methods = shared.plan.methods(id);
                let (mut out, rid) = (Vec::new(), self.done);
                let topic = format!("{methods}/POST/load/?$rid={rid}");
                mqtt::publish(&mut out, &topic, None, payload.as_bytes())?;
                let reply = format!("{methods}/res/200/?$rid={rid}");
                link.send(&out).await?;
                let mut replied = false;
                while !replied {
                    let received = link.receive(&shared.scratch, |packet| match packet {
                        Packet::Publish { topic, body, .. }
                            if topic == reply && body == payload.as_bytes() =>
                        {
                            replied = true;
                            Ok(())
                        }
                        other => bail!("{other:?} instead of the reply"),
                    });
                    timeout(PATIENCE, received).await.context("no reply")??;
                }
            }
        }
        Ok(())
    }
}
