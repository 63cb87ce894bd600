//! Groups of identity writes, applied in memory to rows that are locked.

use std::collections::BTreeMap;

use dunlin_model::device::is_system_module;
use dunlin_model::{ConnectionState, Identity, Session, Twin, limits};

use crate::StoreError;
use crate::device_store::{Done, IdentityWrite, IfMatch, Removed, StoredIdentity, Written};

/// One id: what is there now, and what has to be written for that.
#[derive(Clone, Default)]
pub(super) struct Entry {
    pub(super) now: Option<StoredIdentity>,
    /// It was made here, with this twin.
    pub(super) made: Option<Twin>,
    /// The row that was read must go.
    pub(super) gone: bool,
    pub(super) changed: bool,
}

/// Devices with all they have, by device id and module id; a device's own module id is ''.
#[derive(Default)]
pub(super) struct Registry {
    devices: BTreeMap<String, BTreeMap<String, Entry>>,
    /// What a group has changed, as it was before: the way back.
    journal: Vec<(Identity, Entry)>,
}

fn module(id: &Identity) -> &str {
    id.module_id().unwrap_or_default()
}

impl Registry {
    pub(super) fn load(&mut self, stored: StoredIdentity) {
        let entries = self.devices.entry(stored.id.device_id().to_owned()).or_default();
        let key = module(&stored.id).to_owned();
        entries.insert(key, Entry { now: Some(stored), ..Entry::default() });
    }

    /// Ordered by id.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &str, &Entry)> {
        self.devices.iter().flat_map(|(device, entries)| {
            entries.iter().map(move |(module, entry)| (device.as_str(), module.as_str(), entry))
        })
    }

    /// Takes effect whole, or not at all.
    pub(super) fn group(&mut self, writes: &[IdentityWrite]) -> Written {
        self.journal.clear();
        let written: Written = writes.iter().map(|write| self.apply(write)).collect();
        if written.is_err() {
            while let Some((id, before)) = self.journal.pop() {
                *self.slot(&id) = before;
            }
        }
        written
    }

    fn apply(&mut self, write: &IdentityWrite) -> Result<Done, StoreError> {
        let stored = |stored| Done::Stored(Box::new(stored));
        match write {
            IdentityWrite::Create(new, twin) => self.create(new.clone(), twin).map(stored),
            IdentityWrite::Replace(new, if_match) => {
                self.replace(new.clone(), if_match).map(stored)
            }
            IdentityWrite::Delete(id, if_match) => self.delete(id, if_match).map(Done::Deleted),
        }
    }

    fn slot(&mut self, id: &Identity) -> &mut Entry {
        let entries = self.devices.entry(id.device_id().to_owned()).or_default();
        entries.entry(module(id).to_owned()).or_default()
    }

    /// To be changed, in a way that can be undone.
    fn change(&mut self, id: &Identity) -> &mut Entry {
        let before = self.slot(id).clone();
        self.journal.push((id.clone(), before));
        self.slot(id)
    }

    fn find(&self, device: &str, module: &str) -> Option<&StoredIdentity> {
        self.devices.get(device)?.get(module)?.now.as_ref()
    }

    /// What a write under `If-Match` works on; its errors in the order the trait asks for.
    fn matching(&self, id: &Identity, if_match: &IfMatch) -> Result<&StoredIdentity, StoreError> {
        let found = self.find(id.device_id(), module(id)).ok_or(StoreError::NotFound)?;
        if if_match.matches(&found.etag) { Ok(found) } else { Err(StoreError::PreconditionFailed) }
    }

    fn modules(&self, device: &str) -> impl Iterator<Item = &StoredIdentity> {
        let entries = self.devices.get(device).into_iter().flatten();
        entries.filter(|(module, _)| !module.is_empty()).filter_map(|(_, entry)| entry.now.as_ref())
    }

    fn create(
        &mut self,
        mut new: StoredIdentity,
        twin: &Twin,
    ) -> Result<StoredIdentity, StoreError> {
        let device = new.id.device_id();
        if self.find(device, module(&new.id)).is_some() {
            return Err(StoreError::AlreadyExists);
        }
        if let Some(module) = new.id.module_id() {
            self.find(device, "").ok_or(StoreError::NotFound)?;
            let counts = |id: &Identity| id.module_id().is_some_and(|id| !is_system_module(id));
            let held = self.modules(device).filter(|module| counts(&module.id)).count();
            if !is_system_module(module) && held >= limits::MODULES_PER_DEVICE {
                return Err(StoreError::LimitReached);
            }
        }
        new.connection = ConnectionState::default();
        new.session = Session::default();
        let entry = self.change(&new.id);
        (entry.now, entry.made) = (Some(new.clone()), Some(twin.clone()));
        Ok(new)
    }

    fn replace(
        &mut self,
        mut new: StoredIdentity,
        if_match: &IfMatch,
    ) -> Result<StoredIdentity, StoreError> {
        let old = self.matching(&new.id, if_match)?;
        let same = (old.status, &old.auth_type, &old.credentials)
            == (new.status, &new.auth_type, &new.credentials);
        new.auth_version = if same { old.auth_version } else { old.auth_version + 1 };
        new.generation_id.clone_from(&old.generation_id);
        new.connection = old.connection;
        new.session = old.session.clone();
        let entry = self.change(&new.id);
        (entry.now, entry.changed) = (Some(new.clone()), true);
        Ok(new)
    }

    fn delete(&mut self, id: &Identity, if_match: &IfMatch) -> Result<Removed, StoreError> {
        let mut identities = vec![self.matching(id, if_match)?.clone()];
        let device = self.find(id.device_id(), "").ok_or(StoreError::NotFound)?;
        let device_version = device.auth_version;
        if id.module_id().is_none() {
            // A device takes its modules along.
            identities.extend(self.modules(id.device_id()).cloned());
        }
        for StoredIdentity { id, .. } in &identities {
            let entry = self.change(id);
            // What was made here is in no table yet.
            entry.gone |= entry.made.is_none();
            (entry.now, entry.made, entry.changed) = (None, None, false);
        }
        Ok(Removed { device_version, identities })
    }
}
