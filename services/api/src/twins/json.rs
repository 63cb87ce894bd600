//! The JSON of twins. What a twin holds is handed on as it was written: the role `twins` alone
//! judges names, numbers and sizes.

use dunlin_model::{Authentication, DeviceIdentity, ErrorCode};
use dunlin_proto::v1;
use serde::{Deserialize, Serialize};
use serde_json::Error;
use serde_json::value::RawValue;

use crate::body::members;
use crate::error::ApiError;
use crate::identity::{Capabilities, X509Thumbprint, time};

/// What clients write. They send whatever they once read, so everything else passes unread: the
/// reported properties too, which are the device's own.
#[derive(Debug, Deserialize)]
pub(super) struct Body<'a> {
    #[serde(borrow)]
    tags: Option<&'a RawValue>,
    #[serde(borrow)]
    properties: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    desired: Option<&'a RawValue>,
}

impl Body<'_> {
    /// Tags and desired properties, where they are given. `null` counts as left out.
    pub(super) fn into_parts(self) -> Result<(Option<String>, Option<String>), Error> {
        let desired = match self.properties {
            Some(properties) => members::<Written>(properties.get().as_bytes())?.desired,
            None => None,
        };
        let text = |raw: &RawValue| raw.get().to_owned();
        Ok((self.tags.map(text), desired.map(text)))
    }
}

/// What clients read.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown {
    device_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    module_id: Option<String>,
    etag: String,
    device_etag: String,
    status: &'static str,
    status_reason: Option<String>,
    status_update_time: String,
    connection_state: &'static str,
    last_activity_time: String,
    cloud_to_device_message_count: u32,
    authentication_type: String,
    x509_thumbprint: X509Thumbprint,
    model_id: String,
    version: u64,
    tags: Box<RawValue>,
    properties: Properties,
    /// Of a device only.
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<Capabilities>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_scope: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parent_scopes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Properties {
    desired: Box<RawValue>,
    reported: Box<RawValue>,
}

impl Shown {
    /// `queued`: the C2D messages that wait for the device.
    pub(super) fn of(wire: v1::Twin, queued: u32) -> Result<Self, ApiError> {
        // How it authenticates is told beside it, without the keys.
        let identity = v1::Identity {
            authentication: Some(Authentication::None.into()),
            ..wire.identity.ok_or_else(|| broken("there is no identity"))?
        };
        let identity = DeviceIdentity::try_from(identity).map_err(|error| broken(error.message))?;
        let thumbprints = wire.thumbprints.unwrap_or_default();
        let given = |text: String| (!text.is_empty()).then_some(text);
        let module_id = identity.id.module_id().map(str::to_owned);
        Ok(Self {
            device_id: identity.id.device_id().to_owned(),
            capabilities: match module_id {
                None => Some(Capabilities { iot_edge: identity.iot_edge }),
                Some(_) => None,
            },
            module_id,
            etag: wire.etag,
            device_etag: identity.etag,
            status: identity.status.as_str(),
            status_reason: identity.status_reason,
            status_update_time: time(identity.status_updated),
            connection_state: if identity.connection.connected {
                "Connected"
            } else {
                "Disconnected"
            },
            last_activity_time: time(identity.connection.last_activity),
            cloud_to_device_message_count: queued,
            authentication_type: wire.auth_type,
            x509_thumbprint: X509Thumbprint {
                primary_thumbprint: given(thumbprints.primary),
                secondary_thumbprint: given(thumbprints.secondary),
            },
            model_id: wire.model_id,
            version: wire.version,
            tags: RawValue::from_string(wire.tags).map_err(|error| broken(error.to_string()))?,
            properties: Properties {
                desired: section(wire.desired.unwrap_or_default())?,
                reported: section(wire.reported.unwrap_or_default())?,
            },
            device_scope: identity.device_scope,
            parent_scopes: identity.parent_scopes,
        })
    }
}

/// Puts `$metadata` and `$version` among the properties, none of which has such a name.
fn section(wire: v1::Section) -> Result<Box<RawValue>, ApiError> {
    let v1::Section { properties, metadata, version } = wire;
    let members = properties.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let members = members.ok_or_else(|| broken("properties are no object"))?.trim();
    let comma = if members.is_empty() { "" } else { "," };
    let text = format!(r#"{{{members}{comma}"$metadata":{metadata},"$version":{version}}}"#);
    RawValue::from_string(text).map_err(|error| broken(error.to_string()))
}

/// What `twins` sent is wrong: that is never the caller's fault.
fn broken(why: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::ServerError, format!("the twin: {}", why.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn parts_are_handed_on_as_they_were_written() {
        #[track_caller]
        fn check(body: &str, want: (Option<&str>, Option<&str>)) {
            let body: Body = members(body.as_bytes()).expect("a body");
            let (tags, desired) = body.into_parts().expect("parts");
            assert_eq!((tags.as_deref(), desired.as_deref()), want);
        }
        check("{}", (None, None));
        check(r#" {"tags":null,"properties":null} "#, (None, None));
        check(r#"{"properties":{"desired":null,"reported":{"a":1}}}"#, (None, None));
        check(r#"{"tags": {"a":1.50, "a":2} }"#, (Some(r#"{"a":1.50, "a":2}"#), None));
        check(r#"{"tags":[1],"properties":{"desired":7}}"#, (Some("[1]"), Some("7")));
        check(
            r#"{"deviceId":5,"etag":[],"properties":{"x":1,"desired":{"n":1e999,"$version":3}}}"#,
            (None, Some(r#"{"n":1e999,"$version":3}"#)),
        );
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        check(&format!(r#"{{"tags":{deep},"other":{deep}}}"#), (Some(&deep), None));
    }

    #[test]
    fn a_body_is_an_object_all_the_way_to_the_parts() {
        for body in [
            "",
            "null",
            "[]",
            r#"[{"a":1},{"desired":{}}]"#,
            r#"{"tags":{}"#,
            r#"{"tags":{}}}"#,
            r#"{"tags":{},"tags":{}}"#,
            r#"{"tags":{},"t\u0061gs":{}}"#,
            r#"{"tags":{"a":}}"#,
            r#"{"other":{"a":}}"#,
            r#"{"properties":[{"a":1}]}"#,
            r#"{"properties":"x"}"#,
            r#"{"properties":{"desired":{},"desired":{}}}"#,
        ] {
            let read = members::<Body>(body.as_bytes()).and_then(Body::into_parts);
            assert!(read.is_err(), "{body}");
        }
        for place in ["{\"tags\":{\"a\":\"\u{1}\"}}", "{\"x\":\"\u{1}\"}"] {
            let spoilt: Vec<u8> =
                place.bytes().map(|byte| if byte == 1 { 0xff } else { byte }).collect();
            assert!(members::<Body>(&spoilt).is_err(), "not UTF-8: {place}");
        }
    }

    fn twin(id: &str) -> v1::Twin {
        v1::Twin {
            identity: Some(v1::Identity {
                id: id.to_owned(),
                etag: "MTg2".to_owned(),
                status: v1::Status::Enabled.into(),
                iot_edge: Some(true),
                connection: Some(v1::ConnectionState {
                    connected: true,
                    updated: 1,
                    last_activity: 1_489_442_989_100,
                }),
                ..v1::Identity::default()
            }),
            auth_type: "selfSigned".to_owned(),
            thumbprints: Some(v1::KeyPair { primary: "AB".to_owned(), secondary: String::new() }),
            etag: "AAAAAAAAAAE=".to_owned(),
            version: 3,
            tags: r#"{"n":1.50}"#.to_owned(),
            desired: Some(v1::Section {
                properties: r#"{"a":{"b":1}}"#.to_owned(),
                metadata: r#"{"$lastUpdated":"t"}"#.to_owned(),
                version: 2,
            }),
            reported: Some(v1::Section {
                properties: "{}".to_owned(),
                metadata: "{}".to_owned(),
                version: 1,
            }),
            model_id: "dtmi:a;1".to_owned(),
        }
    }

    #[test]
    fn a_twin_is_shown_whole() {
        let text = serde_json::to_string(&Shown::of(twin("d"), 3).expect("shown")).expect("JSON");
        assert!(text.contains(r#""tags":{"n":1.50}"#), "{text}");
        let want = json!({
            "deviceId": "d", "etag": "AAAAAAAAAAE=", "deviceEtag": "MTg2", "status": "enabled",
            "statusReason": null, "statusUpdateTime": "0001-01-01T00:00:00Z",
            "connectionState": "Connected", "lastActivityTime": "2017-03-13T22:09:49.100Z",
            "cloudToDeviceMessageCount": 3, "authenticationType": "selfSigned",
            "x509Thumbprint": {"primaryThumbprint": "AB", "secondaryThumbprint": null},
            "modelId": "dtmi:a;1", "version": 3, "tags": {"n": 1.5},
            "properties": {
                "desired": {"a": {"b": 1}, "$metadata": {"$lastUpdated": "t"}, "$version": 2},
                "reported": {"$metadata": {}, "$version": 1},
            },
            "capabilities": {"iotEdge": true},
        });
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), want);
        let module = serde_json::to_value(Shown::of(twin("d/m"), 0).expect("shown"));
        let module = module.expect("JSON");
        assert_eq!((&module["deviceId"], &module["moduleId"]), (&json!("d"), &json!("m")));
        assert!(module.get("capabilities").is_none());
    }

    #[test]
    fn what_is_no_twin_is_an_error_of_ours() {
        let spoil: [fn(&mut v1::Twin); 5] = [
            |twin| twin.identity = None,
            |twin| twin.tags.clear(),
            |twin| twin.desired = None,
            |twin| twin.reported.as_mut().expect("reported").metadata = "{".to_owned(),
            |twin| twin.identity.as_mut().expect("an identity").id = "a b".to_owned(),
        ];
        for (number, spoil) in spoil.iter().enumerate() {
            let mut twin = twin("d");
            spoil(&mut twin);
            let error = Shown::of(twin, 0).expect_err("spoilt");
            assert_eq!(error.0.code, ErrorCode::ServerError, "{number}");
        }
    }
}
