//! A registered device or module: what the identity registry keeps of it.

use std::fmt;

use crate::id::Identity;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Status {
    #[default]
    Enabled,
    Disabled,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Enabled, Self::Disabled].into_iter().find(|s| s.as_str().eq_ignore_ascii_case(text))
    }
}

/// Two values of which either is valid, so that one can be changed while the other is in use.
/// Base64 for keys, hex for thumbprints.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct KeyPair {
    pub primary: String,
    pub secondary: String,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(..)")
    }
}

/// How an identity proves itself (`authentication.type` of the REST API).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    Sas(KeyPair),
    /// X.509 certificate known by its thumbprint.
    SelfSigned(KeyPair),
    CertificateAuthority,
    None,
}

impl Authentication {
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Sas(_) => "sas",
            Self::SelfSigned(_) => "selfSigned",
            Self::CertificateAuthority => "certificateAuthority",
            Self::None => "none",
        }
    }
}

/// The modules of the IoT Edge runtime: an Edge device has them, and no client may change them.
pub const SYSTEM_MODULES: [&str; 2] = ["$edgeAgent", "$edgeHub"];

/// Whether a module id is one of [`SYSTEM_MODULES`].
pub fn is_system_module(module_id: &str) -> bool {
    SYSTEM_MODULES.contains(&module_id)
}

/// What the hub knows of an identity's connection. It lags: see docs/registry.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ConnectionState {
    pub connected: bool,
    /// Since when it is, or is not.
    pub updated: i64,
    /// Last connect, disconnect or packet.
    pub last_activity: i64,
}

/// An entry of the identity registry. Times are Unix milliseconds, 0 = never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceIdentity {
    pub id: Identity,
    /// New on every creation, so that a device made again under an old id is told apart.
    pub generation_id: String,
    /// Bare, without quotes.
    pub etag: String,
    pub status: Status,
    pub status_reason: Option<String>,
    pub status_updated: i64,
    pub authentication: Authentication,
    /// `capabilities.iotEdge`; never of a module.
    pub iot_edge: bool,
    /// An Edge device's own scope; of others, their parent's.
    pub device_scope: Option<String>,
    pub parent_scopes: Vec<String>,
    /// Of a module: who looks after it.
    pub managed_by: Option<String>,
    pub connection: ConnectionState,
}
