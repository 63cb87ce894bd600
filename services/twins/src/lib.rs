//! Device and module twins: what back ends want of a device, and what it reports of itself.

use std::sync::Arc;

use dunlin_model::twin::Limits;
use dunlin_proto::v1::twins_server::TwinsServer;
use dunlin_runtime::{Component, DeviceLinks, Role};
use dunlin_storage::TwinStore;
use tonic::server::NamedService;

mod service;
mod tells;
mod wire;

/// What twins need of their surroundings.
pub struct Context {
    pub limits: Limits,
    pub store: Arc<dyn TwinStore>,
    /// The way to connected devices, which are told of changes.
    pub links: DeviceLinks,
}

/// Builds the role.
pub fn build(context: Context) -> Component {
    let path = format!("/{}/{{*rest}}", TwinsServer::<service::Service>::NAME);
    let server = TwinsServer::new(service::Service::new(context));
    Component::passive(Role::Twins, axum::Router::new().route_service(&path, server))
}
