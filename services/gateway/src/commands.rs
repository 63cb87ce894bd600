//! C2D messages, whatever protocol carries them: leased from the role `c2d` and settled there.
//!
//! What a connection has leased is given back when it is gone, and not before what the device has
//! acknowledged is settled: whoever comes next gets neither less nor any of it twice.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use dunlin_model::{HubError, Identity};
use dunlin_proto::status::from_status;
use dunlin_proto::v1::c2d_client::C2dClient;
use dunlin_proto::v1::{
    Ack, Disposition, LeaseCommandsRequest, LeaseCommandsResponse, ReleaseCommandsRequest,
    SettleCommandsRequest,
};
use dunlin_runtime::MeshChannel;
use dunlin_runtime::telemetry::{KeyValue, SpanKind, identity};
use dunlin_storage::presence::Epoch;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use tokio::sync::oneshot;

use crate::gateway::Gateway;

/// All but what RFC 3986 leaves as it is: SDKs take topics and headers apart at anything else.
pub const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A time as .NET writes it, with seven digits: the C# SDK reads no other. `None`: out of range.
pub fn time(unix_millis: i64) -> Option<String> {
    jiff::Timestamp::from_millisecond(unix_millis).ok().map(|time| format!("{time:.7}"))
}

/// `iothub-ack`, where feedback is asked for.
pub fn ack(ack: Ack) -> Option<&'static str> {
    match ack {
        Ack::None => None,
        Ack::Positive => Some("positive"),
        Ack::Negative => Some("negative"),
        Ack::Full => Some("full"),
    }
}

/// Attempts at a call that fails, which are over when the locks are.
fn attempts() -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(10))
        .with_max_times(8)
        .with_jitter()
}

impl Gateway {
    fn commands(&self) -> C2dClient<MeshChannel> {
        C2dClient::new(self.c2d.clone())
    }

    /// The first messages of a device's queue. `epoch` 0: of no connection.
    pub async fn lease_commands(
        &self,
        id: &Identity,
        epoch: Epoch,
        most: u32,
    ) -> Result<LeaseCommandsResponse, HubError> {
        let request = LeaseCommandsRequest { device_id: id.device_id().to_owned(), epoch, most };
        let lease = async {
            let leased = self.commands().lease_commands(request).await;
            Ok(leased.map_err(|status| from_status(&status))?.into_inner())
        };
        self.traced("c2d receive", "receive", id, lease).await
    }

    /// What becomes of messages; of each, whether its lock was held.
    pub async fn settle_commands(
        &self,
        id: &Identity,
        epoch: Epoch,
        lock_tokens: Vec<String>,
        disposition: Disposition,
    ) -> Result<Vec<bool>, HubError> {
        let request = SettleCommandsRequest {
            device_id: id.device_id().to_owned(),
            epoch,
            lock_tokens,
            disposition: disposition.into(),
        };
        let settle = async {
            let settled = self.commands().settle_commands(request).await;
            Ok(settled.map_err(|status| from_status(&status))?.into_inner().settled)
        };
        self.traced("c2d settle", "settle", id, settle).await
    }

    async fn traced<T>(
        &self,
        name: &'static str,
        operation: &'static str,
        id: &Identity,
        work: impl Future<Output = Result<T, HubError>>,
    ) -> Result<T, HubError> {
        let span = self.telemetry.span(name, SpanKind::Consumer, || {
            let mut attributes = identity(id);
            attributes.push(KeyValue::new("messaging.operation.type", operation));
            attributes
        });
        span.run(work).await
    }

    async fn release_commands(
        &self,
        id: &Identity,
        epoch: Epoch,
        lost: bool,
    ) -> Result<(), HubError> {
        let request = ReleaseCommandsRequest { device_id: id.device_id().to_owned(), epoch, lost };
        self.commands().release_commands(request).await.map_err(|status| from_status(&status))?;
        Ok(())
    }
}

/// What one connection has leased. Its calls under way share it: with the last of them it goes, and
/// what it still holds is released.
pub struct Leases {
    gateway: Arc<Gateway>,
    identity: Identity,
    epoch: Epoch,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Messages that are leased, or may be, and not settled.
    held: usize,
    /// What is still to be settled.
    outcomes: Vec<(String, Disposition)>,
    /// Whether somebody is at it.
    settling: bool,
    /// Whether its connection is closed as it should be: what it still holds was not in vain.
    closed: bool,
    /// Who waits for the end.
    waiting: Vec<oneshot::Sender<()>>,
}

/// What came of a lease call.
pub struct Leased {
    pub result: Result<LeaseCommandsResponse, HubError>,
    pub leases: Arc<Leases>,
}

impl Leases {
    pub fn new(gateway: Arc<Gateway>, identity: Identity, epoch: Epoch) -> Arc<Self> {
        Arc::new(Self { gateway, identity, epoch, state: Mutex::default() })
    }

    /// Whether nothing is leased.
    pub fn is_empty(&self) -> bool {
        self.lock().held == 0
    }

    /// Leases messages, on the main runtime.
    pub fn lease(self: Arc<Self>, most: usize, tell: impl FnOnce(Leased) + Send + 'static) {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let leases = self.clone();
        self.gateway.runtime.spawn(async move {
            let result = leases.gateway.lease_commands(&leases.identity, leases.epoch, most).await;
            // A call that failed here may have had its way there.
            leases.lock().held += result.as_ref().map_or(1, |leased| leased.commands.len());
            tell(Leased { result, leases });
        });
    }

    /// Has a message settled. Those that come while a call is under way make up the next.
    pub fn settle(self: &Arc<Self>, lock_token: String, disposition: Disposition) {
        let mut state = self.lock();
        state.outcomes.push((lock_token, disposition));
        if !std::mem::replace(&mut state.settling, true) {
            let leases = self.clone();
            self.gateway.runtime.spawn(async move { while leases.settle_some().await {} });
        }
    }

    /// Settles messages of one outcome. `false`: there was none.
    async fn settle_some(&self) -> bool {
        let (locks, disposition) = {
            let mut state = self.lock();
            let Some(&(_, first)) = state.outcomes.first() else {
                state.settling = false;
                return false;
            };
            let alike = state.outcomes.extract_if(.., |(_, disposition)| *disposition == first);
            (alike.map(|(lock, _)| lock).collect::<Vec<_>>(), first)
        };
        let (id, count) = (&self.identity, locks.len());
        let mut delays = attempts().build();
        loop {
            let call =
                self.gateway.settle_commands(id, self.epoch, locks.clone(), disposition).await;
            match (call, delays.next()) {
                // Who has lost a lock gets the message again, whatever it says now.
                (Ok(_), _) => {
                    let mut state = self.lock();
                    state.held = state.held.saturating_sub(count);
                    return true;
                }
                (Err(error), Some(delay)) if error.retryable() => {
                    tracing::debug!(identity = %id, %error, "settling C2D messages failed, trying again");
                    tokio::time::sleep(delay).await;
                }
                (Err(error), _) => {
                    tracing::warn!(identity = %id, count, %error, "C2D messages stay unsettled and come again");
                    return true;
                }
            }
        }
    }

    /// Gives everything back that is leased, on the main runtime.
    pub fn give_back(self: Arc<Self>, tell: impl FnOnce(Leased) + Send + 'static) {
        let leases = self.clone();
        self.gateway.runtime.spawn(async move {
            release(&leases.gateway, &leases.identity, leases.epoch, false).await;
            tell(Leased { result: Ok(LeaseCommandsResponse::default()), leases });
        });
    }

    /// Its connection is closed as it should be.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Tells when this connection holds nothing any more, and has settled what was acknowledged.
    pub fn when_gone(&self, done: oneshot::Sender<()>) {
        self.lock().waiting.push(done);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        // They are told by being dropped.
        let waiting = std::mem::take(&mut state.waiting);
        if state.held > 0 {
            let (gateway, identity, epoch) =
                (self.gateway.clone(), self.identity.clone(), self.epoch);
            let lost = !state.closed;
            self.gateway.runtime.spawn(async move {
                release(&gateway, &identity, epoch, lost).await;
                drop(waiting);
            });
        }
    }
}

async fn release(gateway: &Gateway, id: &Identity, epoch: Epoch, lost: bool) {
    if let Err(error) = gateway.release_commands(id, epoch, lost).await {
        tracing::warn!(identity = %id, %error, "leased C2D messages could not be given back, their locks expire");
    }
}
