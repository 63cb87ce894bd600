//! The hub's shared access policies.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dunlin_auth::policy::{OWNER, default_policies};
use dunlin_auth::{Key, Permissions, Policy};
use dunlin_model::{ErrorCode, HubError, limits};
use dunlin_storage::DeviceStore;
use dunlin_storage::device_store::IfMatch;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::BuildError;
use crate::seal::MasterKey;
use crate::setting::{Content, Setting};

/// A policy as it stands in the sealed setting.
#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    permissions: u32,
    primary: String,
    secondary: String,
}

/// Which key to renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renew {
    Primary,
    Secondary,
    /// The two change places, so that what was secondary is primary and can then be left alone.
    Swap,
}

/// What to replace of a policy; what is not here stays.
pub(crate) struct Change {
    pub permissions: Option<Permissions>,
    pub keys: Option<[Key; 2]>,
}

#[derive(Clone)]
pub(crate) struct Policies(Setting<Vec<Policy>>);

impl Policies {
    /// The stored ones; a new hub gets the five defaults.
    pub(crate) async fn load(
        store: Arc<dyn DeviceStore>,
        key: MasterKey,
    ) -> Result<Self, BuildError> {
        Ok(Self(Setting::load(store, key, &default_policies()).await?))
    }

    /// As they were a second ago at the latest.
    pub(crate) async fn all(&self) -> Result<Arc<Vec<Policy>>, HubError> {
        self.0.get().await
    }

    /// Names are compared without letter case, as the service does.
    pub(crate) async fn get(&self, name: &str) -> Result<Option<Policy>, HubError> {
        let all = self.all().await?;
        Ok(all.iter().find(|policy| same_name(&policy.name, name)).cloned())
    }

    pub(crate) async fn create(&self, new: Policy) -> Result<Policy, HubError> {
        check_name(&new.name)?;
        if new.permissions == Permissions::NONE {
            return Err(invalid("a policy needs one permission at the least"));
        }
        self.0
            .change(|policies| {
                if policies.iter().any(|policy| same_name(&policy.name, &new.name)) {
                    return Err(HubError::new(
                        ErrorCode::GenericConflict,
                        format!("there is a policy {} already", new.name),
                    ));
                }
                if policies.len() >= limits::POLICIES {
                    return Err(HubError::new(
                        ErrorCode::IotHubQuotaExceeded,
                        format!("a hub has at most {} shared access policies", limits::POLICIES),
                    ));
                }
                policies.push(new.clone());
                Ok(new.clone())
            })
            .await
            .inspect(|policy| info!(policy = policy.name, "policy created"))
    }

    pub(crate) async fn replace(
        &self,
        name: &str,
        change: Change,
        if_match: &IfMatch,
    ) -> Result<Policy, HubError> {
        if same_name(name, OWNER)
            && change.permissions.is_some_and(|to| !to.allow(Permissions::ALL))
        {
            return Err(HubError::new(
                ErrorCode::GenericForbidden,
                format!("{OWNER} keeps all permissions: nobody could manage the policies any more"),
            ));
        }
        self.0
            .change(|policies| {
                let at = matching(policies, name, if_match)?;
                let policy = &mut policies[at];
                policy.permissions = change.permissions.unwrap_or(policy.permissions);
                if let Some([primary, secondary]) = change.keys.clone() {
                    (policy.primary, policy.secondary) = (primary, secondary);
                }
                Ok(policy.clone())
            })
            .await
            .inspect(|policy| info!(policy = policy.name, "policy replaced"))
    }

    pub(crate) async fn renew(&self, name: &str, which: Renew) -> Result<Policy, HubError> {
        self.0
            .change(|policies| {
                let at = matching(policies, name, &IfMatch::Any)?;
                let policy = &mut policies[at];
                match which {
                    Renew::Primary => policy.primary = Key::generate(),
                    Renew::Secondary => policy.secondary = Key::generate(),
                    Renew::Swap => std::mem::swap(&mut policy.primary, &mut policy.secondary),
                }
                Ok(policy.clone())
            })
            .await
            .inspect(|policy| info!(policy = policy.name, ?which, "policy key renewed"))
    }

    pub(crate) async fn delete(&self, name: &str, if_match: &IfMatch) -> Result<(), HubError> {
        if same_name(name, OWNER) {
            return Err(HubError::new(
                ErrorCode::GenericForbidden,
                format!("{OWNER} cannot be deleted: nobody could manage the policies any more"),
            ));
        }
        self.0
            .change(|policies| {
                policies.remove(matching(policies, name, if_match)?);
                Ok(())
            })
            .await?;
        info!(policy = name, "policy deleted");
        Ok(())
    }
}

/// Where the policy of that name stands, if it is the one that is meant.
fn matching(policies: &[Policy], name: &str, if_match: &IfMatch) -> Result<usize, HubError> {
    let at = policies.iter().position(|policy| same_name(&policy.name, name));
    let at = at.ok_or_else(|| not_found(name))?;
    if if_match.matches(&etag(&policies[at])) {
        return Ok(at);
    }
    Err(HubError::new(
        ErrorCode::PreconditionFailed,
        format!("the policy {name} was changed since: the ETag in If-Match is not the current one"),
    ))
}

/// Made of the content, keys included, by a function that does not tell of them.
pub(crate) fn etag(policy: &Policy) -> String {
    let text = serde_json::to_vec(&Stored::from(policy)).expect("strings and numbers are JSON");
    STANDARD.encode(&digest(&SHA256, &text).as_ref()[..12])
}

fn same_name(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// Names go into connection strings, tokens and paths as they are.
fn check_name(name: &str) -> Result<(), HubError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if (1..=limits::POLICY_NAME_CHARS).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(invalid("a policy name has 1 to 64 letters, digits, -, _ or ."))
    }
}

pub(crate) fn not_found(name: &str) -> HubError {
    // The name is the caller's text: it is cut before it reaches a log.
    let name: String = name.chars().take(limits::POLICY_NAME_CHARS).collect();
    HubError::new(ErrorCode::GenericNotFound, format!("there is no policy {name:?}"))
}

fn invalid(message: &str) -> HubError {
    HubError::new(ErrorCode::ArgumentInvalid, message)
}

impl Content for Vec<Policy> {
    const NAME: &'static str = "policies";

    fn to_bytes(&self) -> Vec<u8> {
        let stored: Vec<_> = self.iter().map(Stored::from).collect();
        serde_json::to_vec(&stored).expect("strings and numbers are JSON")
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let stored: Vec<Stored> = serde_json::from_slice(bytes).ok()?;
        stored.into_iter().map(Stored::into_policy).collect()
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
