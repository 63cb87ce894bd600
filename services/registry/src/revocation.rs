//! What a change of an identity means to its connections: whoever may no longer connect as he did
//! is disconnected, and a connect that is under way is refused (design §4, connect).

use std::sync::Arc;

use dunlin_model::{ErrorCode, Identity, Status};
use dunlin_runtime::{DeviceLinks, clock};
use dunlin_storage::device_store::StoredIdentity;
use dunlin_storage::{DeviceStore, StoreError};
use futures_util::future::join_all;
use tracing::error;

use crate::store_failed;

/// The auth version of a new identity. Milliseconds, so that an identity that is made again under
/// an old id is newer than whatever was revoked of the old one.
pub(crate) fn first_auth_version() -> u64 {
    u64::try_from(clock::unix_millis()).unwrap_or(1)
}

#[derive(Clone)]
pub(crate) struct Revocation {
    pub store: Arc<dyn DeviceStore>,
    pub links: DeviceLinks,
}

impl Revocation {
    /// After `new` was stored in place of `old`. A disabled device takes its modules with it.
    pub(crate) async fn replaced(&self, old_version: u64, new: &StoredIdentity) {
        if new.auth_version == old_version {
            return;
        }
        if new.id.module_id().is_some() {
            match self.store.identity_get(&device_of(&new.id)).await {
                Ok(Some(device)) => {
                    let version = device.auth_version + new.auth_version;
                    self.revoke(&new.id, version, ErrorCode::IotHubUnauthorized).await;
                }
                // Deleted since, which has revoked its modules.
                Ok(None) => {}
                Err(error) => drop(store_failed(error)),
            }
            return;
        }
        let disabled = new.status == Status::Disabled;
        let reason =
            if disabled { ErrorCode::DeviceDisabled } else { ErrorCode::IotHubUnauthorized };
        self.revoke(&new.id, new.auth_version, reason).await;
        if disabled {
            let modules = self.modules(&new.id).await;
            join_all(modules.iter().map(|module| {
                self.revoke(&module.id, new.auth_version + module.auth_version, reason)
            }))
            .await;
        }
    }

    /// What will be gone with an identity: it, its modules, and the version its modules add to.
    ///
    /// An error is the deletion's: without this its connections could not be ended.
    pub(crate) async fn before_delete(&self, id: &Identity) -> Result<Doomed, StoreError> {
        let device = self.store.identity_get(&device_of(id)).await?;
        Ok(Doomed {
            device_version: device.map_or(0, |device| device.auth_version),
            modules: match id.module_id() {
                None => self.store.module_list(id.device_id()).await?,
                Some(_) => Vec::new(),
            },
        })
    }

    /// After an identity was deleted.
    pub(crate) async fn deleted(&self, id: &Identity, doomed: Doomed) {
        // The clock may have gone back since the identity was made.
        let now = first_auth_version().max(doomed.device_version + 1);
        let of_module = doomed.device_version + now;
        let own = if id.module_id().is_some() { of_module } else { now };
        let reason = ErrorCode::DeviceNotFound;
        let modules =
            doomed.modules.iter().map(|module| self.revoke(&module.id, of_module, reason));
        tokio::join!(self.revoke(id, own, reason), join_all(modules));
    }

    async fn modules(&self, device: &Identity) -> Vec<StoredIdentity> {
        self.store.module_list(device.device_id()).await.unwrap_or_else(|error| {
            drop(store_failed(error));
            Vec::new()
        })
    }

    /// The change itself is stored and stands; a connection that could not be ended is an error
    /// that somebody must know of.
    async fn revoke(&self, id: &Identity, auth_version: u64, reason: ErrorCode) {
        if let Err(error) = self.links.revoke(id, auth_version, reason).await {
            error!(%id, %error, "a revoked identity may still be connected");
        }
    }
}

/// See [`Revocation::before_delete`].
pub(crate) struct Doomed {
    device_version: u64,
    modules: Vec<StoredIdentity>,
}

fn device_of(id: &Identity) -> Identity {
    Identity::device(id.device_id()).expect("part of a valid id")
}
