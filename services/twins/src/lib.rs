//! Device and module twins: what back ends want of a device, and what it reports of itself.

use std::sync::Arc;

use dunlin_proto::v1;
use dunlin_proto::v1::twins_server::{Twins, TwinsServer};
use dunlin_runtime::{Component, DeviceLinks, Role};
use dunlin_storage::DeviceStore;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};

/// What twins need of their surroundings.
pub struct Context {
    pub store: Arc<dyn DeviceStore>,
    /// The way to connected devices, which are told of changes.
    pub links: DeviceLinks,
}

/// Builds the role.
pub fn build(context: Context) -> Component {
    let path = format!("/{}/{{*rest}}", TwinsServer::<Service>::NAME);
    let server = TwinsServer::new(Service { _context: context });
    Component::passive(Role::Twins, axum::Router::new().route_service(&path, server))
}

struct Service {
    _context: Context,
}

#[tonic::async_trait]
impl Twins for Service {
    async fn get_twin(&self, _: Request<v1::GetTwinRequest>) -> Result<Response<v1::Twin>, Status> {
        Err(Status::unimplemented("twins"))
    }

    async fn update_twin(
        &self,
        _: Request<v1::UpdateTwinRequest>,
    ) -> Result<Response<v1::Twin>, Status> {
        Err(Status::unimplemented("twins"))
    }

    async fn get_properties(
        &self,
        _: Request<v1::GetPropertiesRequest>,
    ) -> Result<Response<v1::PropertiesDocument>, Status> {
        Err(Status::unimplemented("twins"))
    }

    async fn update_reported(
        &self,
        _: Request<v1::UpdateReportedRequest>,
    ) -> Result<Response<v1::UpdateReportedResponse>, Status> {
        Err(Status::unimplemented("twins"))
    }
}
