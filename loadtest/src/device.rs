//! One device: its connection from dialling to DISCONNECT.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::args::Work;
use crate::fleet::{Phase, Plan};
use crate::identities;
use crate::link::{Link, Scratch};
use crate::mqtt::{self, Packet};
use crate::outcome::{Event, Op, Tally};
use crate::publisher::Publisher;

/// How long a device may take to get from dialling to ready.
const CONNECT: Duration = Duration::from_secs(60);

/// What the devices of one client thread share.
pub struct Shared {
    pub plan: Arc<Plan>,
    pub phase: watch::Receiver<Phase>,
    pub tally: Arc<Tally>,
    pub scratch: Scratch,
    /// Sockets of devices that dropped their TLS state.
    pub silent: RefCell<Vec<std::net::TcpStream>>,
}

/// Runs the device with this number to its end.
pub async fn run(shared: Rc<Shared>, number: usize) {
    let id = identities::id(&shared.plan.prefix, number);
    // Boxed and gone once connected: an idle device keeps only what follows.
    let link = match Box::pin(connect(&shared, number, &id)).await {
        Ok(link) => link,
        Err(error) => {
            shared.tally.failed(Op::Connect, &format!("{error:#}"));
            shared.tally.count(Event::GaveUp, 1);
            return;
        }
    };
    shared.tally.count(Event::Up, 1);
    if shared.plan.drop_tls {
        if let Ok(socket) = link.into_socket() {
            shared.silent.borrow_mut().push(socket);
            shared.tally.count(Event::Silent, 1);
        }
        shared.tally.count(Event::Connected, 1);
        return;
    }
    shared.tally.count(Event::Connected, 1);
    match serve(&shared, link, number, &id).await {
        Ok(()) => shared.tally.count(Event::Down, 1),
        Err(error) => shared.tally.lost(&format!("{error:#}")),
    }
}

async fn connect(shared: &Shared, number: usize, id: &str) -> Result<Link> {
    let _turn = shared.plan.connecting.acquire().await?;
    let start = Instant::now();
    shared.tally.started(Op::Connect, 1);
    let ready = timeout(CONNECT, ready(shared, number, id)).await;
    let link = ready.map_err(|_| anyhow!("not connected within {CONNECT:?}"))??;
    shared.tally.done(Op::Connect, start.elapsed());
    Ok(link)
}

/// Up to the last answer that a device waits for before it is ready.
async fn ready(shared: &Shared, number: usize, id: &str) -> Result<Link> {
    let Plan { target, subscribe, keep_alive, .. } = &*shared.plan;
    let mut link = Link::open(target, &shared.scratch, number, id, *keep_alive).await?;
    if *subscribe {
        let filters = [
            &format!("devices/{id}/messages/devicebound/#"),
            &format!("{}/POST/#", shared.plan.methods(id)),
            "$iothub/twin/res/#",
            "$iothub/twin/PATCH/properties/desired/#",
        ];
        let refused = link.subscribe(&shared.scratch, &filters).await?;
        shared.tally.count(Event::RefusedFilter, refused);
    }
    Ok(link)
}

/// Publishes and answers as the phases ask for, until the last of them.
async fn serve(shared: &Shared, mut link: Link, number: usize, id: &str) -> Result<()> {
    let plan = &*shared.plan;
    let methods = if plan.work == Work::Call { plan.methods(id) } else { String::new() };
    let mut phase = shared.phase.clone();
    let mut publisher = Publisher::new(plan, number, format!("devices/{id}/messages/events/"));
    publisher.enter(*phase.borrow_and_update());
    // Earlier than promised, so that a late timer does not cost the connection.
    let ping_every = Duration::from_secs(u64::from(plan.keep_alive)) * 3 / 4;
    let mut ping_at = Instant::now() + ping_every;
    let mut out = Vec::new();
    loop {
        publisher.fill(&mut out, &shared.tally)?;
        if !out.is_empty() {
            link.send(&out).await?;
            ping_at = Instant::now() + ping_every;
            if publisher.is_busy() { out.clear() } else { out = Vec::new() }
        }
        let due = publisher.due();
        let wake =
            if ping_every.is_zero() { due } else { Some(due.unwrap_or(ping_at).min(ping_at)) };
        let on_packet = |packet: Packet<'_>| {
            let acknowledged = match packet {
                Packet::PublishAck { id } => Some(id),
                Packet::Publish { id, topic, body } => {
                    if let Some(id) = id {
                        mqtt::publish_ack(&mut out, id);
                    }
                    if plan.work == Work::Call {
                        answer_call(&mut out, &methods, topic, body)?;
                    }
                    if plan.work == Work::Report { report_taken(topic, body)? } else { None }
                }
                _ => None,
            };
            if let Some(id) = acknowledged {
                publisher.acknowledged(id, &shared.tally);
            }
            Ok(())
        };
        tokio::select! {
            received = link.receive(&shared.scratch, on_packet) => received?,
            changed = phase.changed() => {
                changed?;
                let now = *phase.borrow_and_update();
                if let Phase::Stop = now {
                    link.close().await;
                    return Ok(());
                }
                publisher.enter(now);
            }
            () = sleep_until(wake.unwrap_or(ping_at)), if wake.is_some() => {
                if !ping_every.is_zero() && ping_at <= Instant::now() {
                    out.extend_from_slice(&mqtt::PING);
                }
            }
        }
    }
}

/// Answers a method call, if it is one, with what it was called with.
fn answer_call(out: &mut Vec<u8>, methods: &str, topic: &str, body: &[u8]) -> Result<()> {
    let call = topic.strip_prefix(methods).and_then(|rest| rest.strip_prefix("/POST/"));
    let Some((_, rid)) = call.and_then(|call| call.split_once("/?$rid=")) else { return Ok(()) };
    mqtt::publish(out, &format!("{methods}/res/200/?$rid={rid}"), None, body)
}

/// The request id of a report that was taken; `None`: this is no answer to a report.
fn report_taken(topic: &str, body: &[u8]) -> Result<Option<u16>> {
    let Some(answer) = topic.strip_prefix("$iothub/twin/res/") else { return Ok(None) };
    let (status, query) = answer.split_once("/?$rid=").context("an answer without request id")?;
    if status != "204" {
        bail!("report refused: {status} {}", String::from_utf8_lossy(body));
    }
    Ok(Some(query.split('&').next().unwrap_or_default().parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_answered_with_its_payload() -> Result<()> {
        let mut out = Vec::new();
        answer_call(&mut out, "$iothub/methods", "$iothub/methods/POST/load/?$rid=a1", b"7")?;
        let mut want = Vec::new();
        mqtt::publish(&mut want, "$iothub/methods/res/200/?$rid=a1", None, b"7")?;
        assert_eq!(out, want);
        out.clear();
        for other in ["$iothub/twin/res/204/?$rid=1", "$iothub/methods/POST/load", "x"] {
            answer_call(&mut out, "$iothub/methods", other, b"7")?;
        }
        assert!(out.is_empty());
        Ok(())
    }

    #[test]
    fn only_a_204_is_a_report_taken() -> Result<()> {
        assert_eq!(report_taken("$iothub/twin/res/204/?$rid=7&$version=3", b"")?, Some(7));
        assert_eq!(report_taken("$iothub/twin/PATCH/properties/desired/?$version=2", b"{}")?, None);
        let refused = report_taken("$iothub/twin/res/400/?$rid=7", b"{\"errorCode\":400004}");
        assert!(refused.is_err_and(|error| error.to_string().contains("400004")));
        assert!(report_taken("$iothub/twin/res/204/?$rid=x", b"").is_err());
        Ok(())
    }
}
