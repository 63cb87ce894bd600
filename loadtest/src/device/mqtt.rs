//! A device over MQTT, plain or in a WebSocket: sends, answers, connects again.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use tokio::time::{Instant, sleep_until};

use super::{Device, End, Work};
use crate::fleet::Phase;
use crate::history::{Disposition, Kind};
use crate::link::Link;
use crate::mqtt::{self, Packet};
use crate::outcome::Event;
use crate::scenario::Reconnect;

/// Up to the last answer that a device waits for before it is ready.
pub async fn connect(device: &Device) -> Result<Link> {
    let side = device.side();
    let mut link = Link::open(
        &device.shared.plan.target,
        side,
        device.tls().as_ref(),
        device.overall(),
        &device.id,
        &device.shared.scratch,
    )
    .await?;
    if link.resumed() {
        device.shared.tally.count(Event::Resumed, 1);
    }
    if side.group.subscribe {
        let hub = device.shared.plan.target.hub.is_some();
        let id = &device.id;
        let filters = [
            &format!("devices/{id}/messages/devicebound/#"),
            // A broker's devices have one each.
            &if hub { "$iothub/methods/POST/#".into() } else { format!("{id}/methods/POST/#") },
            "$iothub/twin/res/#",
            "$iothub/twin/PATCH/properties/desired/#",
        ];
        let refused = link.subscribe(&device.shared.scratch, &filters).await?;
        device.shared.tally.count(Event::RefusedFilter, refused);
    }
    Ok(link)
}

/// Method calls that are to be answered later, in the order of their time.
type Later = VecDeque<(Instant, Vec<u8>)>;

/// Sends and answers as the phases ask for, until the last of them.
pub async fn serve(device: &Device, mut link: Box<Link>, work: &mut Work) -> Result<End> {
    let side = device.side();
    if work.phase.has_changed()? {
        let now = *work.phase.borrow_and_update();
        work.enter(now);
    }
    // Earlier than promised, so that a late timer does not cost the connection.
    let ping_every = Duration::from_secs(u64::from(side.keep_alive())) * 3 / 4;
    let mut ping_at = Instant::now() + ping_every;
    let again_at = side.group.reconnect.map(again);
    let mut leaving = false;
    let mut later = Later::new();
    let mut out = Vec::new();
    loop {
        let now = Instant::now();
        leaving |= again_at.is_some_and(|at| at <= now);
        if leaving && work.is_empty() {
            link.close().await;
            return Ok(End::Again);
        }
        if !leaving {
            work.telemetry.fill(device, &mut out)?;
            work.reports.fill(device, &mut out)?;
        }
        while let Some((_, answer)) = later.pop_front_if(|(at, _)| *at <= now) {
            out.extend_from_slice(&answer);
        }
        if !out.is_empty() {
            link.send(&out).await?;
            ping_at = Instant::now() + ping_every;
            if work.is_busy() { out.clear() } else { out = Vec::new() }
        }
        let wake = [
            (!ping_every.is_zero()).then_some(ping_at),
            work.telemetry.due().filter(|_| !leaving),
            work.reports.due().filter(|_| !leaving),
            again_at.filter(|_| !leaving),
            later.front().map(|(at, _)| *at),
        ];
        let wake = wake.into_iter().flatten().min();
        let Work { telemetry, reports, phase } = &mut *work;
        let on_packet = |packet: Packet<'_>| {
            match packet {
                Packet::PublishAck { id } => telemetry.acknowledged(device, id),
                Packet::Publish { id, topic, body } => {
                    if let Some(id) = id {
                        mqtt::publish_ack(&mut out, id);
                    }
                    if let Some(answer) = topic.strip_prefix("$iothub/twin/res/") {
                        reports.answered(device, answer)?;
                    } else if let Some(reply) = reply(topic, body)? {
                        device.called(body);
                        let delay = side.group.methods.delay;
                        later.push_back((Instant::now() + Duration::from_secs_f64(delay), reply));
                    } else if let Some(message) = c2d_message(topic) {
                        device.received(message);
                    } else if let Some(version) = desired(topic) {
                        device.note(device.epoch, version, Kind::Told);
                    }
                }
                _ => {}
            }
            Ok(())
        };
        tokio::select! {
            received = link.receive(&device.shared.scratch, on_packet) => received?,
            changed = phase.changed() => {
                changed?;
                let now = *phase.borrow_and_update();
                if let Phase::Stop = now {
                    link.close().await;
                    return Ok(End::Stopped);
                }
                work.enter(now);
            }
            () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {
                if !ping_every.is_zero() && ping_at <= Instant::now() {
                    out.extend_from_slice(&mqtt::PING);
                }
            }
        }
    }
}

impl Work {
    fn enter(&mut self, phase: Phase) {
        self.telemetry.enter(phase);
        self.reports.enter(phase);
    }

    fn is_empty(&self) -> bool {
        self.telemetry.is_empty() && self.reports.is_empty()
    }

    /// Whether the next messages follow at once, so that buffers are worth keeping.
    fn is_busy(&self) -> bool {
        self.telemetry.pace.is_busy() || self.reports.pace.is_busy()
    }
}

/// When a connection is to end in good order.
fn again(reconnect: Reconnect) -> Instant {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    Instant::now() + Duration::from_secs_f64(wait(reconnect, clock))
}

/// In seconds. Without jitter it is a round time by the clock, the same for all devices and workers.
fn wait(Reconnect { every, jitter }: Reconnect, clock: f64) -> f64 {
    if jitter { every * 2.0 * fastrand::f64() } else { every - clock % every }
}

impl Device {
    /// A C2D message is here; its PUBACK is on its way.
    fn received(&self, message: &str) {
        if let Ok(sequence) = message.parse() {
            self.note(self.epoch, sequence, Kind::Received);
            self.note(self.epoch, sequence, Kind::Settle(Disposition::Complete));
        }
        self.settled(message, Disposition::Complete);
    }

    /// Tells the back end that waits for it.
    pub(super) fn settled(&self, message: &str, disposition: Disposition) {
        if let Ok(id) = message.parse() {
            self.shared.awaited.settled(&self.shared.tally, id, disposition);
        }
        let waiting = self.shared.waiting.borrow_mut().remove(message);
        // Nobody waits any more for one that comes again.
        if waiting.is_none_or(|waiting| waiting.send(()).is_err()) {
            self.shared.tally.count(Event::StrayAck, 1);
        }
    }

    fn called(&self, body: &[u8]) {
        // The payload begins with the call's id.
        let digits = body.iter().skip(1).take_while(|byte| byte.is_ascii_digit());
        let id = digits.fold(0_u64, |id, digit| id.wrapping_mul(10) + u64::from(digit - b'0'));
        self.note(self.epoch, id, Kind::Called);
    }
}

/// The answer to a method call, if it is one: what it was called with.
fn reply(topic: &str, body: &[u8]) -> Result<Option<Vec<u8>>> {
    let Some((methods, call)) = topic.split_once("/POST/") else { return Ok(None) };
    let Some((_, rid)) = call.split_once("/?$rid=") else { return Ok(None) };
    if !methods.ends_with("/methods") {
        return Ok(None);
    }
    let mut out = Vec::new();
    mqtt::publish(&mut out, &format!("{methods}/res/200/?$rid={rid}"), None, body)?;
    Ok(Some(out))
}

/// The id of a C2D message. Ours have nothing in them that is percent-encoded.
fn c2d_message(topic: &str) -> Option<&str> {
    let (_, bag) = topic.strip_prefix("devices/")?.split_once("/messages/devicebound/")?;
    Some(bag.split('&').find_map(|property| property.strip_prefix("%24.mid=")).unwrap_or_default())
}

/// The version of a change of the desired properties.
fn desired(topic: &str) -> Option<u64> {
    topic.strip_prefix("$iothub/twin/PATCH/properties/desired/?$version=")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_answered_with_its_payload() -> Result<()> {
        for methods in ["$iothub/methods", "load-000001/methods"] {
            let mut want = Vec::new();
            mqtt::publish(&mut want, &format!("{methods}/res/200/?$rid=a1"), None, b"7")?;
            assert_eq!(reply(&format!("{methods}/POST/load/?$rid=a1"), b"7")?, Some(want));
        }
        for other in ["$iothub/twin/res/204/?$rid=1", "$iothub/methods/POST/load", "x", "x/POST/y"]
        {
            assert_eq!(reply(other, b"7")?, None);
        }
        Ok(())
    }

    #[test]
    fn without_jitter_all_connect_anew_at_the_same_time() {
        let at = |clock, jitter| clock + wait(Reconnect { every: 60.0, jitter }, clock);
        assert_eq!([at(600.0, false), at(601.5, false), at(659.0, false)], [660.0; 3]);
        assert!((0..100).all(|_| (600.0..=720.0).contains(&at(600.0, true))));
    }

    #[test]
    fn messages_to_a_device_are_told_apart() {
        let topic = "devices/d/messages/devicebound/%24.to=%2Fdevices%2Fd&%24.mid=77&k=v";
        assert_eq!(c2d_message(topic), Some("77"));
        assert_eq!(c2d_message("devices/d/messages/devicebound/k=v"), Some(""));
        assert_eq!(c2d_message("$iothub/methods/POST/x/?$rid=1&%24.mid=1"), None);
        let topic = "$iothub/twin/PATCH/properties/desired/?$version=12";
        assert_eq!((desired(topic), desired("$iothub/twin/res/204/?$rid=1")), (Some(12), None));
    }
}
