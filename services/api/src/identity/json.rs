//! The JSON of devices and modules (IoT Hub's field names), to and from the registry's messages.

use dunlin_model::{Authentication, DeviceIdentity, ErrorCode, KeyPair, Status};
use dunlin_proto::v1;
use serde::{Deserialize, Serialize};

use crate::error::ApiError;

/// What clients write. They send whatever they once read, so unknown and read-only fields pass.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Body {
    device_id: Option<String>,
    module_id: Option<String>,
    status: Option<String>,
    status_reason: Option<String>,
    authentication: Option<AuthenticationBody>,
    capabilities: Option<Capabilities>,
    device_scope: Option<String>,
    parent_scopes: Option<Vec<String>>,
    managed_by: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct AuthenticationBody {
    symmetric_key: Option<SymmetricKey>,
    x509_thumbprint: Option<X509Thumbprint>,
    r#type: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SymmetricKey {
    primary_key: Option<String>,
    secondary_key: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct X509Thumbprint {
    pub primary_thumbprint: Option<String>,
    pub secondary_thumbprint: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Capabilities {
    pub iot_edge: bool,
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::ArgumentInvalid, message)
}

impl Body {
    /// Of a row in a bulk call, whose ids are named and checked otherwise.
    pub(super) fn without_ids(self) -> Self {
        Self { device_id: None, module_id: None, ..self }
    }

    /// The registry's message for the identity the path names.
    pub(super) fn into_wire(
        self,
        device: &str,
        module: Option<&str>,
    ) -> Result<v1::Identity, ApiError> {
        if self.device_id.is_some_and(|id| id != device) {
            return Err(invalid("deviceId of the body is not the one of the path"));
        }
        if self.module_id.is_some_and(|id| Some(id.as_str()) != module) {
            return Err(invalid("moduleId of the body is not the one of the path"));
        }
        let status = match self.status.as_deref().map(|text| (text, Status::parse(text))) {
            None => v1::Status::Unspecified,
            Some((_, Some(Status::Enabled))) => v1::Status::Enabled,
            Some((_, Some(Status::Disabled))) => v1::Status::Disabled,
            Some((text, None)) => {
                return Err(invalid(format!("status is enabled or disabled, not {text:?}")));
            }
        };
        Ok(v1::Identity {
            id: match module {
                Some(module) => format!("{device}/{module}"),
                None => device.to_owned(),
            },
            status: status.into(),
            status_reason: self.status_reason,
            iot_edge: self.capabilities.map(|capabilities| capabilities.iot_edge),
            device_scope: self.device_scope,
            parent_scopes: self.parent_scopes.map(|scopes| v1::ScopeList { scopes }),
            managed_by: self.managed_by,
            authentication: self.authentication.map(AuthenticationBody::into_wire).transpose()?,
            ..v1::Identity::default()
        })
    }
}

impl AuthenticationBody {
    fn into_wire(self) -> Result<v1::Authentication, ApiError> {
        let keys = self.symmetric_key.unwrap_or_default();
        let keys = pair(keys.primary_key, keys.secondary_key);
        let thumbprints = self.x509_thumbprint.unwrap_or_default();
        let thumbprints = pair(thumbprints.primary_thumbprint, thumbprints.secondary_thumbprint);
        let authentication = match self.r#type.as_deref().map(str::to_ascii_lowercase).as_deref() {
            // As the SDKs complete it.
            None if thumbprints != KeyPair::default() => Authentication::SelfSigned(thumbprints),
            None | Some("sas") => Authentication::Sas(keys),
            Some("selfsigned") => Authentication::SelfSigned(thumbprints),
            Some("certificateauthority") => Authentication::CertificateAuthority,
            Some("none") => Authentication::None,
            Some(_) => {
                return Err(invalid(
                    "authentication.type is sas, selfSigned, certificateAuthority or none",
                ));
            }
        };
        Ok(authentication.into())
    }
}

fn pair(primary: Option<String>, secondary: Option<String>) -> KeyPair {
    KeyPair { primary: primary.unwrap_or_default(), secondary: secondary.unwrap_or_default() }
}

/// What clients read.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Shown {
    #[serde(rename_all = "camelCase")]
    Device {
        device_id: String,
        generation_id: String,
        etag: String,
        connection_state: &'static str,
        status: &'static str,
        status_reason: Option<String>,
        connection_state_updated_time: String,
        status_updated_time: String,
        last_activity_time: String,
        cloud_to_device_message_count: u32,
        authentication: AuthenticationBody,
        capabilities: Capabilities,
        #[serde(skip_serializing_if = "Option::is_none")]
        device_scope: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        parent_scopes: Vec<String>,
    },
    #[serde(rename_all = "camelCase")]
    Module {
        module_id: String,
        managed_by: Option<String>,
        device_id: String,
        generation_id: String,
        etag: String,
        connection_state: &'static str,
        connection_state_updated_time: String,
        last_activity_time: String,
        cloud_to_device_message_count: u32,
        authentication: AuthenticationBody,
    },
}

impl Shown {
    pub(super) fn with_queued(mut self, queued: u32) -> Self {
        if let Self::Device { cloud_to_device_message_count, .. } = &mut self {
            *cloud_to_device_message_count = queued;
        }
        self
    }
}

impl From<DeviceIdentity> for Shown {
    fn from(identity: DeviceIdentity) -> Self {
        let DeviceIdentity { id, generation_id, etag, authentication, connection, .. } = identity;
        let device_id = id.device_id().to_owned();
        let authentication = authentication.into();
        let connection_state = if connection.connected { "Connected" } else { "Disconnected" };
        let connection_state_updated_time = time(connection.updated);
        let last_activity_time = time(connection.last_activity);
        match id.module_id() {
            None => Self::Device {
                device_id,
                generation_id,
                etag,
                connection_state,
                status: identity.status.as_str(),
                status_reason: identity.status_reason,
                connection_state_updated_time,
                status_updated_time: time(identity.status_updated),
                last_activity_time,
                cloud_to_device_message_count: 0,
                authentication,
                capabilities: Capabilities { iot_edge: identity.iot_edge },
                device_scope: identity.device_scope,
                parent_scopes: identity.parent_scopes,
            },
            Some(module) => Self::Module {
                module_id: module.to_owned(),
                managed_by: identity.managed_by,
                device_id,
                generation_id,
                etag,
                connection_state,
                connection_state_updated_time,
                last_activity_time,
                cloud_to_device_message_count: 0,
                authentication,
            },
        }
    }
}

impl From<Authentication> for AuthenticationBody {
    fn from(authentication: Authentication) -> Self {
        let r#type = authentication.type_name().to_owned();
        let (mut keys, mut thumbprints) = (SymmetricKey::default(), X509Thumbprint::default());
        let given = |text: String| (!text.is_empty()).then_some(text);
        match authentication {
            Authentication::Sas(pair) => {
                keys.primary_key = given(pair.primary);
                keys.secondary_key = given(pair.secondary);
            }
            Authentication::SelfSigned(pair) => {
                thumbprints.primary_thumbprint = given(pair.primary);
                thumbprints.secondary_thumbprint = given(pair.secondary);
            }
            Authentication::CertificateAuthority | Authentication::None => {}
        }
        Self { symmetric_key: Some(keys), x509_thumbprint: Some(thumbprints), r#type: Some(r#type) }
    }
}

/// ISO 8601 in UTC; the year 1 stands for never.
pub(crate) fn time(unix_millis: i64) -> String {
    match jiff::Timestamp::from_millisecond(unix_millis) {
        Ok(time) if unix_millis != 0 => format!("{time:.3}"),
        _ => "0001-01-01T00:00:00Z".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn bodies_are_read_as_the_sdks_write_them() {
        #[track_caller]
        fn check(body: Value, want: Result<Authentication, &str>) {
            let body: Body = serde_json::from_value(body).expect("a body");
            let got = body.into_wire("d", None).map(|wire| {
                let wire = wire
                    .authentication
                    .unwrap_or_else(|| Authentication::Sas(KeyPair::default()).into());
                Authentication::try_from(wire).expect("complete")
            });
            match (got, want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(got), Err(want)) => {
                    assert_eq!(got.0.code, ErrorCode::ArgumentInvalid);
                    assert!(got.0.message.contains(want), "{}", got.0.message);
                }
                (got, want) => panic!("got {got:?}, wanted {want:?}"),
            }
        }
        let sas = |primary: &str, secondary: &str| {
            Ok(Authentication::Sas(pair(Some(primary.into()), Some(secondary.into()))))
        };
        check(json!({"deviceId": "d"}), sas("", ""));
        check(json!({"deviceId": "d", "somethingNew": {"a": [1]}, "etag": "x"}), sas("", ""));
        check(
            json!({"authentication": {"symmetricKey": {"primaryKey": "a", "secondaryKey": "b"}}}),
            sas("a", "b"),
        );
        check(json!({"authentication": {"type": "SAS", "symmetricKey": null}}), sas("", ""));
        check(
            json!({"authentication": {"x509Thumbprint": {"primaryThumbprint": "ab"}}}),
            Ok(Authentication::SelfSigned(pair(Some("ab".into()), None))),
        );
        check(
            json!({"authentication": {"type": "certificateAuthority"}}),
            Ok(Authentication::CertificateAuthority),
        );
        check(json!({"deviceId": "e"}), Err("deviceId"));
        check(json!({"moduleId": "m"}), Err("moduleId"));
        check(json!({"status": "sleeping"}), Err("sleeping"));
        check(json!({"authentication": {"type": "magic"}}), Err("authentication.type"));
        check(json!({"capabilities": {"iotEdge": true}, "deviceScope": null}), sas("", ""));
    }

    #[test]
    fn times_are_iso_8601() {
        assert_eq!(time(0), "0001-01-01T00:00:00Z");
        assert_eq!(time(1_489_442_989_100), "2017-03-13T22:09:49.100Z");
    }
}
