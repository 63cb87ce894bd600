//! A device over HTTPS: telemetry, and looks whether there are C2D messages; one request after the
//! other.

use std::time::Duration;

use anyhow::{Result, anyhow};
use hyper::{Method, Request, StatusCode};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::pace::{Due, Pace};
use super::{Device, End};
use crate::fleet::Phase;
use crate::history::{Disposition, Kind, stamp};
use crate::http::{Answer, Client};
use crate::identities;
use crate::outcome::{Event, Op};
use crate::rest::API_VERSION;

const PATIENCE: Duration = Duration::from_secs(60);

/// With its first connection open.
pub async fn connect(device: &Device) -> Result<Client> {
    let side = device.side();
    let keep = !side.group.connection_per_request;
    let target = &device.shared.plan.target;
    let mut client = Client::new(device.tls(), device.overall(), keep);
    client.open(target).await?;
    Ok(client)
}

struct Session<'a> {
    device: &'a Device,
    client: Client,
    token: Option<String>,
    /// `/devices/{id}/messages/`
    path: String,
    sequence: u64,
    /// Failures in a row.
    tries: u32,
}

pub async fn serve(device: &Device, client: Client) -> Result<End> {
    let side = device.side();
    let login = device.shared.plan.target.hub()?;
    let mut session = Session {
        device,
        client,
        token: identities::token_of(login, side, &device.id)?,
        path: format!("/devices/{}/messages/", device.id),
        sequence: 0,
        tries: 0,
    };
    let rate = side.group.telemetry.rate;
    let mut pace = Pace::new(rate.is_some(), rate.and_then(|rate| side.period(rate, device.at.1)));
    let mut phase = device.shared.phase.clone();
    pace.enter(*phase.borrow_and_update());
    let poll = side.group.c2d.poll.map(Duration::from_secs_f64);
    let mut poll_at = poll.map(|poll| Instant::now() + poll.mul_f64(fastrand::f64()));
    loop {
        let now = Instant::now();
        if poll_at.is_some_and(|at| at <= now) {
            session.receive().await;
            poll_at = poll.map(|poll| now + poll);
        } else if let Some(due) = pace.take(now) {
            session.send(due).await;
        }
        if !phase.has_changed()? && pace.is_due(Instant::now()) {
            continue;
        }
        let wake = pace.due().into_iter().chain(poll_at).min();
        tokio::select! {
            changed = phase.changed() => {
                changed?;
                let now = *phase.borrow_and_update();
                if let Phase::Stop = now {
                    return Ok(End::Stopped);
                }
                pace.enter(now);
            }
            () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
        }
    }
}

impl Session<'_> {
    /// `path` below `/devices/{id}/messages/`, with what else is in the query behind a `?`.
    async fn request(
        &mut self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Answer> {
        let target = &self.device.shared.plan.target;
        let (path, more) = path.split_once('?').unwrap_or((path, ""));
        let uri = format!("{}{path}?api-version={API_VERSION}&{more}", self.path);
        let uri = uri.trim_end_matches('&');
        let request = Request::builder().method(method).uri(uri);
        let mut request = request.header("Host", &target.hub()?.authority);
        if let Some(token) = &self.token {
            request = request.header("Authorization", token);
        }
        if let Some(content_type) = content_type {
            request = request.header("Content-Type", content_type);
        }
        let request = request.body(body.into())?;
        let answer = timeout(PATIENCE, self.client.send(target, request)).await;
        if answer.is_err() {
            // Its answer may still come, and is nobody else's.
            self.client.close();
        }
        answer.map_err(|_| anyhow!("no answer within {PATIENCE:?}"))?
    }

    /// What is wrong with an answer, counted; then waits, as SDKs do, before the next request.
    async fn expect(
        &mut self,
        op: Op,
        answer: Result<Answer>,
        want: &[StatusCode],
    ) -> Option<Answer> {
        let tally = &self.device.shared.tally;
        match answer {
            Ok(answer) if want.contains(&answer.status) => {
                self.tries = 0;
                return Some(answer);
            }
            Ok(answer) => {
                if answer.status == StatusCode::TOO_MANY_REQUESTS {
                    tally.count(Event::Throttled, 1);
                }
                tally.failed(op, &answer.error());
            }
            Err(error) => tally.failed(op, &format!("{error:#}")),
        }
        let wait = self.device.side().retry().wait(self.tries);
        self.tries += 1;
        tokio::select! {
            () = sleep(wait) => {}
            () = self.device.stopped() => {}
        }
        None
    }

    async fn send(&mut self, due: Due) {
        let op = if due.burst { Op::Burst } else { Op::Telemetry };
        let batch = self.device.side().group.telemetry.batch;
        let first = self.sequence + 1;
        let bodies: Vec<_> = (0..batch).map(|_| self.body()).collect();
        self.device.shared.tally.started(op, batch as u64);
        let answer = if batch == 1 {
            let body = bodies.into_iter().next().unwrap_or_default();
            self.request(Method::POST, "events", None, body).await
        } else {
            let message = |body: Vec<u8>| json!({ "body": String::from_utf8_lossy(&body), "base64Encoded": false });
            let body = bodies.into_iter().map(message).collect::<serde_json::Value>();
            let kind = Some("application/vnd.microsoft.iothub.json");
            self.request(Method::POST, "events", kind, body.to_string().into_bytes()).await
        };
        if self.expect(op, answer, &[StatusCode::NO_CONTENT]).await.is_none() {
            // One is counted; the others went with it.
            let tally = &self.device.shared.tally;
            return (1..batch).for_each(|_| tally.failed(op, "its batch"));
        }
        let latency = Instant::now().saturating_duration_since(due.at);
        for sequence in first..=self.sequence {
            self.device.note(self.device.epoch, sequence, Kind::Ack);
            self.device.shared.tally.done(op, latency);
        }
    }

    fn body(&mut self) -> Vec<u8> {
        let device = self.device;
        let side = device.side();
        let size = side.group.telemetry.size.draw();
        self.sequence += 1;
        if !device.shared.pen.borrow().writes() {
            return side.text.as_bytes()[..size].to_vec();
        }
        let mut body = Vec::with_capacity(size);
        stamp::write(&mut body, &device.id, device.epoch, self.sequence, size);
        device.note(device.epoch, self.sequence, Kind::Send);
        body
    }

    /// Takes what is there.
    async fn receive(&mut self) {
        use StatusCode as Code;
        loop {
            let answer = self.request(Method::GET, "deviceBound", None, Vec::new()).await;
            let answer = self.expect(Op::C2d, answer, &[Code::OK, Code::NO_CONTENT]).await;
            let Some(message) = answer.filter(|answer| answer.status == Code::OK) else { return };
            let lock = message.header("etag").unwrap_or_default().trim_matches('"').to_owned();
            let id = message.header("iothub-messageid").unwrap_or_default().to_owned();
            let sequence = id.parse().unwrap_or(0);
            let device = self.device;
            device.note(device.epoch, sequence, Kind::Received);
            let disposition = self.disposition();
            device.note(device.epoch, sequence, Kind::Settle(disposition));
            let (method, path) = match disposition {
                Disposition::Abandon => (Method::POST, format!("deviceBound/{lock}/abandon")),
                Disposition::Complete => (Method::DELETE, format!("deviceBound/{lock}")),
                Disposition::Reject => (Method::DELETE, format!("deviceBound/{lock}?reject")),
            };
            let answer = self.request(method, &path, None, Vec::new()).await;
            if self.expect(Op::C2d, answer, &[Code::NO_CONTENT]).await.is_none() {
                return;
            }
            device.note(device.epoch, sequence, Kind::Settled(disposition));
            if disposition != Disposition::Abandon {
                device.settled(&id, disposition);
            }
        }
    }

    fn disposition(&self) -> Disposition {
        let c2d = self.device.side().group.c2d;
        match fastrand::f64() {
            drawn if drawn < c2d.abandon => Disposition::Abandon,
            drawn if drawn < c2d.abandon + c2d.reject => Disposition::Reject,
            _ => Disposition::Complete,
        }
    }
}
