//! What all connections of a gateway process share, and how one is opened: authenticate, take the
//! local slot, claim the identity, see the former holder off (design §4, connect).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use dunlin_model::{ErrorCode, HubError, Identity, Session, Subscriptions};
use dunlin_proto::status::from_status;
use dunlin_proto::v1::SessionReport;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::telemetry::{SpanKind, identity};
use dunlin_runtime::{DeviceLinks, MeshChannel, Telemetry, Turns};
use dunlin_storage::presence::{Claim, Epoch, Holder};
use dunlin_storage::{EventLog, Presence};
use tokio::runtime::Handle;

use crate::https::Senders;
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::reports::Reports;
use crate::session::{Claimant, DeviceSession};
use crate::sessions::Sessions;
use crate::table::{Address, Table};

/// How long the former connection of an identity is waited for.
const TAKEOVER_WAIT: Duration = Duration::from_secs(1);

/// How a former holder that is away is told again: for five minutes, which is longer than any node
/// may be away and still be taken for alive.
const SEE_OFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(250))
    .with_max_delay(Duration::from_secs(5))
    .with_max_times(64);

pub struct Gateway {
    pub hostnames: Vec<String>,
    pub node: String,
    pub registry: MeshChannel,
    pub api: MeshChannel,
    pub twins: MeshChannel,
    pub c2d: MeshChannel,
    pub telemetry: Telemetry,
    pub metrics: Metrics,
    pub links: DeviceLinks,
    pub presence: Arc<dyn Presence>,
    pub events: Arc<dyn EventLog>,
    pub table: Table,
    /// Of who claims an identity at this gateway: only who has the slot may.
    pub claims: Turns,
    /// What the registry is still to be told of connections.
    pub reports: Reports,
    /// How often this process was taken for dead, or may have been: each time workers tell of their
    /// connections again.
    pub restored: AtomicU32,
    pub sessions: Sessions,
    /// Whose HTTPS requests are let in without asking again.
    pub senders: Senders,
    pub runtime: Handle,
    /// Of connections, over all workers.
    pub serials: AtomicU32,
    /// Connections that are being opened now and requests whose sender is asked for, and how many
    /// may be.
    pub opening: AtomicUsize,
    pub max_opening: usize,
    /// At which devices are sent away when the hub stops.
    pub pace: Pace,
}

impl Gateway {
    /// Opens a session on the main runtime, so that nothing of it stalls the caller's thread. A
    /// caller that stops waiting loses nothing: the session is then dropped, which undoes it.
    pub async fn open(self: &Arc<Self>, claimant: Claimant) -> Result<DeviceSession, HubError> {
        let _turn = self.turn()?;
        let gateway = self.clone();
        let who = || identity(&claimant.identity);
        let span = self.telemetry.span("connect", SpanKind::Server, who);
        let task = self.runtime.spawn(async move { span.run(gateway.open_here(claimant)).await });
        task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "opening a session failed: please report this");
            Err(HubError::new(ErrorCode::ServerError, "opening the session failed"))
        })
    }

    /// To have the registry judge who somebody is; as many are judged at once as may be.
    pub fn turn(&self) -> Result<Turn<'_>, HubError> {
        Turn::take(self).ok_or_else(|| {
            HubError::new(ErrorCode::ServerBusy, "too many devices come at once: try again later")
        })
    }

    async fn open_here(self: Arc<Self>, claimant: Claimant) -> Result<DeviceSession, HubError> {
        let Claimant { identity, credentials, address, clean_session, model_id } = claimant;
        let request = credentials.into_request(&identity);
        let granted = RegistryClient::new(self.registry.clone())
            .authenticate(request)
            .await
            .map_err(|status| from_status(&status))?
            .into_inner();
        let auth_version = granted.auth_version;

        let key = address.key;
        // From here on dropping the session gives up what was taken.
        let former = self.table.take(&identity, address);
        let stored = Session::from(granted.session.clone().unwrap_or_default());
        let subscriptions = if clean_session { Subscriptions::NONE } else { stored.subscriptions };
        let wanted = Session { subscriptions, model_id };
        let changed = wanted != stored;
        let mut session =
            DeviceSession::new(self.clone(), identity, key, granted, wanted, !clean_session);
        if let Some(former) = &former {
            disconnect(former, ErrorCode::ConnectionForcefullyClosedOnNewConnection).await;
        }
        let displaced = self.claim(&mut session, auth_version).await? || former.is_some();
        // What the former subscribed to may be newer than what was read before it had gone.
        if changed || displaced {
            let report = SessionReport { keep_subscriptions: !clean_session, ..session.report() };
            let stored = self.sessions.stored(report).await?;
            session.set_subscriptions(stored.subscriptions);
        }
        Ok(session)
    }

    /// Claims the identity for a session that has its slot; whether another gateway held it.
    ///
    /// Of several that connect at once the last in the slot must be the last to claim: a claim of
    /// one that has lost it would leave its epoch in presence, and then nobody's.
    async fn claim(
        self: &Arc<Self>,
        session: &mut DeviceSession,
        auth_version: u64,
    ) -> Result<bool, HubError> {
        let identity = session.identity().clone();
        let _turn = self.claims.take(&identity).await;
        session.must_hold()?;
        let former = match self.presence.claim(&identity, &self.node, auth_version).await? {
            Claim::Granted { epoch, former } => {
                let former = former.filter(|former| former.node != self.node);
                if let Some(former) = &former {
                    self.see_off(&identity, former).await;
                }
                session.settle(epoch)?;
                former
            }
            // It was changed between the two calls: the next attempt is judged by the new state.
            Claim::Revoked => {
                return Err(HubError::new(ErrorCode::ServerBusy, "the identity was just changed"));
            }
        };
        Ok(former.is_some())
    }

    /// Tells the former holder to drop, and waits for it for a second. A gateway that cannot be
    /// reached then is told as soon as it can: it may be back before it knows that it was away.
    async fn see_off(self: &Arc<Self>, identity: &Identity, former: &Holder) {
        let reason = ErrorCode::ConnectionForcefullyClosedOnNewConnection;
        let Err(error) = self.links.disconnect(identity, former, reason).await else { return };
        if let Ok(false) = self.presence.node_lives(&former.node).await {
            tracing::debug!(%identity, node = former.node, "former holder is dead");
            return;
        }
        tracing::warn!(%identity, node = former.node, %error, "former holder is away");
        let (gateway, identity, former) = (self.clone(), identity.clone(), former.clone());
        self.runtime.spawn(async move {
            for pause in SEE_OFF.build() {
                tokio::time::sleep(pause).await;
                if gateway.links.disconnect(&identity, &former, reason).await.is_ok() {
                    return;
                }
            }
            tracing::warn!(%identity, node = former.node, "former holder was not reached");
        });
    }

    /// Gives an identity up, in the background.
    pub fn release(self: &Arc<Self>, identity: Identity, epoch: Epoch) {
        let gateway = self.clone();
        self.runtime.spawn(async move {
            if let Err(error) = gateway.presence.release(&identity, epoch).await {
                tracing::warn!(%identity, %error, "presence could not be released, it will expire");
            }
        });
    }
}

/// Tells a connection of this process to go and waits until it takes no more packets.
pub async fn disconnect(address: &Address, reason: ErrorCode) {
    let gone = address.queue.disconnect(address.key, reason);
    if tokio::time::timeout(TAKEOVER_WAIT, gone).await.is_err() {
        tracing::warn!("a connection did not let go within a second");
    }
}

/// A place among the devices that are being authenticated.
pub struct Turn<'a>(&'a Gateway);

impl<'a> Turn<'a> {
    fn take(gateway: &'a Gateway) -> Option<Self> {
        let turn = Self(gateway);
        (gateway.opening.fetch_add(1, Ordering::Relaxed) < gateway.max_opening).then_some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.opening.fetch_sub(1, Ordering::Relaxed);
    }
}
