//! The service-facing REST API: authorization by policy and the error JSON, each in one place.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::any;
use dunlin_proto::v1::c2d_client::C2dClient;
use dunlin_proto::v1::methods_client::MethodsClient;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_proto::v1::twins_client::TwinsClient;
use dunlin_runtime::mesh::MeshError;
use dunlin_runtime::{Component, Health, Mesh, MeshChannel, Role, Shutdown};
use dunlin_storage::EventLog;

mod answer;
mod body;
mod c2d;
mod certificates;
mod error;
mod etag;
mod events;
mod feedback;
mod guard;
mod identity;
mod methods;
mod metrics;
mod named;
mod policies;
mod routes;
mod twins;

pub use routes::{Row, TABLE};

/// What reads bytes of strangers, for `fuzz/`.
#[doc(hidden)]
pub mod fuzzing {
    /// Whether a body is taken for the identity `device` (or `device/module`).
    pub fn identity(body: &[u8], device: &str, module: Option<&str>) -> bool {
        crate::identity::reads(body, device, module)
    }

    /// How many rows of a bulk body would be handed to the registry; `None`: the body is refused.
    pub fn bulk(body: &[u8]) -> Option<usize> {
        crate::identity::reads_rows(body)
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
    let registry = RegistryClient::new(context.mesh.channel(Role::Registry)?.gathered());
    let twins = TwinsClient::new(context.mesh.channel(Role::Twins)?);
    let methods = context.mesh.channel(Role::Methods)?.with_deadline(methods::DEADLINE);
    let methods = MethodsClient::new(methods);
    let c2d = C2dClient::new(context.mesh.channel(Role::C2d)?.gathered());
    let streams = Shutdown::new();
    let events = events::Events { log: context.events, shutdown: streams.clone() };
    let metrics = metrics::Metrics::new();
    let measured = metrics.registry();
    let health = Health::new(Role::Api.name());
    health.set_ready(true);
    Ok(Component {
        role: Role::Api,
        routes: router(registry, twins, methods, c2d, events, metrics),
        health,
        metrics: measured,
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
    registry: RegistryClient<MeshChannel>,
    twins: TwinsClient<MeshChannel>,
    methods: MethodsClient<MeshChannel>,
    c2d: C2dClient<MeshChannel>,
    events: events::Events,
    metrics: metrics::Metrics,
) -> Router {
    let rest = identity::routes(registry.clone(), twins.clone(), c2d.clone())
        .merge(twins::routes(registry.clone(), twins, c2d.clone()))
        .merge(c2d::routes(registry.clone(), c2d.clone()))
        .merge(feedback::routes(registry.clone(), c2d))
        .merge(methods::routes(registry.clone(), methods))
        .merge(policies::routes(registry.clone()))
        .merge(certificates::routes(registry.clone()))
        .merge(events::token::routes(registry.clone()))
        .merge(events::routes(registry, events))
        .whole()
        .method_not_allowed_fallback(error::method_not_allowed)
        .fallback(error::not_found)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(from_fn(error::reshape))
        .layer(from_fn_with_state(metrics, metrics::measure));
    // Nesting leaves out the bare prefix with a slash, which is the outside path `/`.
    Router::new().nest(PREFIX, rest).route(&format!("{PREFIX}/"), any(error::not_found))
}

#[cfg(test)]
mod tests;
