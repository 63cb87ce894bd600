//! Registry messages ↔ model.

use dunlin_model::{
    Authentication, ConnectionState, DeviceIdentity, ErrorCode, HubError, Identity, KeyPair,
    Session, Status, Subscriptions,
};

use crate::v1;

fn missing(what: &str) -> HubError {
    HubError::new(ErrorCode::ArgumentNull, format!("{what} is missing"))
}

impl From<KeyPair> for v1::KeyPair {
    fn from(keys: KeyPair) -> Self {
        Self { primary: keys.primary, secondary: keys.secondary }
    }
}

impl From<v1::KeyPair> for KeyPair {
    fn from(keys: v1::KeyPair) -> Self {
        Self { primary: keys.primary, secondary: keys.secondary }
    }
}

impl From<Authentication> for v1::Authentication {
    fn from(authentication: Authentication) -> Self {
        use v1::authentication::Kind;
        let kind = match authentication {
            Authentication::Sas(keys) => Kind::Sas(keys.into()),
            Authentication::SelfSigned(thumbprints) => Kind::SelfSigned(thumbprints.into()),
            Authentication::CertificateAuthority => Kind::CertificateAuthority(v1::Empty {}),
            Authentication::None => Kind::None(v1::Empty {}),
        };
        Self { kind: Some(kind), renew_keys: false }
    }
}

impl TryFrom<v1::Authentication> for Authentication {
    type Error = HubError;

    fn try_from(wire: v1::Authentication) -> Result<Self, HubError> {
        use v1::authentication::Kind;
        Ok(match wire.kind.ok_or_else(|| missing("authentication type"))? {
            Kind::Sas(keys) => Self::Sas(keys.into()),
            Kind::SelfSigned(thumbprints) => Self::SelfSigned(thumbprints.into()),
            Kind::CertificateAuthority(_) => Self::CertificateAuthority,
            Kind::None(_) => Self::None,
        })
    }
}

impl From<ConnectionState> for v1::ConnectionState {
    fn from(state: ConnectionState) -> Self {
        let ConnectionState { connected, updated, last_activity } = state;
        Self { connected, updated, last_activity }
    }
}

impl From<v1::ConnectionState> for ConnectionState {
    fn from(wire: v1::ConnectionState) -> Self {
        let v1::ConnectionState { connected, updated, last_activity } = wire;
        Self { connected, updated, last_activity }
    }
}

impl From<Session> for v1::Session {
    fn from(session: Session) -> Self {
        Self {
            subscriptions: session.subscriptions.bits(),
            model_id: session.model_id.unwrap_or_default(),
        }
    }
}

impl From<v1::Session> for Session {
    fn from(wire: v1::Session) -> Self {
        Self {
            subscriptions: Subscriptions::from_bits(wire.subscriptions),
            model_id: Some(wire.model_id).filter(|model| !model.is_empty()),
        }
    }
}

/// An outcome as a row of a bulk answer carries it.
impl From<Option<HubError>> for v1::RowResult {
    fn from(error: Option<HubError>) -> Self {
        match error {
            None => Self::default(),
            Some(error) => Self { error: error.code.number(), message: error.message },
        }
    }
}

impl From<v1::RowResult> for Option<HubError> {
    fn from(wire: v1::RowResult) -> Self {
        let code = match wire.error {
            0 => return None,
            // A newer peer may know more codes than we do.
            number => ErrorCode::from_number(number).unwrap_or(ErrorCode::ServerError),
        };
        Some(HubError::new(code, wire.message))
    }
}

impl From<DeviceIdentity> for v1::Identity {
    fn from(identity: DeviceIdentity) -> Self {
        Self {
            id: identity.id.as_str().to_owned(),
            generation_id: identity.generation_id,
            etag: identity.etag,
            status: match identity.status {
                Status::Enabled => v1::Status::Enabled,
                Status::Disabled => v1::Status::Disabled,
            }
            .into(),
            status_reason: identity.status_reason,
            status_updated: identity.status_updated,
            authentication: Some(identity.authentication.into()),
            iot_edge: Some(identity.iot_edge),
            device_scope: identity.device_scope,
            parent_scopes: Some(v1::ScopeList { scopes: identity.parent_scopes }),
            managed_by: identity.managed_by,
            connection: Some(identity.connection.into()),
        }
    }
}

impl TryFrom<v1::Identity> for DeviceIdentity {
    type Error = HubError;

    fn try_from(wire: v1::Identity) -> Result<Self, HubError> {
        let status = match wire.status() {
            v1::Status::Enabled => Status::Enabled,
            v1::Status::Disabled => Status::Disabled,
            v1::Status::Unspecified => return Err(missing("status")),
        };
        Ok(Self {
            id: Identity::parse(&wire.id)?,
            generation_id: wire.generation_id,
            etag: wire.etag,
            status,
            status_reason: wire.status_reason,
            status_updated: wire.status_updated,
            authentication: wire
                .authentication
                .ok_or_else(|| missing("authentication"))?
                .try_into()?,
            iot_edge: wire.iot_edge.unwrap_or_default(),
            device_scope: wire.device_scope,
            parent_scopes: wire.parent_scopes.unwrap_or_default().scopes,
            managed_by: wire.managed_by,
            connection: wire.connection.unwrap_or_default().into(),
        })
    }
}
