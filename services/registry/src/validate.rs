//! What a client may write into an identity (ids are checked by the model).

use dunlin_auth::Key;
use dunlin_model::{Authentication, DeviceIdentity, ErrorCode, HubError, KeyPair, Status, limits};

/// How every scope begins.
pub(crate) const SCOPE_SCHEME: &str = "ms-azure-iot-edge://";

fn invalid(message: impl Into<String>) -> HubError {
    HubError::new(ErrorCode::ArgumentInvalid, message)
}

pub(crate) fn identity(identity: &DeviceIdentity) -> Result<(), HubError> {
    if identity.id.module_id().is_some() && identity.status == Status::Disabled {
        return Err(invalid("a module cannot be disabled; disable its device"));
    }
    let reason = identity.status_reason.as_deref().unwrap_or_default();
    if reason.chars().count() > limits::STATUS_REASON_CHARS {
        return Err(invalid(format!(
            "statusReason has at most {} characters",
            limits::STATUS_REASON_CHARS
        )));
    }
    let manager = identity.managed_by.as_deref().unwrap_or_default();
    if manager.chars().count() > limits::ID_CHARS {
        return Err(invalid(format!("managedBy has at most {} characters", limits::ID_CHARS)));
    }
    if identity.parent_scopes.len() > limits::PARENT_SCOPES {
        return Err(bad_scope(format!("there are at most {} parentScopes", limits::PARENT_SCOPES)));
    }
    identity.device_scope.iter().chain(&identity.parent_scopes).try_for_each(|text| scope(text))?;
    match &identity.authentication {
        Authentication::Sas(keys) => sas(keys),
        Authentication::SelfSigned(thumbprints) => self_signed(thumbprints),
        Authentication::CertificateAuthority | Authentication::None => Ok(()),
    }
}

/// Whether there is such an Edge device is not looked at: a parent may be made anew.
fn scope(text: &str) -> Result<(), HubError> {
    let named = text.strip_prefix(SCOPE_SCHEME).is_some_and(|rest| !rest.is_empty());
    if named && text.len() <= limits::SCOPE_BYTES && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(bad_scope(format!(
            "a scope reads {SCOPE_SCHEME}ID-GENERATION and has at most {} characters",
            limits::SCOPE_BYTES
        )))
    }
}

fn bad_scope(message: String) -> HubError {
    HubError::new(ErrorCode::InvalidDeviceScope, message)
}

/// No keys at all means "make them"; one of two is a mistake, as the SDKs see it.
fn sas(keys: &KeyPair) -> Result<(), HubError> {
    match (keys.primary.as_str(), keys.secondary.as_str()) {
        ("", "") => Ok(()),
        ("", _) | (_, "") => Err(invalid("give both symmetric keys or none")),
        (primary, secondary) => {
            Key::from_base64(primary)?;
            Key::from_base64(secondary).map(drop)
        }
    }
}

fn self_signed(thumbprints: &KeyPair) -> Result<(), HubError> {
    if thumbprints.primary.is_empty() && thumbprints.secondary.is_empty() {
        return Err(invalid("a selfSigned identity needs a primary or a secondary thumbprint"));
    }
    let well_formed = |text: &str| {
        text.is_empty()
            || (matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    if well_formed(&thumbprints.primary) && well_formed(&thumbprints.secondary) {
        Ok(())
    } else {
        let digits = "40 (SHA-1) or 64 (SHA-256) hexadecimal digits and nothing between them";
        Err(invalid(format!("a thumbprint has {digits}")))
    }
}

#[cfg(test)]
mod tests {
    use dunlin_model::{ConnectionState, Identity};

    use super::*;

    #[test]
    fn what_is_refused_says_why() {
        #[track_caller]
        fn check(change: impl FnOnce(&mut DeviceIdentity), want: Option<&str>) {
            let mut new = DeviceIdentity {
                id: Identity::device("d").expect("an id"),
                generation_id: String::new(),
                etag: String::new(),
                status: Status::Enabled,
                status_reason: None,
                status_updated: 0,
                authentication: Authentication::None,
                iot_edge: false,
                device_scope: None,
                parent_scopes: Vec::new(),
                managed_by: None,
                connection: ConnectionState::default(),
            };
            change(&mut new);
            let message = identity(&new).err().map(|error| {
                let scopes = error.message.contains("cope");
                let code =
                    if scopes { ErrorCode::InvalidDeviceScope } else { ErrorCode::ArgumentInvalid };
                assert_eq!(error.code, code);
                error.message
            });
            match (message, want) {
                (None, None) => {}
                (Some(message), Some(want)) => assert!(message.contains(want), "{message}"),
                (message, want) => panic!("got {message:?}, wanted {want:?}"),
            }
        }
        let pair = |primary: &str, secondary: &str| KeyPair {
            primary: primary.to_owned(),
            secondary: secondary.to_owned(),
        };
        let key = Key::generate().to_base64();
        let (sha1, sha256) = ("aB".repeat(20), "09".repeat(32));
        check(|_| {}, None);
        check(|new| new.status_reason = Some("ä".repeat(128)), None);
        check(|new| new.status_reason = Some("x".repeat(129)), Some("statusReason"));
        check(|new| new.authentication = Authentication::Sas(pair("", "")), None);
        check(|new| new.authentication = Authentication::Sas(pair(&key, &key)), None);
        check(|new| new.authentication = Authentication::Sas(pair(&key, "")), Some("both"));
        check(|new| new.authentication = Authentication::Sas(pair("", &key)), Some("both"));
        check(|new| new.authentication = Authentication::Sas(pair(&key, "QQ==")), Some("16 to 64"));
        check(|new| new.authentication = Authentication::Sas(pair("?", &key)), Some("base64"));
        let self_signed = |a: &str, b: &str| Authentication::SelfSigned(pair(a, b));
        check(|new| new.authentication = self_signed(&sha1, &sha256), None);
        check(|new| new.authentication = self_signed("", &sha1), None);
        check(|new| new.authentication = self_signed("", ""), Some("needs"));
        check(|new| new.authentication = self_signed(&sha1[1..], ""), Some("40"));
        check(|new| new.authentication = self_signed(&"x".repeat(40), ""), Some("hexadecimal"));
        let colons = ["AB"; 20].join(":");
        check(|new| new.authentication = self_signed(&colons, ""), Some("nothing between"));
        let scoped = |rest: &str| Some(format!("{SCOPE_SCHEME}{rest}"));
        check(|new| new.device_scope = scoped("parent-1"), None);
        check(|new| new.device_scope = scoped(""), Some("reads"));
        check(|new| new.device_scope = scoped(&"x".repeat(256)), Some("256"));
        check(|new| new.device_scope = Some("parent".into()), Some("reads"));
        check(|new| new.parent_scopes = scoped("a\nb").into_iter().collect(), Some("reads"));
        check(|new| new.parent_scopes = vec![scoped("a").expect("one"); 4], None);
        check(|new| new.parent_scopes = vec![scoped("a").expect("one"); 5], Some("at most 4"));
        check(|new| new.managed_by = Some("x".repeat(128)), None);
        check(|new| new.managed_by = Some("x".repeat(129)), Some("managedBy"));
        check(
            |new| {
                new.id = Identity::module("d", "m").expect("an id");
                new.status = Status::Disabled;
            },
            Some("cannot be disabled"),
        );
    }
}
