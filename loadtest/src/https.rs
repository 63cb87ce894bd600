//! A device over HTTPS: telemetry, one request after the other.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hyper::{Request, StatusCode};
use tokio::time::{Instant, sleep_until, timeout};

use crate::device::Shared;
use crate::fleet::Phase;
use crate::http::Client;
use crate::identities;
use crate::pace::Pace;

const PATIENCE: Duration = Duration::from_secs(60);

pub struct Device {
    shared: Rc<Shared>,
    client: Client,
    uri: String,
    token: Option<String>,
}

impl Device {
    /// With its first connection open.
    pub async fn connect(shared: &Rc<Shared>, number: usize, id: &str) -> Result<Self> {
        let target = &shared.plan.target;
        let login = target.hub()?;
        let by_token = login.thumbprint.is_none();
        let token = by_token.then(|| identities::token(login, id)).transpose()?;
        let uri = format!("/devices/{id}/messages/events?api-version=2021-04-12");
        let mut client = Client::new(&target.tls, number, shared.plan.keep_connection);
        client.open(target).await?;
        Ok(Self { shared: shared.clone(), client, uri, token })
    }

    pub async fn serve(mut self, number: usize) -> Result<()> {
        let shared = self.shared.clone();
        let mut phase = shared.phase.clone();
        let mut pace = Pace::new(shared.plan.rate, shared.plan.devices, number);
        pace.enter(*phase.borrow_and_update());
        loop {
            while let Some(message) = pace.take(Instant::now()) {
                shared.counters.sent.fetch_add(1, Relaxed);
                self.send().await?;
                shared.counters.acked.fetch_add(1, Relaxed);
                message.done(&pace, &mut shared.stats.borrow_mut());
                if phase.has_changed()? {
                    break;
                }
            }
            let due = pace.due();
            tokio::select! {
                changed = phase.changed() => {
                    changed?;
                    let now = *phase.borrow_and_update();
                    if let Phase::Stop = now {
                        return Ok(());
                    }
                    pace.enter(now);
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    async fn send(&mut self) -> Result<()> {
        let plan = &self.shared.plan;
        let mut request = Request::post(&self.uri).header("Host", &plan.target.hub()?.authority);
        if let Some(token) = &self.token {
            request = request.header("Authorization", token);
        }
        let request = request.body(plan.body.clone().into())?;
        let answer = timeout(PATIENCE, self.client.send(&plan.target, request))
            .await
            .map_err(|_| anyhow!("no answer within {PATIENCE:?}"))?
            .context("telemetry")?;
        if answer.status != StatusCode::NO_CONTENT {
            bail!("telemetry: {}: {}", answer.status, answer.text());
        }
        Ok(())
    }
}
