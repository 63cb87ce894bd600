//! The identity registry: devices, modules, shared access policies, CAs, and who may do what. Keys of
//! devices never leave it but to who manages them; stores see ciphertext only.

use std::sync::Arc;

use dunlin_model::twin::Limits;
use dunlin_model::{ErrorCode, HubError, Identity};
use dunlin_proto::v1::registry_server::RegistryServer;
use dunlin_runtime::telemetry::carried;
use dunlin_runtime::{Component, DeviceLinks, Role};
use dunlin_storage::{DeviceStore, Presence, StoreError};
use tonic::server::NamedService;
use tower::Service;
use tracing::error;

mod access;
mod authorities;
mod bulk;
mod connections;
mod credentials;
mod identities;
mod policies;
mod query_token;
mod random;
mod reaper;
mod revocation;
mod seal;
mod service;
mod setting;
mod validate;

pub use seal::{MasterKey, Unsealable};

/// For tests of other crates.
#[doc(hidden)]
pub mod testing {
    /// A query token of this hub whose minute is long over.
    pub fn expired_query_token(
        key: &crate::MasterKey,
        path: &str,
        policy: &dunlin_auth::Policy,
    ) -> String {
        crate::query_token::issue(key, path, policy, 1_000_000_000)
    }
}

#[derive(Clone, Debug)]
pub struct Config {
    /// All names of this hub: a SAS token may be made out to any of them.
    pub hostnames: Vec<String>,
    /// What the twin of a new identity may hold.
    pub twins: Limits,
}

/// What the registry needs of its surroundings.
pub struct Context {
    pub config: Config,
    pub store: Arc<dyn DeviceStore>,
    /// The way to connected devices: a revoked one is told to drop.
    pub links: DeviceLinks,
    /// Who knows which gateways live.
    pub presence: Arc<dyn Presence>,
    pub master_key: MasterKey,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot read the hub's settings")]
    Store(#[from] StoreError),
    #[error(
        "the master key does not fit this store: start it with the one that it was first started \
         with (DUNLIN_MASTER_KEY, or master.key in the data folder)"
    )]
    MasterKey(#[from] Unsealable),
}

/// Builds the role; a new store gets its policies here.
pub async fn build(context: Context) -> Result<Component, BuildError> {
    let Context { config, store, links, presence, master_key } = context;
    let reaper = reaper::Reaper::new(store.clone(), presence);
    let policies = policies::Policies::load(store.clone(), master_key.clone()).await?;
    let authorities = authorities::Authorities::load(store.clone(), master_key.clone()).await?;
    let revocation = revocation::Revocation { store: store.clone(), links };
    let identities =
        identities::Identities { store, key: master_key, twins: config.twins, revocation };
    let access = access::Access { hostnames: config.hostnames, policies, authorities, identities };
    let server = RegistryServer::new(service::Service { access });
    // As tonic's `Routes` does it, without a fallback: routers of several roles are merged. Each
    // call is a task of its own, which goes on when its caller goes away: what has been stored
    // must also be carried out (a disabled device be disconnected).
    let service = tower::service_fn(move |request: axum::extract::Request| {
        let mut server = server.clone();
        let call = async move { server.call(request.map(tonic::body::Body::new)).await };
        let call = tokio::spawn(carried(call));
        async move {
            Ok::<_, std::convert::Infallible>(match call.await {
                Ok(Ok(response)) => response,
                Err(error) => {
                    error!(%error, "a call died: please report this");
                    tonic::Status::internal("the call died").into_http()
                }
            })
        }
    });
    let path = format!("/{}/{{*rest}}", RegistryServer::<service::Service>::NAME);
    let routes = axum::Router::new().route_service(&path, service);
    let run = Box::new(|shutdown| Box::pin(reaper.run(shutdown)) as _);
    Ok(Component { run, ..Component::passive(Role::Registry, routes) })
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
