//! A back end that calls the devices' methods in turn, one call after the other. Of a plain broker
//! it is an MQTT client that waits for a reply.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::{Method, StatusCode};
use tokio::time::{Instant, sleep_until, timeout};

use crate::args::Rate;
use crate::device::Shared;
use crate::fleet::{Phase, Schedule};
use crate::identities;
use crate::link::Link;
use crate::mqtt::{self, Packet};
use crate::outcome::Op;
use crate::rest::Rest;

/// How long a broker's devices may take to reply; a hub says itself when it is too long.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn run(shared: Rc<Shared>) -> Result<()> {
    let mut phase = shared.phase.clone();
    let mut caller = Caller::new(&shared).await.context("the caller")?;
    loop {
        let now = *phase.borrow_and_update();
        match now {
            Phase::Stop => return Ok(()),
            Phase::Publish(schedule) => caller.calls(&shared, schedule).await?,
            Phase::Idle | Phase::Burst => {}
        }
        phase.changed().await?;
    }
}

struct Caller {
    line: Line,
    /// What is called with, JSON.
    payload: String,
    calls: usize,
}

/// How calls go out.
enum Line {
    Hub(Rest),
    Broker(Box<Link>),
}

impl Caller {
    async fn new(shared: &Shared) -> Result<Self> {
        let target = &shared.plan.target;
        let line = match &target.hub {
            Some(login) => Line::Hub(Rest::new(login, &target.tls, Some(target.address.ip()))?),
            None => {
                let number = shared.plan.devices;
                let mut link = Link::open(target, &shared.scratch, number, "caller", 0).await?;
                if link.subscribe(&shared.scratch, &["+/methods/res/#"]).await? > 0 {
                    bail!("the broker does not grant the subscription to replies");
                }
                Line::Broker(Box::new(link))
            }
        };
        let payload = format!("\"{}\"", String::from_utf8_lossy(&shared.plan.body));
        Ok(Self { line, payload, calls: 0 })
    }

    async fn calls(&mut self, shared: &Shared, schedule: Schedule) -> Result<()> {
        let plan = &shared.plan;
        let mut due = schedule.start;
        while due < schedule.until {
            sleep_until(due).await;
            let id = identities::id(&plan.prefix, self.calls % plan.devices);
            shared.tally.started(Op::Method, 1);
            self.call(shared, &id).await.with_context(|| format!("a call of {id}"))?;
            self.calls += 1;
            let now = Instant::now();
            shared.tally.done(Op::Method, now - due);
            due = match plan.rate {
                Some(Rate::PerSecond(rate)) => due + Duration::from_secs_f64(1.0 / rate),
                _ => now,
            };
        }
        Ok(())
    }

    /// Until the device's answer is here; it must be what the device was called with.
    async fn call(&mut self, shared: &Shared, id: &str) -> Result<()> {
        let payload = &self.payload;
        match &mut self.line {
            Line::Hub(rest) => {
                let body = format!(
                    r#"{{"methodName":"load","responseTimeoutInSeconds":30,"payload":{payload}}}"#
                );
                let answer = rest.send(Method::POST, &["twins", id, "methods"], body).await?;
                if answer != (StatusCode::OK, format!(r#"{{"status":200,"payload":{payload}}}"#)) {
                    bail!("answered {}: {}", answer.0, answer.1);
                }
            }
            Line::Broker(link) => {
                let methods = shared.plan.methods(id);
                let (mut out, rid) = (Vec::new(), self.calls);
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
