//! Identities as the store holds them: what authenticates is ciphertext there.

use dunlin_model::{Authentication, DeviceIdentity, Identity, KeyPair};
use dunlin_storage::device_store::StoredIdentity;

use crate::seal::{MasterKey, Unsealable};

/// The slot is the authentication type, so that a stored thumbprint, which is no secret, cannot be
/// passed off as a key by changing the type beside it.
pub(crate) fn seal(key: &MasterKey, id: &Identity, authentication: &Authentication) -> Vec<u8> {
    match authentication {
        Authentication::Sas(pair) | Authentication::SelfSigned(pair) => {
            // Neither base64 nor hex holds a line break.
            let text = format!("{}\n{}", pair.primary, pair.secondary);
            key.seal(id.as_str(), authentication.type_name(), text.as_bytes())
        }
        Authentication::CertificateAuthority | Authentication::None => Vec::new(),
    }
}

pub(crate) fn open(key: &MasterKey, stored: &StoredIdentity) -> Result<Authentication, Unsealable> {
    opened(key, &stored.id, &stored.auth_type, &stored.credentials)
}

impl MasterKey {
    /// Whether this key has sealed stored credentials, for who moves them to another store.
    pub fn check_credentials(
        &self,
        id: &Identity,
        auth_type: &str,
        sealed: &[u8],
    ) -> Result<(), Unsealable> {
        opened(self, id, auth_type, sealed).map(drop)
    }
}

fn opened(
    key: &MasterKey,
    id: &Identity,
    auth_type: &str,
    sealed: &[u8],
) -> Result<Authentication, Unsealable> {
    let pair = || {
        let text = key.open(id.as_str(), auth_type, sealed)?;
        let text = String::from_utf8(text).map_err(|_| Unsealable)?;
        let (primary, secondary) = text.split_once('\n').ok_or(Unsealable)?;
        Ok(KeyPair { primary: primary.to_owned(), secondary: secondary.to_owned() })
    };
    match auth_type {
        "sas" => Ok(Authentication::Sas(pair()?)),
        "selfSigned" => Ok(Authentication::SelfSigned(pair()?)),
        "certificateAuthority" => Ok(Authentication::CertificateAuthority),
        "none" => Ok(Authentication::None),
        _ => Err(Unsealable),
    }
}

/// The identity as its owner sees it, keys in the clear.
pub(crate) fn reveal(
    key: &MasterKey,
    stored: StoredIdentity,
) -> Result<DeviceIdentity, Unsealable> {
    let authentication = open(key, &stored)?;
    Ok(DeviceIdentity {
        id: stored.id,
        generation_id: stored.generation_id,
        etag: stored.etag,
        status: stored.status,
        status_reason: stored.status_reason,
        status_updated: stored.status_updated,
        authentication,
        iot_edge: stored.iot_edge,
        device_scope: stored.device_scope,
        parent_scopes: stored.parent_scopes,
        managed_by: stored.managed_by,
        connection: stored.connection,
    })
}

#[cfg(test)]
mod tests {
    use dunlin_model::{ConnectionState, Session, Status};

    use super::*;

    #[test]
    fn stored_credentials_belong_to_one_identity_and_type() {
        let key = MasterKey::new(&[1; 32]);
        let pair = KeyPair { primary: "cHJpbWFyeQ==".into(), secondary: "c2Vjb25k".into() };
        let device = Identity::device("d").expect("an id");
        for authentication in [
            Authentication::Sas(pair.clone()),
            Authentication::SelfSigned(pair),
            Authentication::CertificateAuthority,
            Authentication::None,
        ] {
            let stored = StoredIdentity {
                id: device.clone(),
                generation_id: "1".into(),
                etag: "e".into(),
                status: Status::Enabled,
                status_reason: None,
                status_updated: 0,
                auth_type: authentication.type_name().into(),
                credentials: seal(&key, &device, &authentication),
                thumbprints: None,
                auth_version: 1,
                iot_edge: false,
                device_scope: None,
                parent_scopes: Vec::new(),
                managed_by: None,
                connection: ConnectionState::default(),
                session: Session::default(),
            };
            assert_eq!(open(&key, &stored), Ok(authentication.clone()));
            let checked = |key: &MasterKey| {
                key.check_credentials(&device, &stored.auth_type, &stored.credentials)
            };
            assert_eq!(checked(&key), Ok(()));
            if stored.credentials.is_empty() {
                continue;
            }
            assert_eq!(checked(&MasterKey::new(&[2; 32])), Err(Unsealable));
            for other in ["sas", "selfSigned"].iter().filter(|kind| **kind != stored.auth_type) {
                let moved = StoredIdentity { auth_type: (*other).into(), ..stored.clone() };
                assert_eq!(open(&key, &moved), Err(Unsealable));
            }
            let other = Identity::module("d", "m").expect("an id");
            assert_eq!(open(&key, &StoredIdentity { id: other, ..stored }), Err(Unsealable));
        }
    }
}
