//! `DeviceLink`: the gRPC service through which others reach the devices of this process.

use std::sync::Arc;

use dunlin_model::{ErrorCode, HubError, Identity};
use dunlin_proto::status::to_status;
use dunlin_proto::v1::device_link_server::{DeviceLink, DeviceLinkServer};
use dunlin_proto::v1::invoke_response::Outcome;
use dunlin_proto::v1::{
    Absent, DisconnectRequest, DisconnectResponse, InvokeRequest, InvokeResponse,
    NotifyCommandsRequest, NotifyCommandsResponse, NotifyDesiredRequest, NotifyDesiredResponse,
};
use tokio::sync::oneshot;
use tonic::server::NamedService;
use tonic::{Request, Response, Status, async_trait};

use crate::gateway::{Gateway, disconnect};
use crate::queue::{Call, Message};

/// The service as routes for the mesh.
pub fn routes(gateway: Arc<Gateway>) -> axum::Router {
    let path = format!("/{}/{{*rest}}", DeviceLinkServer::<Links>::NAME);
    axum::Router::new().route_service(&path, DeviceLinkServer::new(Links(gateway)))
}

struct Links(Arc<Gateway>);

#[async_trait]
impl DeviceLink for Links {
    async fn disconnect(
        &self,
        request: Request<DisconnectRequest>,
    ) -> Result<Response<DisconnectResponse>, Status> {
        let request = request.into_inner();
        let identity = Identity::parse(&request.identity).map_err(to_status)?;
        let reason = ErrorCode::from_number(request.reason)
            .unwrap_or(ErrorCode::DeviceConnectionClosedRemotely);
        let address = self.0.table.find(&identity, request.epoch);
        if let Some(address) = &address {
            disconnect(address, reason).await;
        }
        Ok(Response::new(DisconnectResponse { found: address.is_some() }))
    }

    async fn invoke(
        &self,
        request: Request<InvokeRequest>,
    ) -> Result<Response<InvokeResponse>, Status> {
        let InvokeRequest { identity, epoch, method, payload } = request.into_inner();
        let identity = Identity::parse(&identity).map_err(to_status)?;
        let outcome = match self.0.table.connected(&identity, epoch) {
            None => Outcome::Absent(Absent {}),
            Some(address) => {
                let (answer, answered) = oneshot::channel();
                let call = Call { method, payload, answer };
                address.queue.tell(address.key, Message::Invoke(call));
                // It goes with its connection.
                let gone = |_| {
                    Err(HubError::new(
                        ErrorCode::DeviceConnectionClosedRemotely,
                        "the device went away before it answered",
                    ))
                };
                answered.await.unwrap_or_else(gone).map_err(to_status)?
            }
        };
        Ok(Response::new(InvokeResponse { outcome: Some(outcome) }))
    }

    async fn notify_commands(
        &self,
        request: Request<NotifyCommandsRequest>,
    ) -> Result<Response<NotifyCommandsResponse>, Status> {
        let NotifyCommandsRequest { identity, epoch } = request.into_inner();
        let identity = Identity::parse(&identity).map_err(to_status)?;
        let address = self.0.table.connected(&identity, epoch);
        if let Some(address) = &address {
            address.queue.tell(address.key, Message::Commands);
        }
        Ok(Response::new(NotifyCommandsResponse { found: address.is_some() }))
    }

    async fn notify_desired(
        &self,
        request: Request<NotifyDesiredRequest>,
    ) -> Result<Response<NotifyDesiredResponse>, Status> {
        let NotifyDesiredRequest { identity, epoch, version, patch } = request.into_inner();
        let identity = Identity::parse(&identity).map_err(to_status)?;
        let address = self.0.table.connected(&identity, epoch);
        if let Some(address) = &address {
            address.queue.tell(address.key, Message::Desired { version, patch });
        }
        Ok(Response::new(NotifyDesiredResponse { found: address.is_some() }))
    }
}
