//! Direct methods: find the gateway that holds the device, call, wait. Nothing is kept.

use dunlin_proto::v1;
use dunlin_proto::v1::methods_server::{Methods, MethodsServer};
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::mesh::MeshError;
use dunlin_runtime::{Component, DeviceLinks, Mesh, MeshChannel, Role};
use tonic::server::NamedService;
use tonic::{Request, Response, Status};

/// What methods need of their surroundings.
pub struct Context {
    pub mesh: Mesh,
    pub links: DeviceLinks,
}

/// Builds the role.
pub fn build(context: Context) -> Result<Component, MeshError> {
    let registry = RegistryClient::new(context.mesh.channel(Role::Registry)?);
    let path = format!("/{}/{{*rest}}", MethodsServer::<Service>::NAME);
    let server = MethodsServer::new(Service { _registry: registry, _links: context.links });
    Ok(Component::passive(Role::Methods, axum::Router::new().route_service(&path, server)))
}

struct Service {
    _registry: RegistryClient<MeshChannel>,
    _links: DeviceLinks,
}

#[tonic::async_trait]
impl Methods for Service {
    async fn invoke_method(
        &self,
        _: Request<v1::InvokeMethodRequest>,
    ) -> Result<Response<v1::InvokeMethodResponse>, Status> {
        Err(Status::unimplemented("methods"))
    }
}
