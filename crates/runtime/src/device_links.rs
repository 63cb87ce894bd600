//! `DeviceLinks`: how to reach a connected device. One presence lookup and one call to the gateway
//! that holds it; no broadcast.

use std::sync::Arc;
use std::time::Duration;

use dunlin_model::{ErrorCode, HubError, Identity};
use dunlin_proto::status::from_status;
use dunlin_proto::v1::DisconnectRequest;
use dunlin_proto::v1::device_link_client::DeviceLinkClient;
use dunlin_storage::Presence;
use dunlin_storage::presence::Holder;

use crate::{Mesh, MeshChannel};

/// How long the former holder of an identity is waited for (design §4, connect).
const DISCONNECT_DEADLINE: Duration = Duration::from_secs(1);

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

    /// Whether anybody holds the identity.
    pub async fn held(&self, id: &Identity) -> Result<bool, HubError> {
        Ok(self.presence.holder(id).await?.is_some())
    }

    /// Ends one connection and waits until its gateway has let go of it, 1 s at most. `false` if
    /// that gateway knows no such connection.
    pub async fn disconnect(
        &self,
        id: &Identity,
        holder: &Holder,
        reason: ErrorCode,
    ) -> Result<bool, HubError> {
        let mut client = DeviceLinkClient::new(self.channel(holder)?);
        let request = DisconnectRequest {
            identity: id.as_str().to_owned(),
            epoch: holder.epoch,
            reason: reason.number(),
        };
        let answer = client.disconnect(request).await.map_err(|status| from_status(&status))?;
        Ok(answer.into_inner().found)
    }

    fn channel(&self, holder: &Holder) -> Result<MeshChannel, HubError> {
        self.mesh
            .node_channel(&holder.node)
            .map(|channel| channel.with_deadline(DISCONNECT_DEADLINE))
            .ok_or_else(|| HubError::new(ErrorCode::ServerError, "presence names an unknown node"))
    }
}
