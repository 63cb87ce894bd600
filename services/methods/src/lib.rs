//! Direct methods: check the call, find the gateway that holds the device, call, wait. Nothing is
//! kept (docs/methods.md).

use std::time::Duration;

use dunlin_model::limits;
use dunlin_proto::v1::methods_server::MethodsServer;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::mesh::MeshError;
use dunlin_runtime::{Component, DeviceLinks, Mesh, Role};
use serde::{Deserialize, Serialize};
use tonic::server::NamedService;

mod call;
mod metrics;
mod service;

/// Less than the shortest call may take, so that the caller hears of it.
const REGISTRY_DEADLINE: Duration = Duration::from_secs(3);

/// Direct methods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The longest `responseTimeoutInSeconds` a call may have: 300, as IoT Hub has it, to 3600.
    pub max_response_seconds: u32,
    /// Bytes of a call's payload, and of its answer's: 131072, as IoT Hub has it, down to the 8192 of
    /// 2017.
    pub payload_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_response_seconds: *limits::METHOD_RESPONSE_SECONDS.end(),
            payload_bytes: *limits::METHOD_PAYLOAD_BYTES.end(),
        }
    }
}

/// What methods need of their surroundings.
pub struct Context {
    pub config: Config,
    pub mesh: Mesh,
    pub links: DeviceLinks,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the methods role cannot reach the registry")]
    Registry(#[from] MeshError),
    #[error("methods.max_response_seconds is {0}; it may be 300 to 3600")]
    MaxResponse(u32),
    #[error("methods.payload_bytes is {0}; it may be 8192 to 131072")]
    PayloadBytes(usize),
}

/// Builds the role.
pub fn build(context: Context) -> Result<Component, BuildError> {
    let Context { config, mesh, links } = context;
    let longest = config.max_response_seconds;
    let shortest = *limits::METHOD_RESPONSE_SECONDS.end();
    if !(shortest..=limits::METHOD_RESPONSE_SECONDS_RAISED).contains(&longest) {
        return Err(BuildError::MaxResponse(longest));
    }
    if !limits::METHOD_PAYLOAD_BYTES.contains(&config.payload_bytes) {
        return Err(BuildError::PayloadBytes(config.payload_bytes));
    }
    let registry = mesh.channel(Role::Registry)?.with_deadline(REGISTRY_DEADLINE);
    let registry = RegistryClient::new(registry);
    let path = format!("/{}/{{*rest}}", MethodsServer::<service::Service>::NAME);
    let metrics = metrics::Metrics::new();
    let measured = metrics.registry();
    let server = MethodsServer::new(service::Service::new(config, registry, links, metrics));
    let routes = axum::Router::new().route_service(&path, server);
    Ok(Component { metrics: measured, ..Component::passive(Role::Methods, routes) })
}
