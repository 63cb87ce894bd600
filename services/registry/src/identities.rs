//! The life of an identity: create, read, replace, delete.

use std::sync::Arc;

use dunlin_auth::Key;
use dunlin_model::limits::LIST_DEVICES;
use dunlin_model::{
    Authentication, DeviceIdentity, ErrorCode, HubError, Identity, KeyPair, Status,
};
use dunlin_runtime::clock::unix_millis;
use dunlin_storage::device_store::{IfMatch, StoredIdentity};
use dunlin_storage::{DeviceStore, StoreError};
use tracing::info;

use crate::revocation::{Revocation, first_auth_version};
use crate::seal::MasterKey;
use crate::{credentials, random, store_failed, unsealable, validate};

/// What a client writes: a field it leaves out is `None`.
pub(crate) struct Written {
    pub id: Identity,
    pub status: Option<Status>,
    pub status_reason: Option<String>,
    pub authentication: Option<Authentication>,
}

impl Written {
    /// With a new ETag, and these for what was left out.
    fn complete(&self, status: Status, authentication: Authentication) -> DeviceIdentity {
        DeviceIdentity {
            id: self.id.clone(),
            generation_id: String::new(),
            etag: random::etag(),
            status: self.status.unwrap_or(status),
            status_reason: self.status_reason.clone(),
            status_updated: 0,
            authentication: self.authentication.clone().unwrap_or(authentication),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Identities {
    pub store: Arc<dyn DeviceStore>,
    pub key: MasterKey,
    pub revocation: Revocation,
}

impl Identities {
    pub(crate) async fn create(&self, written: Written) -> Result<DeviceIdentity, HubError> {
        let none = Authentication::Sas(KeyPair::default());
        let mut new = written.complete(Status::Enabled, none);
        validate::identity(&new)?;
        new.generation_id = random::generation_id();
        fill_keys(&mut new.authentication, KeyPair::default());
        let stored = StoredIdentity {
            id: new.id.clone(),
            generation_id: new.generation_id.clone(),
            etag: new.etag.clone(),
            status: new.status,
            status_reason: new.status_reason.clone(),
            status_updated: new.status_updated,
            auth_type: new.authentication.type_name().to_owned(),
            credentials: credentials::seal(&self.key, &new.id, &new.authentication),
            auth_version: first_auth_version(),
        };
        let is_module = new.id.module_id().is_some();
        match self.store.identity_create(stored).await {
            Ok(()) => {
                info!(id = %new.id, "identity created");
                Ok(new)
            }
            Err(StoreError::AlreadyExists) if is_module => Err(HubError::new(
                ErrorCode::ModuleAlreadyExistsOnDevice,
                format!("the module {} exists already", new.id),
            )),
            Err(StoreError::AlreadyExists) => Err(HubError::new(
                ErrorCode::DeviceAlreadyExists,
                format!("a device with the id {} is already registered", new.id),
            )),
            // Only a module can lack something: its device.
            Err(StoreError::NotFound) => Err(device_not_found(new.id.device_id())),
            Err(other) => Err(store_failed(other)),
        }
    }

    pub(crate) async fn get(&self, id: &Identity) -> Result<DeviceIdentity, HubError> {
        self.reveal(self.stored(id).await?)
    }

    /// A `top` outside of what a page holds means a full page.
    pub(crate) async fn list_devices(&self, top: usize) -> Result<Vec<DeviceIdentity>, HubError> {
        let top = if (1..=LIST_DEVICES).contains(&top) { top } else { LIST_DEVICES };
        let stored = self.store.device_list(top).await.map_err(store_failed)?;
        stored.into_iter().map(|one| self.reveal(one)).collect()
    }

    pub(crate) async fn list_modules(
        &self,
        device: &Identity,
    ) -> Result<Vec<DeviceIdentity>, HubError> {
        let stored = self.store.module_list(device.as_str()).await.map_err(store_failed)?;
        if stored.is_empty() {
            // No modules, or no device?
            self.stored(device).await?;
        }
        stored.into_iter().map(|one| self.reveal(one)).collect()
    }

    /// Replaces what a client may write. What it leaves out of `status` and `authentication` stays:
    /// a back end that updates one field of a device must not re-enable it, nor lock it out by
    /// rotating its keys.
    pub(crate) async fn replace(
        &self,
        written: Written,
        if_match: IfMatch,
    ) -> Result<DeviceIdentity, HubError> {
        let id = &written.id;
        loop {
            let old = self.stored(id).await?;
            if !if_match.matches(&old.etag) {
                return Err(precondition_failed(id));
            }
            let old_authentication =
                credentials::open(&self.key, &old).map_err(|error| unsealable(id, error))?;
            let mut new = written.complete(old.status, old_authentication.clone());
            validate::identity(&new)?;
            let old_keys = match &old_authentication {
                Authentication::Sas(keys) => keys.clone(),
                _ => KeyPair::default(),
            };
            fill_keys(&mut new.authentication, old_keys);
            new.status_updated =
                if new.status == old.status { old.status_updated } else { unix_millis() };
            let stored = StoredIdentity {
                id: id.clone(),
                generation_id: old.generation_id,
                etag: new.etag,
                status: new.status,
                status_reason: new.status_reason,
                status_updated: new.status_updated,
                auth_type: new.authentication.type_name().to_owned(),
                // Sealing anew would make unchanged keys differ, which revokes connections.
                credentials: if new.authentication == old_authentication {
                    old.credentials
                } else {
                    credentials::seal(&self.key, id, &new.authentication)
                },
                auth_version: old.auth_version,
            };
            // What was read above decided what to write, so nobody may have written in between.
            match self.store.identity_replace(stored, IfMatch::Etag(old.etag)).await {
                Ok(stored) => {
                    info!(%id, "identity replaced");
                    self.revocation.replaced(old.auth_version, &stored).await;
                    return self.reveal(stored);
                }
                Err(StoreError::PreconditionFailed) => {}
                Err(StoreError::NotFound) => return Err(not_found(id)),
                Err(other) => return Err(store_failed(other)),
            }
        }
    }

    pub(crate) async fn delete(&self, id: &Identity, if_match: IfMatch) -> Result<(), HubError> {
        let doomed = self.revocation.before_delete(id).await;
        match self.store.identity_delete(id, if_match).await {
            Ok(()) => {
                info!(%id, "identity deleted");
                self.revocation.deleted(id, doomed).await;
                Ok(())
            }
            Err(StoreError::NotFound) => Err(self.missing(id).await),
            Err(StoreError::PreconditionFailed) => Err(precondition_failed(id)),
            Err(other) => Err(store_failed(other)),
        }
    }

    /// What is stored of an identity, or the error that says which part of it is missing.
    pub(crate) async fn stored(&self, id: &Identity) -> Result<StoredIdentity, HubError> {
        match self.store.identity_get(id).await.map_err(store_failed)? {
            Some(stored) => Ok(stored),
            None => Err(self.missing(id).await),
        }
    }

    /// Asked once an identity is known to be missing: is it the module or its device?
    async fn missing(&self, id: &Identity) -> HubError {
        if id.module_id().is_none() {
            return not_found(id);
        }
        let device = match Identity::device(id.device_id()) {
            Ok(device) => device,
            Err(error) => return error,
        };
        match self.store.identity_get(&device).await {
            Ok(Some(_)) => not_found(id),
            Ok(None) => not_found(&device),
            Err(error) => store_failed(error),
        }
    }

    fn reveal(&self, stored: StoredIdentity) -> Result<DeviceIdentity, HubError> {
        let id = stored.id.clone();
        credentials::reveal(&self.key, stored).map_err(|error| unsealable(&id, error))
    }
}

/// Gives a SAS identity without keys those, or new ones where there are none.
fn fill_keys(authentication: &mut Authentication, keys: KeyPair) {
    if let Authentication::Sas(pair) = authentication
        && pair.primary.is_empty()
    {
        *pair = keys;
        if pair.primary.is_empty() {
            pair.primary = Key::generate().to_base64();
            pair.secondary = Key::generate().to_base64();
        }
    }
}

fn not_found(id: &Identity) -> HubError {
    match id.module_id() {
        None => device_not_found(id.device_id()),
        Some(_) => {
            HubError::new(ErrorCode::ModuleNotFound, format!("the module {id} is not registered"))
        }
    }
}

fn device_not_found(device: &str) -> HubError {
    HubError::new(ErrorCode::DeviceNotFound, format!("the device {device} is not registered"))
}

fn precondition_failed(id: &Identity) -> HubError {
    HubError::new(
        ErrorCode::PreconditionFailed,
        format!("{id} was changed since: the ETag in If-Match is not the current one"),
    )
}
