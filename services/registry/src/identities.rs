//! The life of an identity: create, read, replace, delete. A change is planned from what is stored,
//! then written on the condition that it still is.

use std::sync::Arc;

use dunlin_auth::Key;
use dunlin_model::device::{SYSTEM_MODULES, is_system_module};
use dunlin_model::limits::LIST_DEVICES;
use dunlin_model::twin::{Limits, Update};
use dunlin_model::{
    Authentication, ConnectionState, DeviceIdentity, ErrorCode, HubError, Identity, KeyPair,
    Session, Status, Twin,
};
use dunlin_runtime::clock::unix_millis;
use dunlin_storage::device_store::{Done, IdentityWrite, IfMatch, StoredIdentity};
use dunlin_storage::{DeviceStore, StoreError};
use futures_util::future::{join, join_all};
use tracing::info;

use crate::revocation::{Revocation, first_auth_version};
use crate::seal::MasterKey;
use crate::{credentials, random, store_failed, unsealable, validate};

/// `managedBy` of the system modules.
const EDGE_MANAGER: &str = "iotEdge";

/// What a client writes: a field it leaves out is `None`.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub id: Identity,
    pub status: Option<Status>,
    pub status_reason: Option<String>,
    pub authentication: Option<Authentication>,
    /// Of a replace: keys that are empty are made, whatever is stored.
    pub renew_keys: bool,
    pub iot_edge: Option<bool>,
    /// Empty: none.
    pub device_scope: Option<String>,
    pub parent_scopes: Option<Vec<String>>,
    pub managed_by: Option<String>,
    /// What the twin of a new identity holds. That of one that exists is written elsewhere.
    pub twin: Option<Update>,
}

/// A change that is ready to be written: a group of writes, the first of which is the identity's.
pub(crate) struct Plan {
    pub group: Vec<IdentityWrite>,
    after: After,
}

/// What is to be done once a plan is written.
enum After {
    Created,
    Replaced { old_version: u64 },
    Deleted(Identity),
}

#[derive(Clone)]
pub(crate) struct Identities {
    pub store: Arc<dyn DeviceStore>,
    pub key: MasterKey,
    pub twins: Limits,
    pub revocation: Revocation,
}

impl Identities {
    pub(crate) async fn create(&self, written: Written) -> Result<DeviceIdentity, HubError> {
        let id = written.id.clone();
        let plan = self.plan_create(written)?;
        match self.write(plan).await {
            Ok(Some(stored)) => self.reveal(stored),
            Ok(None) => Err(not_found(&id)),
            Err(error) => Err(create_refused(&id, error)),
        }
    }

    pub(crate) fn plan_create(&self, written: Written) -> Result<Plan, HubError> {
        refuse_system_module(&written.id)?;
        let Written { id, authentication, .. } = written;
        let mut twin = Twin::new(unix_millis());
        if let Some(update) = &written.twin {
            twin.update(update, unix_millis(), &self.twins)?;
        }
        let mut new = DeviceIdentity {
            generation_id: random::generation_id(),
            etag: random::etag(),
            status: written.status.unwrap_or_default(),
            status_reason: written.status_reason,
            status_updated: 0,
            authentication: authentication
                .unwrap_or_else(|| Authentication::Sas(KeyPair::default())),
            iot_edge: id.module_id().is_none() && written.iot_edge.unwrap_or_default(),
            device_scope: given(written.device_scope),
            parent_scopes: written.parent_scopes.unwrap_or_default(),
            managed_by: given(written.managed_by),
            connection: ConnectionState::default(),
            id,
        };
        if new.iot_edge {
            new.device_scope = Some(own_scope(&new.id, &new.generation_id));
        }
        validate::identity(&new)?;
        copy_scope(&mut new);
        fill_keys(&mut new.authentication, KeyPair::default());
        let mut group = Vec::with_capacity(if new.iot_edge { 3 } else { 1 });
        let device = new.iot_edge.then(|| new.id.clone());
        group.push(self.create_with(new, twin));
        if let Some(device) = device {
            for name in SYSTEM_MODULES {
                group.push(self.system_module(&device, name)?);
            }
        }
        Ok(Plan { group, after: After::Created })
    }

    pub(crate) async fn get(&self, id: &Identity) -> Result<DeviceIdentity, HubError> {
        self.reveal(self.stored(id).await?)
    }

    /// A page of the devices after that id, and whether there are more. A `top` outside of what a
    /// page holds means a full page.
    pub(crate) async fn list_devices(
        &self,
        after: &str,
        top: usize,
    ) -> Result<(Vec<DeviceIdentity>, bool), HubError> {
        let top = if (1..=LIST_DEVICES).contains(&top) { top } else { LIST_DEVICES };
        let mut stored = self.store.device_list(after, top + 1).await.map_err(store_failed)?;
        let more = stored.len() > top;
        stored.truncate(top);
        let devices: Result<_, _> = stored.into_iter().map(|one| self.reveal(one)).collect();
        Ok((devices?, more))
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

    pub(crate) async fn replace(
        &self,
        written: Written,
        if_match: IfMatch,
    ) -> Result<DeviceIdentity, HubError> {
        refuse_system_module(&written.id)?;
        loop {
            let old = self.stored(&written.id).await?;
            let plan = self.plan_replace(written.clone(), old, &if_match).await?;
            match self.write(plan).await {
                Ok(Some(stored)) => return self.reveal(stored),
                // Somebody wrote in between: what was read no longer decides what to write.
                Err(StoreError::PreconditionFailed | StoreError::AlreadyExists) => {}
                Ok(None) | Err(StoreError::NotFound) => return Err(not_found(&written.id)),
                Err(other) => return Err(store_failed(other)),
            }
        }
    }

    /// Replaces what a client may write. What it leaves out stays, but for `statusReason`: a back
    /// end that updates one field of a device must not re-enable it, nor lock it out by rotating
    /// its keys, nor take it from its parent.
    pub(crate) async fn plan_replace(
        &self,
        written: Written,
        old: StoredIdentity,
        if_match: &IfMatch,
    ) -> Result<Plan, HubError> {
        let id = written.id;
        if !if_match.matches(&old.etag) {
            return Err(precondition_failed(&id));
        }
        if written.twin.is_some() {
            let why = format!("{id} is registered: its tags and properties go into updateTwin");
            return Err(HubError::new(ErrorCode::InvalidOperation, why));
        }
        let old_authentication =
            credentials::open(&self.key, &old).map_err(|error| unsealable(&id, error))?;
        let status = written.status.unwrap_or(old.status);
        let iot_edge = id.module_id().is_none() && written.iot_edge.unwrap_or(old.iot_edge);
        let own = own_scope(&id, &old.generation_id);
        let device_scope = match given(written.device_scope.or_else(|| old.device_scope.clone())) {
            _ if iot_edge => Some(own),
            // Its own, from when it was an Edge device: it leads nowhere any more.
            Some(scope) if scope == own => None,
            scope => scope,
        };
        let mut new = DeviceIdentity {
            generation_id: old.generation_id.clone(),
            etag: random::etag(),
            status,
            status_reason: written.status_reason,
            status_updated: if status == old.status { old.status_updated } else { unix_millis() },
            authentication: written.authentication.unwrap_or_else(|| old_authentication.clone()),
            iot_edge,
            device_scope,
            parent_scopes: match written.parent_scopes {
                Some(scopes) => scopes,
                None if was_copied(&old) => Vec::new(),
                None => old.parent_scopes.clone(),
            },
            managed_by: given(written.managed_by.or_else(|| old.managed_by.clone())),
            connection: ConnectionState::default(),
            id: id.clone(),
        };
        validate::identity(&new)?;
        copy_scope(&mut new);
        let old_keys = match &old_authentication {
            Authentication::Sas(keys) if !written.renew_keys => keys.clone(),
            _ => KeyPair::default(),
        };
        fill_keys(&mut new.authentication, old_keys);
        let same_credentials = new.authentication == old_authentication;
        let mut new = self.seal(new, old.auth_version);
        if same_credentials {
            // Sealing anew would make unchanged keys differ, which revokes connections.
            new.credentials = old.credentials;
        }
        // What was read above decided what to write, so nobody may have written in between.
        let mut group = vec![IdentityWrite::Replace(new, IfMatch::Etag(old.etag))];
        if iot_edge != old.iot_edge {
            let present = self.store.module_list(id.as_str()).await.map_err(store_failed)?;
            for name in SYSTEM_MODULES {
                let found = present.iter().find(|module| module.id.module_id() == Some(name));
                match (iot_edge, found) {
                    (true, None) => group.push(self.system_module(&id, name)?),
                    (false, Some(module)) => {
                        group.push(IdentityWrite::Delete(module.id.clone(), IfMatch::Any));
                    }
                    (true, Some(_)) | (false, None) => {}
                }
            }
        }
        Ok(Plan { group, after: After::Replaced { old_version: old.auth_version } })
    }

    pub(crate) async fn delete(&self, id: &Identity, if_match: IfMatch) -> Result<(), HubError> {
        let plan = plan_delete(id, if_match)?;
        match self.write(plan).await {
            Ok(_) => Ok(()),
            Err(StoreError::NotFound) => Err(self.missing(id).await),
            Err(StoreError::PreconditionFailed) => Err(precondition_failed(id)),
            Err(other) => Err(store_failed(other)),
        }
    }

    /// Returns what is stored of the identity now.
    async fn write(&self, plan: Plan) -> Result<Option<StoredIdentity>, StoreError> {
        let Plan { group, after } = plan;
        let mut written = self.store.identity_write(vec![group]).await?;
        let done = written.pop().unwrap_or_else(|| Ok(Vec::new()))?;
        Ok(self.finish(after, done).await)
    }

    /// After several plans were written at once.
    pub(crate) async fn written(&self, plan: Plan, done: Vec<Done>) {
        self.finish(plan.after, done).await;
    }

    async fn finish(&self, after: After, done: Vec<Done>) -> Option<StoredIdentity> {
        let (mut stored, mut removed) = (None, Vec::new());
        for one in done {
            match one {
                // The first is the identity's own, those behind it are of system modules.
                Done::Stored(identity) => drop(stored.get_or_insert(*identity)),
                Done::Deleted(identities) => removed.push(identities),
            }
        }
        let replaced = async {
            match (after, &stored) {
                (After::Created, Some(new)) => info!(id = %new.id, "identity created"),
                (After::Replaced { old_version }, Some(new)) => {
                    info!(id = %new.id, "identity replaced");
                    self.revocation.replaced(old_version, new).await;
                }
                (After::Deleted(id), _) => info!(%id, "identity deleted"),
                (After::Created | After::Replaced { .. }, None) => {}
            }
        };
        join(replaced, join_all(removed.iter().map(|gone| self.revocation.deleted(gone)))).await;
        stored
    }

    /// A module of the IoT Edge runtime, with keys of the hub's making.
    fn system_module(&self, device: &Identity, name: &str) -> Result<IdentityWrite, HubError> {
        let mut authentication = Authentication::Sas(KeyPair::default());
        fill_keys(&mut authentication, KeyPair::default());
        let module = DeviceIdentity {
            id: Identity::module(device.device_id(), name)?,
            generation_id: random::generation_id(),
            etag: random::etag(),
            status: Status::Enabled,
            status_reason: None,
            status_updated: 0,
            authentication,
            iot_edge: false,
            device_scope: None,
            parent_scopes: Vec::new(),
            managed_by: Some(EDGE_MANAGER.to_owned()),
            connection: ConnectionState::default(),
        };
        Ok(self.create_with(module, Twin::new(unix_millis())))
    }

    fn create_with(&self, new: DeviceIdentity, twin: Twin) -> IdentityWrite {
        IdentityWrite::Create(self.seal(new, first_auth_version()), twin)
    }

    fn seal(&self, identity: DeviceIdentity, auth_version: u64) -> StoredIdentity {
        StoredIdentity {
            auth_type: identity.authentication.type_name().to_owned(),
            credentials: credentials::seal(&self.key, &identity.id, &identity.authentication),
            thumbprints: match identity.authentication {
                Authentication::SelfSigned(thumbprints) => Some(thumbprints),
                _ => None,
            },
            id: identity.id,
            generation_id: identity.generation_id,
            etag: identity.etag,
            status: identity.status,
            status_reason: identity.status_reason,
            status_updated: identity.status_updated,
            auth_version,
            iot_edge: identity.iot_edge,
            device_scope: identity.device_scope,
            parent_scopes: identity.parent_scopes,
            managed_by: identity.managed_by,
            connection: identity.connection,
            session: Session::default(),
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

pub(crate) fn plan_delete(id: &Identity, if_match: IfMatch) -> Result<Plan, HubError> {
    refuse_system_module(id)?;
    let group = vec![IdentityWrite::Delete(id.clone(), if_match)];
    Ok(Plan { group, after: After::Deleted(id.clone()) })
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

/// An Edge device's scope, which its children are given as theirs.
fn own_scope(device: &Identity, generation_id: &str) -> String {
    format!("{}{}-{generation_id}", validate::SCOPE_SCHEME, device.device_id())
}

/// A device that is no Edge device has one parent, its `deviceScope`. Clients may leave it to the
/// service to copy it to `parentScopes`, or send the one of before along with a new `deviceScope`.
fn copy_scope(identity: &mut DeviceIdentity) {
    if !identity.iot_edge
        && identity.id.module_id().is_none()
        && let Some(scope) = &identity.device_scope
    {
        identity.parent_scopes = vec![scope.clone()];
    }
}

/// Whether its `parentScopes` are what [`copy_scope`] made of its `deviceScope`.
fn was_copied(old: &StoredIdentity) -> bool {
    !old.iot_edge
        && old.device_scope.as_ref().is_some_and(|scope| old.parent_scopes == [scope.clone()])
}

fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

pub(crate) fn refuse_system_module(id: &Identity) -> Result<(), HubError> {
    match id.module_id().filter(|module| is_system_module(module)) {
        None => Ok(()),
        Some(module) => Err(HubError::new(
            ErrorCode::SystemModuleModifyUnauthorizedAccess,
            format!("{module} belongs to the hub: it comes and goes with capabilities.iotEdge"),
        )),
    }
}

/// Why an identity could not be made.
fn create_refused(id: &Identity, error: StoreError) -> HubError {
    let is_module = id.module_id().is_some();
    match error {
        StoreError::AlreadyExists if is_module => HubError::new(
            ErrorCode::ModuleAlreadyExistsOnDevice,
            format!("the module {id} exists already"),
        ),
        StoreError::AlreadyExists => HubError::new(
            ErrorCode::DeviceAlreadyExists,
            format!("a device with the id {id} is already registered"),
        ),
        // Only a module can lack something: its device.
        StoreError::NotFound => device_not_found(id.device_id()),
        StoreError::LimitReached => HubError::new(
            ErrorCode::TooManyModulesOnDevice,
            format!("a device has at most {} modules", dunlin_model::limits::MODULES_PER_DEVICE),
        ),
        other => store_failed(other),
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
