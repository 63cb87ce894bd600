//! A D2C message as the event log keeps it: key = device id, value = body, headers = properties.
//!
//! The layout is the same on disk and on Kafka. A header whose name begins with `$.` is a system
//! property under its AMQP name; every other header is an application property. No device can
//! forge the former: a property bag key that begins with `$.` is a system property by definition,
//! and those of the hub's own are refused there.

/// Names of the system properties as headers.
pub mod header {
    pub const MESSAGE_ID: &str = "$.message-id";
    pub const CORRELATION_ID: &str = "$.correlation-id";
    pub const USER_ID: &str = "$.user-id";
    pub const TO: &str = "$.to";
    pub const ABSOLUTE_EXPIRY_TIME: &str = "$.absolute-expiry-time";
    pub const CONTENT_TYPE: &str = "$.content-type";
    pub const CONTENT_ENCODING: &str = "$.content-encoding";
    pub const CREATION_TIME: &str = "$.iothub-creation-time-utc";
    pub const INTERFACE_ID: &str = "$.iothub-interface-id";
    pub const MESSAGE_SCHEMA: &str = "$.iothub-message-schema";
    pub const OUTPUT_NAME: &str = "$.iothub-outputname";
    pub const ACK: &str = "$.iothub-ack";
    pub const OPERATION: &str = "$.iothub-operation";
    pub const SUBJECT: &str = "$.dt-subject";
    pub const DATA_SCHEMA: &str = "$.dt-dataschema";
    pub const DIAGNOSTIC_ID: &str = "$.Diagnostic-Id";
    pub const CORRELATION_CONTEXT: &str = "$.Correlation-Context";
    pub const ENQUEUED_TIME: &str = "$.iothub-enqueuedtime";
    pub const CONNECTION_DEVICE_ID: &str = "$.iothub-connection-device-id";
    pub const CONNECTION_MODULE_ID: &str = "$.iothub-connection-module-id";
    pub const AUTH_GENERATION_ID: &str = "$.iothub-connection-auth-generation-id";
    pub const AUTH_METHOD: &str = "$.iothub-connection-auth-method";
    pub const MESSAGE_SOURCE: &str = "$.iothub-message-source";
}

/// Prefix of every system property header.
pub const SYSTEM_PREFIX: &str = "$.";

/// `mqtt-retain`: what becomes of RETAIN=1 (IoT Hub MQTT support).
pub const RETAIN_PROPERTY: &str = "mqtt-retain";
/// `mqtt-dup`: the DUP flag of a PUBLISH, as the vendor's protocol gateway marks it.
pub const DUP_PROPERTY: &str = "mqtt-dup";
/// `iothub-MessageType` = `Will` marks a will message (IoT Hub MQTT support).
pub const MESSAGE_TYPE_PROPERTY: &str = "iothub-MessageType";

/// One property. A bag item without `=` has no value, which is not the empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    pub name: String,
    pub value: Option<String>,
}

/// A record read back from the event log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub partition: u32,
    /// Position in the partition: dense but for records a failed write left out.
    pub offset: u64,
    /// When the hub took it, Unix milliseconds (`iothub-enqueuedtime`).
    pub enqueued: i64,
    /// Device id.
    pub key: Vec<u8>,
    pub headers: Vec<Property>,
    pub body: Vec<u8>,
}

impl Event {
    /// The first header of that name; an absent value is no value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|p| p.name == name).and_then(|p| p.value.as_deref())
    }

    pub fn application_properties(&self) -> impl Iterator<Item = &Property> {
        self.headers.iter().filter(|p| !p.name.starts_with(SYSTEM_PREFIX))
    }

    pub fn system_properties(&self) -> impl Iterator<Item = &Property> {
        self.headers.iter().filter(|p| p.name.starts_with(SYSTEM_PREFIX))
    }
}
