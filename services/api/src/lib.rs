//! The service-facing REST API: authorization by policy and the error JSON, each in one place.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::any;
use dunlin_auth::Permissions;
use dunlin_proto::v1::methods_client::MethodsClient;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_proto::v1::twins_client::TwinsClient;
use dunlin_runtime::mesh::MeshError;
use dunlin_runtime::{Component, Health, Mesh, Role, Shutdown};
use dunlin_storage::EventLog;

use guard::Guard;

mod body;
mod error;
mod etag;
mod events;
mod guard;
mod identity;
mod methods;
mod named;
mod policies;
mod twins;

/// What reads bytes of strangers, for `fuzz/`.
#[doc(hidden)]
pub mod fuzzing {
    /// Whether a body is taken for the identity `device` (or `device/module`).
    pub fn identity(body: &[u8], device: &str, module: Option<&str>) -> bool {
        crate::identity::reads(body, device, module)
    }
}

/// Where the gateway's front door puts the paths that come from outside. Routers of several roles
/// are merged, so this prefix is what keeps outside paths apart from gRPC services: whatever a
/// client asks for, it asks below this.
pub const PREFIX: &str = "/rest";

/// A body larger than this is refused unread (413001).
const BODY_BYTES: usize = 1 << 20;

/// What the API needs of its surroundings.
pub struct Context {
    pub mesh: Mesh,
    pub events: Arc<dyn EventLog>,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the api role cannot reach another")]
    Mesh(#[from] MeshError),
}

/// Builds the role.
pub fn build(context: Context) -> Result<Component, BuildError> {
    let registry = RegistryClient::new(context.mesh.channel(Role::Registry)?);
    let twins = twins::router(TwinsClient::new(context.mesh.channel(Role::Twins)?));
    let methods = context.mesh.channel(Role::Methods)?.with_deadline(methods::DEADLINE);
    let twins = twins.merge(methods::router(MethodsClient::new(methods)));
    let streams = Shutdown::new();
    let events = events::Events { log: context.events, shutdown: streams.clone() };
    let health = Health::new(Role::Api.name());
    health.set_ready(true);
    Ok(Component {
        role: Role::Api,
        routes: router(registry, twins, events),
        health,
        run: Box::new(|shutdown| {
            Box::pin(async move {
                shutdown.cancelled().await;
                streams.cancel();
                Ok(())
            })
        }),
    })
}

fn router(
    registry: RegistryClient<dunlin_runtime::MeshChannel>,
    twins: Router,
    events: events::Events,
) -> Router {
    let identities = Guard {
        registry: registry.clone(),
        read: Permissions::REGISTRY_READ,
        write: Permissions::REGISTRY_WRITE,
        versioned: true,
        by_query: false,
    };
    let serving = Guard {
        read: Permissions::SERVICE_CONNECT,
        write: Permissions::SERVICE_CONNECT,
        ..identities.clone()
    };
    let monitoring = Guard {
        registry: registry.clone(),
        read: Permissions::SERVICE_CONNECT,
        write: Permissions::SERVICE_CONNECT,
        versioned: false,
        by_query: true,
    };
    let managing = Guard {
        registry: registry.clone(),
        read: policies::MANAGE,
        write: policies::MANAGE,
        versioned: false,
        by_query: false,
    };
    let tokens = events::token::router(registry.clone());
    let policies =
        policies::router(registry.clone()).route_layer(from_fn_with_state(managing, guard::check));
    let rest = identity::router(registry)
        .route_layer(from_fn_with_state(identities, guard::check))
        .merge(twins.route_layer(from_fn_with_state(serving, guard::check)))
        .merge(policies)
        .merge(tokens)
        .merge(events::router(events).route_layer(from_fn_with_state(monitoring, guard::check)))
        .method_not_allowed_fallback(error::method_not_allowed)
        .fallback(error::not_found)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(from_fn(error::reshape));
    // Nesting leaves out the bare prefix with a slash, which is the outside path `/`.
    Router::new().nest(PREFIX, rest).route(&format!("{PREFIX}/"), any(error::not_found))
}

#[cfg(test)]
mod tests;
