//! `DeviceLink`: the gRPC service through which others reach the devices of this process.

use std::sync::Arc;

use dunlin_model::{ErrorCode, Identity};
use dunlin_proto::status::to_status;
use dunlin_proto::v1::device_link_server::{DeviceLink, DeviceLinkServer};
use dunlin_proto::v1::{
    DisconnectRequest, DisconnectResponse, InvokeRequest, InvokeResponse, NotifyDesiredRequest,
    NotifyDesiredResponse,
};
use tonic::server::NamedService;
use tonic::{Request, Response, Status, async_trait};

use crate::gateway::{Gateway, disconnect};

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

    async fn invoke(&self, _: Request<InvokeRequest>) -> Result<Response<InvokeResponse>, Status> {
        Err(Status::unimplemented("methods"))
    }

    async fn notify_desired(
        &self,
        _: Request<NotifyDesiredRequest>,
    ) -> Result<Response<NotifyDesiredResponse>, Status> {
        Err(Status::unimplemented("twins"))
    }
}
