//! Who may connect as a device, by SAS token or certificate, and which back end may do what.

use dunlin_auth::{Chain, Key, Permissions, Policy, SasError, SasToken, X509Error};
use dunlin_model::{Authentication, ErrorCode, HubError, Identity, Status};
use dunlin_proto::v1::{AuthScope, AuthenticateResponse};
use dunlin_runtime::clock::unix_seconds;
use dunlin_storage::device_store::StoredIdentity;

use crate::authorities::Authorities;
use crate::identities::Identities;
use crate::policies::Policies;
use crate::{credentials, query_token, unsealable};

#[derive(Clone)]
pub(crate) struct Access {
    pub hostnames: Vec<String>,
    pub policies: Policies,
    pub authorities: Authorities,
    pub identities: Identities,
}

impl Access {
    /// May the bearer of the token, or of the certificates where there is none, act as `id`? The
    /// message is for the operator's log; what the device is told does not say which part of this
    /// failed.
    pub(crate) async fn authenticate(
        &self,
        id: &Identity,
        token: &str,
        certificates: Vec<Vec<u8>>,
    ) -> Result<AuthenticateResponse, HubError> {
        if token.is_empty() {
            self.authenticate_by_certificate(id, certificates).await
        } else {
            self.authenticate_by_token(id, token).await
        }
    }

    /// Everything about the token that needs no store comes first, so that garbage costs no read,
    /// and the status last, so that only who holds a key learns it.
    async fn authenticate_by_token(
        &self,
        id: &Identity,
        token: &str,
    ) -> Result<AuthenticateResponse, HubError> {
        let token = SasToken::parse(token).map_err(unauthorized)?;
        if !token.covers_identity(&self.hostnames, id) {
            return Err(unauthorized(SasError::WrongScope));
        }
        let policy = match token.policy() {
            Some(name) => Some(self.policy(name).await?),
            None => None,
        };
        if let Some(policy) = &policy {
            verify(&token, [&policy.primary, &policy.secondary])?;
            if !policy.permissions.allow(Permissions::DEVICE_CONNECT) {
                return Err(HubError::new(
                    ErrorCode::IotHubUnauthorized,
                    format!("the policy {} does not permit DeviceConnect", policy.name),
                ));
            }
        }
        let (stored, parent) = self.read(id).await?;
        let scope = match policy {
            Some(_) => AuthScope::Hub,
            None => {
                self.verify_own(&token, &stored)?;
                if parent.is_some() { AuthScope::Module } else { AuthScope::Device }
            }
        };
        grant(stored, parent, scope, token.expiry())
    }

    async fn authenticate_by_certificate(
        &self,
        id: &Identity,
        certificates: Vec<Vec<u8>>,
    ) -> Result<AuthenticateResponse, HubError> {
        let chain = Chain::new(certificates).map_err(untrusted)?;
        let (stored, parent) = self.read(id).await?;
        let until = match self.credentials(&stored)? {
            Authentication::SelfSigned(thumbprints) => {
                chain.has_thumbprint(&thumbprints, unix_seconds())
            }
            Authentication::CertificateAuthority => {
                let all = self.authorities.all().await?;
                let verified = all.iter().filter(|entry| entry.verified);
                let verified: Vec<_> = verified.map(|entry| &entry.authority).collect();
                chain.proves(id, &verified, unix_seconds())
            }
            Authentication::Sas(_) | Authentication::None => {
                return Err(wrong_type(&stored, "selfSigned or certificateAuthority"));
            }
        };
        let scope = match parent {
            Some(_) => AuthScope::ModuleCertificate,
            None => AuthScope::DeviceCertificate,
        };
        grant(stored, parent, scope, until.map_err(untrusted)?)
    }

    /// The policy that permits a back end all of `wanted` on `path`.
    pub(crate) async fn authorize(
        &self,
        token: &str,
        path: &str,
        wanted: Permissions,
    ) -> Result<Policy, HubError> {
        let token = SasToken::parse(token).map_err(unauthorized)?;
        let name = token.policy().ok_or_else(|| {
            HubError::new(
                ErrorCode::IotHubUnauthorized,
                "the SAS token names no policy (skn): a device's own key is not for this",
            )
        })?;
        let policy = self.policy(name).await?;
        verify(&token, [&policy.primary, &policy.secondary])?;
        if !token.covers(&self.hostnames, path) {
            return Err(unauthorized(SasError::WrongScope));
        }
        permit(&policy, wanted)?;
        Ok(policy)
    }

    /// A token for a URL of `path`, and when it ends (Unix seconds), to who may do `wanted` there.
    pub(crate) async fn issue_query_token(
        &self,
        token: &str,
        path: &str,
        wanted: Permissions,
    ) -> Result<(String, u64), HubError> {
        let policy = self.authorize(token, path, wanted).await?;
        let expires = unix_seconds() + query_token::SECONDS;
        Ok((query_token::issue(&self.identities.key, path, &policy, expires), expires))
    }

    /// As `authorize`, by a token of `issue_query_token`. Its policy must still be there, with the
    /// keys that it had.
    pub(crate) async fn authorize_query(
        &self,
        token: &str,
        path: &str,
        wanted: Permissions,
    ) -> Result<Policy, HubError> {
        let refused = |message| HubError::new(ErrorCode::IotHubUnauthorized, message);
        let bearer = query_token::read(&self.identities.key, path, token, unix_seconds());
        let bearer = bearer.ok_or_else(|| {
            refused("the access_token is none of this path's, or its minute is over")
        })?;
        let policy = self.policy(&bearer.policy).await?;
        if !bearer.is(&policy) {
            return Err(refused(
                "a key of the access_token's policy has been renewed: take another",
            ));
        }
        permit(&policy, wanted)?;
        Ok(policy)
    }

    async fn policy(&self, name: &str) -> Result<Policy, HubError> {
        self.policies.get(name).await?.ok_or_else(|| {
            // The name is the caller's text, and might be a key: a log gets no more of it than
            // tells one mistake from another.
            let name: String = name.chars().take(16).collect();
            HubError::new(
                ErrorCode::IotHubUnauthorized,
                format!("there is no policy {name:?}, which the SAS token names (skn)"),
            )
        })
    }

    /// The identity, and of a module its device.
    async fn read(
        &self,
        id: &Identity,
    ) -> Result<(StoredIdentity, Option<StoredIdentity>), HubError> {
        if id.module_id().is_none() {
            return Ok((self.identities.stored(id).await?, None));
        }
        let device = self.identities.stored(&Identity::device(id.device_id())?).await?;
        Ok((self.identities.stored(id).await?, Some(device)))
    }

    fn credentials(&self, stored: &StoredIdentity) -> Result<Authentication, HubError> {
        credentials::open(&self.identities.key, stored)
            .map_err(|error| unsealable(&stored.id, error))
    }

    fn verify_own(&self, token: &SasToken<'_>, stored: &StoredIdentity) -> Result<(), HubError> {
        let Authentication::Sas(pair) = self.credentials(stored)? else {
            return Err(wrong_type(stored, "sas"));
        };
        let primary = Key::from_base64(&pair.primary)?;
        let secondary = Key::from_base64(&pair.secondary)?;
        verify(token, [&primary, &secondary])
    }
}

/// To who has proved to be that identity.
fn grant(
    stored: StoredIdentity,
    parent: Option<StoredIdentity>,
    scope: AuthScope,
    expires: u64,
) -> Result<AuthenticateResponse, HubError> {
    let device = parent.as_ref().unwrap_or(&stored);
    if device.status == Status::Disabled {
        return Err(HubError::new(
            ErrorCode::DeviceDisabled,
            format!("the device {} is disabled", device.id),
        ));
    }
    // Both grow, so their sum does: a change of either revokes a module's connection.
    let auth_version = stored.auth_version + parent.map_or(0, |device| device.auth_version);
    Ok(AuthenticateResponse {
        generation_id: stored.generation_id,
        scope: scope.into(),
        auth_version,
        expires,
        session: Some(stored.session.into()),
    })
}

fn wrong_type(stored: &StoredIdentity, wanted: &str) -> HubError {
    HubError::new(
        ErrorCode::IotHubUnauthorized,
        format!("{} is of the type {}, not {wanted}", stored.id, stored.auth_type),
    )
}

fn permit(policy: &Policy, wanted: Permissions) -> Result<(), HubError> {
    if policy.permissions.allow(wanted) {
        return Ok(());
    }
    Err(HubError::new(
        ErrorCode::IotHubUnauthorizedAccess,
        format!("Authorization rule '{}' does not allow access for '{wanted}'", policy.name),
    ))
}

fn verify(token: &SasToken<'_>, keys: [&Key; 2]) -> Result<(), HubError> {
    token.verify(keys, unix_seconds()).map_err(unauthorized)
}

fn untrusted(error: X509Error) -> HubError {
    HubError::new(ErrorCode::IotHubUnauthorized, error.to_string())
}

fn unauthorized(error: SasError) -> HubError {
    HubError::new(ErrorCode::IotHubUnauthorized, error.to_string())
}
