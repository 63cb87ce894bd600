//! What a change of an identity means to its connections: whoever may no longer connect as he did
//! is disconnected, and a connect that is under way is refused (design §4, connect).

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use dunlin_model::{ErrorCode, HubError, Identity, Status};
use dunlin_runtime::{DeviceLinks, clock};
use dunlin_storage::device_store::{Removed, StoredIdentity};
use dunlin_storage::presence::Holder;
use dunlin_storage::{DeviceStore, StoreError};
use futures_util::future::join_all;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::store_failed;

/// The auth version of a new identity. Milliseconds, so that an identity that is made again under
/// an old id is newer than whatever was revoked of the old one.
pub(crate) fn first_auth_version() -> u64 {
    u64::try_from(clock::unix_millis()).unwrap_or(1)
}

/// Between two attempts; each a little by chance, lest all come at the same moment. For a day: a
/// gateway that has been away for so long does not come back.
const AGAIN: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(5))
    .without_max_times()
    .with_total_delay(Some(Duration::from_secs(24 * 3_600)));

#[derive(Clone)]
pub(crate) struct Revocation {
    pub store: Arc<dyn DeviceStore>,
    pub links: DeviceLinks,
}

/// Whose connections end, and how far that has come.
struct Revoked {
    id: Identity,
    auth_version: u64,
    reason: ErrorCode,
    /// Known once the marker is set. Who claims after that was authenticated anew, and is not meant.
    holder: Option<Holder>,
}

impl Revocation {
    /// After `new` was stored in place of an `old_version`. A disabled device takes its modules with
    /// it.
    pub(crate) async fn replaced(&self, old_version: u64, new: &StoredIdentity) {
        if new.auth_version == old_version {
            return;
        }
        let concerned = match self.concerned(new).await {
            Ok(concerned) => concerned,
            Err(error) => {
                drop(store_failed(error));
                let (this, new) = (self.clone(), new.clone());
                tokio::spawn(async move {
                    for pause in AGAIN.build() {
                        sleep(pause).await;
                        if let Ok(concerned) = this.concerned(&new).await {
                            return this.all(concerned).await;
                        }
                    }
                    error!(id = %new.id, "a revoked identity may still be connected");
                });
                return;
            }
        };
        self.all(concerned).await;
    }

    /// Whom a change of this identity's status or credentials concerns.
    async fn concerned(&self, new: &StoredIdentity) -> Result<Vec<Revoked>, StoreError> {
        if new.id.module_id().is_some() {
            // Without its device it was deleted since, which has revoked it.
            let device = self.store.identity_get(&device_of(&new.id)).await?;
            let version = device.map(|device| device.auth_version + new.auth_version);
            let one = |version| Revoked::new(&new.id, version, ErrorCode::IotHubUnauthorized);
            return Ok(version.map(one).into_iter().collect());
        }
        let disabled = new.status == Status::Disabled;
        let reason =
            if disabled { ErrorCode::DeviceDisabled } else { ErrorCode::IotHubUnauthorized };
        let mut concerned = vec![Revoked::new(&new.id, new.auth_version, reason)];
        if disabled {
            let modules = self.store.module_list(new.id.device_id()).await?;
            concerned.extend(modules.iter().map(|module| {
                Revoked::new(&module.id, new.auth_version + module.auth_version, reason)
            }));
        }
        Ok(concerned)
    }

    /// After identities were deleted. Each marker is above what its connection was authenticated at.
    pub(crate) async fn deleted(&self, removed: &Removed) {
        let now = first_auth_version();
        let concerned = removed.identities.iter().map(|gone| {
            // The clock may have gone back since the identity was made.
            let own = now.max(gone.auth_version + 1);
            let version = match gone.id.module_id() {
                Some(_) => removed.device_version + own,
                None => own,
            };
            Revoked::new(&gone.id, version, ErrorCode::DeviceNotFound)
        });
        self.all(concerned.collect()).await;
    }

    /// At once: a gateway that does not answer must not hold up the others' disconnects.
    async fn all(&self, concerned: Vec<Revoked>) {
        join_all(concerned.into_iter().map(|revoked| self.revoke(revoked))).await;
    }

    /// The change itself is stored and stands, so what cannot be done now is repeated until it is
    /// done; the caller waits for the first attempt alone. A task each: a gateway that hangs holds
    /// up no other's.
    async fn revoke(&self, mut revoked: Revoked) {
        let Err(error) = revoked.attempt(&self.links).await else { return };
        warn!(id = %revoked.id, %error, "a revoked identity may still be connected: trying again");
        let links = self.links.clone();
        tokio::spawn(async move {
            for pause in AGAIN.build() {
                sleep(pause).await;
                match revoked.again(&links).await {
                    Ok(()) => return info!(id = %revoked.id, "the revocation is carried out"),
                    Err(error) => debug!(id = %revoked.id, %error, "revocation: trying again"),
                }
            }
            error!(id = %revoked.id, "given up: a revoked identity may still be connected");
        });
    }
}

impl Revoked {
    fn new(id: &Identity, auth_version: u64, reason: ErrorCode) -> Self {
        Self { id: id.clone(), auth_version, reason, holder: None }
    }

    /// Sets the marker, and has the holder let go.
    async fn attempt(&mut self, links: &DeviceLinks) -> Result<(), HubError> {
        self.holder = links.revoke(&self.id, self.auth_version).await?;
        self.disconnect(links).await
    }

    /// Goes on where the last attempt failed. A holder that presence knows no more is gone; who holds
    /// the identity in its place has claimed it after the change.
    async fn again(&mut self, links: &DeviceLinks) -> Result<(), HubError> {
        if self.holder.is_none() {
            return self.attempt(links).await;
        }
        let Err(error) = self.disconnect(links).await else { return Ok(()) };
        if links.holder(&self.id).await? == self.holder { Err(error) } else { Ok(()) }
    }

    async fn disconnect(&self, links: &DeviceLinks) -> Result<(), HubError> {
        match &self.holder {
            Some(holder) => links.disconnect(&self.id, holder, self.reason).await.map(drop),
            None => Ok(()),
        }
    }
}

fn device_of(id: &Identity) -> Identity {
    Identity::device(id.device_id()).expect("part of a valid id")
}
