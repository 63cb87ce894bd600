//! `DeviceLinks`: how to reach a connected device. One presence lookup and one call to the gateway
//! that holds it; no broadcast.

use std::sync::Arc;
use std::time::Duration;

use dunlin_model::{ErrorCode, HubError, Identity};
use dunlin_proto::status::from_status;
use dunlin_proto::v1::device_link_client::DeviceLinkClient;
use dunlin_proto::v1::invoke_response::Outcome;
use dunlin_proto::v1::{
    DisconnectRequest, InvokeRequest, MethodAnswer, NotifyCommandsRequest, NotifyDesiredRequest,
};
use dunlin_storage::Presence;
use dunlin_storage::presence::{Epoch, Holder};
use tonic::Code;

use crate::{Mesh, MeshChannel};

/// How long the former holder of an identity is waited for (design §4, connect).
const DISCONNECT_DEADLINE: Duration = Duration::from_secs(1);

/// Lookups of an entry that turns out stale: the second has what took its place.
const TRIES: usize = 2;

/// How long a gateway may take over a notification: what it does for it is done at once.
const NOTIFY_DEADLINE: Duration = Duration::from_secs(2);

/// What became of a method call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invoked {
    /// The device is not connected.
    NotConnected,
    /// It is, but takes no methods.
    NotSubscribed,
    /// It was called, and has not answered in time.
    Unanswered,
    Answered {
        status: i64,
        /// As the device sent it.
        payload: Vec<u8>,
    },
}

/// What it means that a gateway cannot be reached, once its lease is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dead {
    /// It has died, and its devices with it. One that only stood still asks, when it goes on, for
    /// what its devices have missed.
    Gone,
    /// A fault as others: it does not ask for this.
    Fault,
}

/// Reaches connected devices by identity.
#[derive(Clone)]
pub struct DeviceLinks {
    mesh: Mesh,
    presence: Arc<dyn Presence>,
}

impl DeviceLinks {
    pub fn new(mesh: Mesh, presence: Arc<dyn Presence>) -> Self {
        Self { mesh, presence }
    }

    /// Refuses claims that were authenticated before `auth_version`, and tells who holds the
    /// identity, who is then to be disconnected. Together they leave no gap: a connect that read the
    /// old state either claims after the marker, which refuses it, or before, and is then the holder.
    pub async fn revoke(
        &self,
        id: &Identity,
        auth_version: u64,
    ) -> Result<Option<Holder>, HubError> {
        Ok(self.presence.revoke(id, auth_version).await?)
    }

    /// Who holds the identity.
    pub async fn holder(&self, id: &Identity) -> Result<Option<Holder>, HubError> {
        Ok(self.presence.holder(id).await?)
    }

    /// Ends one connection and waits until its gateway has let go of it, 1 s at most. `false` if
    /// that gateway knows no such connection.
    pub async fn disconnect(
        &self,
        id: &Identity,
        holder: &Holder,
        reason: ErrorCode,
    ) -> Result<bool, HubError> {
        let mut client = DeviceLinkClient::new(self.way(holder, DISCONNECT_DEADLINE)?.gathered());
        let request = DisconnectRequest {
            identity: id.as_str().to_owned(),
            epoch: holder.epoch,
            reason: reason.number(),
        };
        let answer = client.disconnect(request).await.map_err(|status| from_status(&status))?;
        Ok(answer.into_inner().found)
    }

    /// Ends the connection of an identity, if it has one, as [`disconnect`](Self::disconnect) does.
    pub async fn end(&self, id: &Identity, reason: ErrorCode) -> Result<(), HubError> {
        if let Some(holder) = self.presence.holder(id).await? {
            self.disconnect(id, &holder, reason).await?;
        }
        Ok(())
    }

    /// Calls a method of a connected device and waits for its answer for as long as `deadline`.
    /// Dropped, the call is cancelled and a late answer passed over.
    pub async fn invoke(
        &self,
        id: &Identity,
        method: &str,
        payload: &[u8],
        deadline: Duration,
    ) -> Result<Invoked, HubError> {
        let invoked = self.reach(id, deadline, Dead::Gone, |way, epoch| async move {
            let request = InvokeRequest {
                identity: id.as_str().to_owned(),
                epoch,
                method: method.to_owned(),
                payload: payload.to_vec(),
            };
            // Not with others: it is to end when its caller goes away.
            let answer = match DeviceLinkClient::new(way).invoke(request).await {
                Err(status) if status.code() == Code::DeadlineExceeded => {
                    return Ok(Some(Invoked::Unanswered));
                }
                answer => answer?,
            };
            Ok(match answer.into_inner().outcome {
                Some(Outcome::Answer(MethodAnswer { status, payload })) => {
                    Some(Invoked::Answered { status, payload })
                }
                Some(Outcome::NotSubscribed(_)) => Some(Invoked::NotSubscribed),
                Some(Outcome::Absent(_)) | None => None,
            })
        });
        Ok(invoked.await?.unwrap_or(Invoked::NotConnected))
    }

    /// Tells a connected device of its new desired properties. `false`: it is not connected.
    pub async fn notify_desired(
        &self,
        id: &Identity,
        version: u64,
        patch: &[u8],
    ) -> Result<bool, HubError> {
        let told = self.reach(id, NOTIFY_DEADLINE, Dead::Fault, |way, epoch| async move {
            let mut client = DeviceLinkClient::new(way.gathered());
            let request = NotifyDesiredRequest {
                identity: id.as_str().to_owned(),
                epoch,
                version,
                patch: patch.to_vec(),
            };
            Ok(client.notify_desired(request).await?.into_inner().found.then_some(()))
        });
        Ok(told.await?.is_some())
    }

    /// Tells a connected device's gateway that there are C2D messages for it. `false`: it is not
    /// connected.
    pub async fn notify_commands(&self, id: &Identity) -> Result<bool, HubError> {
        let told = self.reach(id, NOTIFY_DEADLINE, Dead::Gone, |way, epoch| async move {
            let mut client = DeviceLinkClient::new(way.gathered());
            let request = NotifyCommandsRequest { identity: id.as_str().to_owned(), epoch };
            Ok(client.notify_commands(request).await?.into_inner().found.then_some(()))
        });
        Ok(told.await?.is_some())
    }

    /// One presence lookup and one call to the gateway it names; both once more if the gateway knows
    /// no such connection (`None`): it has gone, or was taken over since presence was asked.
    async fn reach<T, F>(
        &self,
        id: &Identity,
        deadline: Duration,
        dead: Dead,
        call: impl Fn(MeshChannel, Epoch) -> F,
    ) -> Result<Option<T>, HubError>
    where
        F: Future<Output = Result<Option<T>, tonic::Status>>,
    {
        for _ in 0..TRIES {
            let Some(holder) = self.presence.holder(id).await? else { break };
            match call(self.way(&holder, deadline)?, holder.epoch).await {
                Ok(None) => {}
                Ok(answer) => return Ok(answer),
                Err(status)
                    if dead == Dead::Gone
                        && matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
                        && !self.presence.node_lives(&holder.node).await? =>
                {
                    break;
                }
                Err(status) => return Err(from_status(&status)),
            }
        }
        Ok(None)
    }

    fn way(&self, holder: &Holder, deadline: Duration) -> Result<MeshChannel, HubError> {
        let way = self.mesh.node_channel(&holder.node).ok_or_else(|| {
            HubError::new(ErrorCode::ServerError, "presence names an unknown node")
        })?;
        Ok(way.with_deadline(deadline))
    }
}

#[cfg(test)]
mod tests;
