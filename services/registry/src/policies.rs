//! The hub's shared access policies: made once, stored sealed, held in memory.

use dunlin_auth::policy::default_policies;
use dunlin_auth::{Key, Permissions, Policy};
use dunlin_storage::DeviceStore;
use serde::{Deserialize, Serialize};

use crate::BuildError;
use crate::seal::{MasterKey, Unsealable};

const SETTING: &str = "policies";
/// No identity can have this name.
const OWNER: &str = "hub/settings/";

/// A policy as it stands in the sealed setting.
#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    permissions: u32,
    primary: String,
    secondary: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Policies(Vec<Policy>);

impl Policies {
    /// The stored ones; a new hub gets the five defaults. Of processes that start at once on a new
    /// store, the first to write decides for all.
    pub(crate) async fn load(store: &dyn DeviceStore, key: &MasterKey) -> Result<Self, BuildError> {
        let fresh: Vec<_> = default_policies().iter().map(Stored::from).collect();
        let fresh = serde_json::to_vec(&fresh).expect("strings and numbers are JSON");
        let sealed = store.setting_init(SETTING, &key.seal(OWNER, SETTING, &fresh)).await?;
        let text = key.open(OWNER, SETTING, &sealed)?;
        let stored: Vec<Stored> = serde_json::from_slice(&text).map_err(|_| Unsealable)?;
        let policies: Option<_> = stored.into_iter().map(Stored::into_policy).collect();
        Ok(Self(policies.ok_or(Unsealable)?))
    }

    /// Names are compared without letter case, as the service does.
    pub(crate) fn get(&self, name: &str) -> Option<&Policy> {
        self.0.iter().find(|policy| policy.name.eq_ignore_ascii_case(name))
    }
}

impl From<&Policy> for Stored {
    fn from(policy: &Policy) -> Self {
        Self {
            name: policy.name.clone(),
            permissions: policy.permissions.bits(),
            primary: policy.primary.to_base64(),
            secondary: policy.secondary.to_base64(),
        }
    }
}

impl Stored {
    fn into_policy(self) -> Option<Policy> {
        Some(Policy {
            permissions: Permissions::from_bits(self.permissions)?,
            primary: Key::from_base64(&self.primary).ok()?,
            secondary: Key::from_base64(&self.secondary).ok()?,
            name: self.name,
        })
    }
}
