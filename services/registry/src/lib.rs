//! The identity registry: devices, modules, shared access policies, and who may do what. Keys of
//! devices never leave it but to who manages them; stores see ciphertext only.

use std::sync::Arc;

use dunlin_model::{ErrorCode, HubError, Identity};
use dunlin_proto::v1::registry_server::RegistryServer;
use dunlin_runtime::{Component, DeviceLinks, Role};
use dunlin_storage::{DeviceStore, StoreError};
use tonic::server::NamedService;
use tower::ServiceExt;
use tracing::error;

mod access;
mod credentials;
mod identities;
mod policies;
mod random;
mod revocation;
mod seal;
mod service;
mod validate;

pub use seal::{MasterKey, Unsealable};

#[derive(Clone, Debug)]
pub struct Config {
    /// All names of this hub: a SAS token may be made out to any of them.
    pub hostnames: Vec<String>,
}

/// What the registry needs of its surroundings.
pub struct Context {
    pub config: Config,
    pub store: Arc<dyn DeviceStore>,
    /// The way to connected devices: a revoked one is told to drop.
    pub links: DeviceLinks,
    pub master_key: MasterKey,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot read the hub's policies")]
    Store(#[from] StoreError),
    #[error("the master key does not fit this store")]
    MasterKey(#[from] Unsealable),
}

/// Builds the role; a new store gets its policies here.
pub async fn build(context: Context) -> Result<Component, BuildError> {
    let Context { config, store, links, master_key } = context;
    let policies = policies::Policies::load(&*store, &master_key).await?;
    let revocation = revocation::Revocation { store: store.clone(), links };
    let identities = identities::Identities { store, key: master_key, revocation };
    let access = access::Access { hostnames: config.hostnames, policies, identities };
    let server = RegistryServer::new(service::Service { access });
    // As tonic's `Routes` does it, without a fallback: routers of several roles are merged.
    let routes = axum::Router::new().route_service(
        &format!("/{}/{{*rest}}", RegistryServer::<service::Service>::NAME),
        server.map_request(|request: axum::extract::Request| request.map(tonic::body::Body::new)),
    );
    Ok(Component::passive(Role::Registry, routes))
}

/// Logs the cause, which the caller is not told.
fn store_failed(error: StoreError) -> HubError {
    error!(error = &error as &dyn std::error::Error, "the device store failed");
    error.into()
}

fn unsealable(id: &Identity, error: Unsealable) -> HubError {
    error!(%id, %error, "credentials cannot be read");
    HubError::new(ErrorCode::ServerError, format!("the credentials of {id} cannot be read"))
}
