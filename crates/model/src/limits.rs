//! Documented limits of IoT Hub, with their units and where they are stated.

/// A D2C message: body, system property values, application property names and values, in bytes
/// (IoT Hub quotas: 256 KB).
pub const D2C_MESSAGE_BYTES: usize = 262_144;

/// A device or module id, in characters (identity registry documentation).
pub const ID_CHARS: usize = 128;

/// `statusReason` of a device identity, in characters (identity registry documentation).
pub const STATUS_REASON_CHARS: usize = 128;

/// The longest silence of an MQTT client, in seconds: 29.45 minutes, whatever keep-alive it asked
/// for (IoT Hub MQTT support, "maximum keep-alive").
pub const MQTT_SILENCE_SECONDS: u32 = 1_767;

/// How far a SAS token may be past its expiry, in seconds: the SDKs' clock skew allowance.
pub const SAS_SKEW_SECONDS: u64 = 300;

/// A symmetric key after base64 decoding, in bytes (the SDKs' `SymmetricKey` validation).
pub const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// Devices in one page of `GET /devices` (identity registry documentation).
pub const LIST_DEVICES: usize = 1_000;

/// Modules of one device, the two of the IoT Edge runtime aside (IoT Hub quotas).
pub const MODULES_PER_DEVICE: usize = 50;

/// Consumer groups of one topic, `$Default` among them (Event Hub-compatible endpoint).
pub const CONSUMER_GROUPS: usize = 20;

/// The consumer group that every topic has.
pub const DEFAULT_GROUP: &str = "$Default";

/// Rows in one bulk call on the registry (identity registry documentation).
pub const BULK_DEVICES: usize = 100;

/// Shared access policies of a hub (IoT Hub quotas).
pub const POLICIES: usize = 16;

/// The name of a shared access policy, in characters (IoT Hub resource provider).
pub const POLICY_NAME_CHARS: usize = 64;

/// CA certificates of a hub (IoT Hub quotas).
pub const AUTHORITIES: usize = 25;

/// The name of a CA certificate, in characters (IoT Hub resource provider).
pub const AUTHORITY_NAME_CHARS: usize = 64;

/// The certificates a client presents, leaf and intermediates, and their DER together: our own.
/// Each connection holds them for as long as it lives.
pub const CLIENT_CERTIFICATES: usize = 8;
pub const CLIENT_CERTIFICATE_BYTES: usize = 16 * 1024;

/// Whether certificates of these lengths keep to both.
pub fn client_certificates_fit(lengths: impl Iterator<Item = usize>) -> bool {
    let (count, bytes) = lengths.fold((0, 0), |(count, sum), length| (count + 1, sum + length));
    count <= CLIENT_CERTIFICATES && bytes <= CLIENT_CERTIFICATE_BYTES
}

/// `deviceScope` and each of `parentScopes`, in bytes: our own. The longest that the hub makes has
/// 167, and a page of devices with the longest of everything must fit a message between roles.
pub const SCOPE_BYTES: usize = 256;

/// `parentScopes` of a device: our own; IoT Hub has one parent a device.
pub const PARENT_SCOPES: usize = 4;

/// What the payload of a direct method and that of its answer may be limited to, in bytes (direct
/// methods documentation: 128 KB each way; 8 KB in 2017).
pub const METHOD_PAYLOAD_BYTES: std::ops::RangeInclusive<usize> = 8_192..=131_072;

/// The name of a direct method, in characters: our own, as long as an id.
pub const METHOD_NAME_CHARS: usize = 128;

/// `responseTimeoutInSeconds` of a direct method (direct methods documentation).
pub const METHOD_RESPONSE_SECONDS: std::ops::RangeInclusive<u32> = 5..=300;

/// How far a setting may raise the longest of them: what the documentation of 2017 allowed.
pub const METHOD_RESPONSE_SECONDS_RAISED: u32 = 3_600;

/// Where a call names none (direct methods documentation).
pub const METHOD_RESPONSE_SECONDS_DEFAULT: u32 = 30;

/// `connectTimeoutInSeconds` of a direct method (direct methods documentation).
pub const METHOD_CONNECT_SECONDS: std::ops::RangeInclusive<u32> = 0..=300;

/// A call of a direct method from its beginning to its end, whatever is set.
pub const METHOD_SECONDS: u32 = METHOD_RESPONSE_SECONDS_RAISED + *METHOD_CONNECT_SECONDS.end();

/// A C2D message: body, system property values, application property names and values, in bytes
/// (IoT Hub quotas: 64 KB).
pub const COMMAND_BYTES: usize = 65_536;

/// `message-id` and `correlation-id` of a C2D message, in characters (message format documentation).
pub const MESSAGE_ID_CHARS: usize = 128;

/// How far ahead a C2D message may expire, in seconds (C2D documentation: 2 days).
pub const COMMAND_TTL_SECONDS: std::ops::RangeInclusive<u32> = 60..=172_800;

/// How often a C2D message may be handed out in vain (C2D documentation).
pub const DELIVERY_COUNT: std::ops::RangeInclusive<u32> = 1..=100;

/// How long a batch of feedback may be locked, in seconds (C2D documentation).
pub const LOCK_SECONDS: std::ops::RangeInclusive<u32> = 5..=300;
