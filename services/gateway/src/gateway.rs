//! What all connections of a gateway process share, and how one is opened: authenticate, take the
//! local slot, claim the identity, see the former holder off (design §4, connect).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use dunlin_model::{ErrorCode, HubError, Identity, Session, Subscriptions};
use dunlin_proto::status::from_status;
use dunlin_proto::v1::AuthenticateRequest;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::{DeviceLinks, MeshChannel};
use dunlin_storage::presence::{Claim, Epoch};
use dunlin_storage::{EventLog, Presence};
use tokio::runtime::Handle;

use crate::https::Senders;
use crate::reports::Reports;
use crate::session::{Claimant, DeviceSession};
use crate::sessions::Sessions;
use crate::table::{Address, Table};

/// How long the former connection of an identity is waited for.
const TAKEOVER_WAIT: Duration = Duration::from_secs(1);

pub struct Gateway {
    pub hostnames: Vec<String>,
    pub node: String,
    pub registry: MeshChannel,
    pub api: MeshChannel,
    pub twins: MeshChannel,
    pub c2d: MeshChannel,
    pub links: DeviceLinks,
    pub presence: Arc<dyn Presence>,
    pub events: Arc<dyn EventLog>,
    pub table: Table,
    /// What the registry is still to be told of connections.
    pub reports: Reports,
    pub sessions: Sessions,
    /// Whose HTTPS requests are let in without asking again.
    pub senders: Senders,
    pub runtime: Handle,
    /// Of connections, over all workers.
    pub serials: AtomicU32,
    /// Connections that are being opened now, and how many may be.
    pub opening: AtomicUsize,
    pub max_opening: usize,
}

impl Gateway {
    /// Opens a session on the main runtime, so that nothing of it stalls the caller's thread. A
    /// caller that stops waiting loses nothing: the session is then dropped, which undoes it.
    pub async fn open(self: &Arc<Self>, claimant: Claimant) -> Result<DeviceSession, HubError> {
        let Some(_turn) = Turn::take(self) else {
            return Err(HubError::new(ErrorCode::ServerBusy, "too many devices connect at once"));
        };
        let gateway = self.clone();
        let task = self.runtime.spawn(async move { gateway.open_here(claimant).await });
        task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "opening a session failed: please report this");
            Err(HubError::new(ErrorCode::ServerError, "opening the session failed"))
        })
    }

    async fn open_here(self: Arc<Self>, claimant: Claimant) -> Result<DeviceSession, HubError> {
        let Claimant { identity, sas_token, address, clean_session, model_id } = claimant;
        let request = AuthenticateRequest { identity: identity.to_string(), sas_token };
        let granted = RegistryClient::new(self.registry.clone())
            .authenticate(request)
            .await
            .map_err(|status| from_status(&status))?
            .into_inner();
        let auth_version = granted.auth_version;

        let key = address.key;
        if let Some(former) = self.table.take(&identity, address) {
            disconnect(&former, ErrorCode::ConnectionForcefullyClosedOnNewConnection).await;
        }
        // From here on dropping the session gives up what was taken.
        let stored = Session::from(granted.session.clone().unwrap_or_default());
        let subscriptions = if clean_session { Subscriptions::NONE } else { stored.subscriptions };
        let wanted = Session { subscriptions, model_id };
        let changed = wanted != stored;
        let mut session = DeviceSession::new(
            self.clone(),
            identity.clone(),
            key,
            granted,
            wanted,
            !clean_session,
        );

        match self.presence.claim(&identity, &self.node, auth_version).await? {
            Claim::Granted { epoch, former } => {
                if let Some(former) = former.filter(|former| former.node != self.node) {
                    let reason = ErrorCode::ConnectionForcefullyClosedOnNewConnection;
                    // A node that does not answer has lost the device or is about to.
                    if let Err(error) = self.links.disconnect(&identity, &former, reason).await {
                        tracing::warn!(%identity, node = former.node, %error, "former holder is away");
                    }
                }
                session.settle(epoch)?;
                if changed {
                    let report = session.report();
                    self.sessions.stored(report).await?;
                }
                Ok(session)
            }
            // It was changed between the two calls: the next attempt is judged by the new state.
            Claim::Revoked => {
                Err(HubError::new(ErrorCode::ServerBusy, "the identity was just changed"))
            }
        }
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

/// A place among the connections that are being opened.
struct Turn<'a>(&'a Gateway);

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
