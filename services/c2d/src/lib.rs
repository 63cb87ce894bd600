//! Cloud-to-device messages: a queue per device, and feedback.

use dunlin_proto::v1;
use dunlin_proto::v1::c2d_server::{C2d, C2dServer};
use dunlin_runtime::{Component, DeviceLinks, Role};
use tonic::server::NamedService;
use tonic::{Request, Response, Status};

/// What the role needs of its surroundings.
pub struct Context {
    /// The way to connected devices, which are told that there is something for them.
    pub links: DeviceLinks,
}

/// Builds the role.
pub fn build(context: Context) -> Component {
    let path = format!("/{}/{{*rest}}", C2dServer::<Service>::NAME);
    let server = C2dServer::new(Service { _links: context.links });
    Component::passive(Role::C2d, axum::Router::new().route_service(&path, server))
}

struct Service {
    _links: DeviceLinks,
}

#[tonic::async_trait]
impl C2d for Service {
    async fn send_command(
        &self,
        _: Request<v1::SendCommandRequest>,
    ) -> Result<Response<v1::SendCommandResponse>, Status> {
        Err(Status::unimplemented("c2d"))
    }

    async fn lease_commands(
        &self,
        _: Request<v1::LeaseCommandsRequest>,
    ) -> Result<Response<v1::LeaseCommandsResponse>, Status> {
        Err(Status::unimplemented("c2d"))
    }

    async fn settle_commands(
        &self,
        _: Request<v1::SettleCommandsRequest>,
    ) -> Result<Response<v1::SettleCommandsResponse>, Status> {
        Err(Status::unimplemented("c2d"))
    }

    async fn release_commands(
        &self,
        _: Request<v1::ReleaseCommandsRequest>,
    ) -> Result<Response<v1::ReleaseCommandsResponse>, Status> {
        Err(Status::unimplemented("c2d"))
    }

    async fn purge_commands(
        &self,
        _: Request<v1::PurgeCommandsRequest>,
    ) -> Result<Response<v1::PurgeCommandsResponse>, Status> {
        Err(Status::unimplemented("c2d"))
    }

    async fn count_commands(
        &self,
        _: Request<v1::CountCommandsRequest>,
    ) -> Result<Response<v1::CountCommandsResponse>, Status> {
        Err(Status::unimplemented("c2d"))
    }

    async fn lease_feedback(
        &self,
        _: Request<v1::LeaseFeedbackRequest>,
    ) -> Result<Response<v1::LeaseFeedbackResponse>, Status> {
        Err(Status::unimplemented("c2d"))
    }

    async fn settle_feedback(
        &self,
        _: Request<v1::SettleFeedbackRequest>,
    ) -> Result<Response<v1::SettleFeedbackResponse>, Status> {
        Err(Status::unimplemented("c2d"))
    }
}
