//! One device: its connection from dialling to DISCONNECT.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::args::{Protocol, Work};
use crate::backend::Waiting;
use crate::fleet::{Phase, Plan};
use crate::link::{Link, Scratch};
use crate::mqtt::{self, Packet};
use crate::outcome::{Counters, Stats};
use crate::publisher::Publisher;
use crate::{https, identities};

/// How long a device may take to get from dialling to ready.
const CONNECT: Duration = Duration::from_secs(60);

/// What the devices of one client thread share.
pub struct Shared {
    pub plan: Arc<Plan>,
    pub phase: watch::Receiver<Phase>,
    pub counters: Arc<Counters>,
    pub stats: RefCell<Stats>,
    pub scratch: Scratch,
    pub waiting: Waiting,
    /// Sockets of devices that dropped their TLS state.
    pub silent: RefCell<Vec<std::net::TcpStream>>,
}

/// Runs the device with this number to its end.
pub async fn run(shared: Rc<Shared>, number: usize) {
    let id = identities::id(&shared.plan.prefix, number);
    // Boxed and gone once connected: an idle device keeps only what follows.
    let connection = match Box::pin(connect(&shared, number, &id)).await {
        Ok(connection) => connection,
        Err(error) => {
            *shared.stats.borrow_mut().failed.entry(format!("{error:#}")).or_default() += 1;
            shared.counters.failed.fetch_add(1, Relaxed);
            return;
        }
    };
    shared.counters.connected.fetch_add(1, Relaxed);
    let served = match connection {
        Connection::Mqtt(link) if shared.plan.drop_tls => {
            if let Ok(socket) = link.into_socket() {
                shared.silent.borrow_mut().push(socket);
            }
            return;
        }
        Connection::Mqtt(link) => serve(&shared, link, number, &id).await,
        Connection::Https(device) => device.serve(number).await,
    };
    if let Err(error) = served {
        *shared.stats.borrow_mut().lost.entry(format!("{error:#}")).or_default() += 1;
        shared.counters.lost.fetch_add(1, Relaxed);
    }
}

enum Connection {
    Mqtt(Box<Link>),
    Https(Box<https::Device>),
}

async fn connect(shared: &Rc<Shared>, number: usize, id: &str) -> Result<Connection> {
    let _turn = shared.plan.connecting.acquire().await?;
    let start = Instant::now();
    let ready = timeout(CONNECT, async {
        Ok(match shared.plan.protocol {
            Protocol::Mqtt | Protocol::MqttWs => {
                Connection::Mqtt(Box::new(ready(shared, number, id).await?))
            }
            Protocol::Https => {
                Connection::Https(Box::new(https::Device::connect(shared, number, id).await?))
            }
        })
    });
    let ready: Result<_> = ready.await.map_err(|_| anyhow!("not connected within {CONNECT:?}"))?;
    let connection = ready?;
    shared.stats.borrow_mut().connect.record(start.elapsed());
    Ok(connection)
}

/// Up to the last answer that a device waits for before it is ready.
async fn ready(shared: &Shared, number: usize, id: &str) -> Result<Link> {
    let Plan { subscribe, keep_alive, .. } = &*shared.plan;
    let mut link = Link::open(&shared.plan, &shared.scratch, number, id, *keep_alive).await?;
    if *subscribe {
        let filters = [
            &format!("devices/{id}/messages/devicebound/#"),
            &format!("{}/POST/#", shared.plan.methods(id)),
            "$iothub/twin/res/#",
            "$iothub/twin/PATCH/properties/desired/#",
        ];
        let refused = link.subscribe(&shared.scratch, &filters).await?;
        shared.stats.borrow_mut().filters_refused += refused;
    }
    Ok(link)
}

/// Publishes and answers as the phases ask for, until the last of them.
async fn serve(shared: &Shared, mut link: Box<Link>, number: usize, id: &str) -> Result<()> {
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
        let sent = publisher.fill(&mut out)?;
        shared.counters.sent.fetch_add(sent, Relaxed);
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
                    if let Some(message) = c2d_message(topic) {
                        let settled = shared.waiting.borrow_mut().remove(message);
                        // Nobody waits any more for one that comes again.
                        if settled.is_none_or(|settled| settled.send(()).is_err()) {
                            shared.stats.borrow_mut().stray_acks += 1;
                        }
                    }
                    if plan.work == Work::Report { report_taken(topic, body)? } else { None }
                }
                _ => None,
            };
            if let Some(id) = acknowledged
                && publisher.acknowledged(id, &mut shared.stats.borrow_mut())
            {
                shared.counters.acked.fetch_add(1, Relaxed);
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

/// The id of a C2D message. Ours have nothing in them that is percent-encoded.
fn c2d_message(topic: &str) -> Option<&str> {
    let (_, bag) = topic.strip_prefix("devices/")?.split_once("/messages/devicebound/")?;
    bag.split('&').find_map(|property| property.strip_prefix("%24.mid="))
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
    fn a_c2d_message_is_told_by_its_id() {
        let topic = "devices/d/messages/devicebound/%24.to=%2Fdevices%2Fd&%24.mid=d-0-7&k=v";
        assert_eq!(c2d_message(topic), Some("d-0-7"));
        assert_eq!(c2d_message("devices/d/messages/devicebound/k=v"), None);
        assert_eq!(c2d_message("$iothub/methods/POST/x/?$rid=1&%24.mid=1"), None);
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
