//! The hub's documented error codes. Each head maps them to its protocol in one table file.

use std::fmt;

macro_rules! codes {
    ($($name:ident = $number:literal,)*) => {
        /// An error code of the IoT Hub developer guide: HTTP status × 1000 + n.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum ErrorCode { $($name = $number,)* }

        impl ErrorCode {
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)*];

            /// The documented name, as `iothub-errorcode` carries it.
            pub fn name(self) -> &'static str {
                match self { $(ErrorCode::$name => stringify!($name),)* }
            }
        }
    };
}

codes! {
    InvalidProtocolVersion = 400_001,
    InvalidOperation = 400_003,
    ArgumentInvalid = 400_004,
    ArgumentNull = 400_005,
    IotHubFormatError = 400_006,
    DeviceDefinedMultipleTimes = 400_011,
    BulkRegistryOperationFailure = 400_013,
    ConnectionForcefullyClosedOnNewConnection = 400_027,
    InvalidDeviceScope = 400_028,
    InvalidPolicyKey = 400_035,
    BulkRegenerateDeviceKeyOperationFailure = 400_036,
    IotHubUnauthorizedAccess = 401_002,
    IotHubUnauthorized = 401_003,
    SystemModuleModifyUnauthorizedAccess = 401_100,
    GenericForbidden = 403_000,
    IotHubQuotaExceeded = 403_002,
    DeviceMaximumQueueDepthExceeded = 403_004,
    InvalidMessageExpiryTime = 403_009,
    DeviceDisabled = 403_012,
    DeviceMaximumInflightMethodExceeded = 403_800,
    GenericNotFound = 404_000,
    DeviceNotFound = 404_001,
    ModuleNotFound = 404_010,
    DeviceNotOnline = 404_103,
    DeviceConnectionClosedRemotely = 404_104,
    GenericMethodNotAllowed = 405_000,
    GenericConflict = 409_000,
    DeviceAlreadyExists = 409_001,
    ModuleAlreadyExistsOnDevice = 409_301,
    PreconditionFailed = 412_001,
    DeviceMessageLockLost = 412_002,
    MessageTooLarge = 413_001,
    TooManyDevices = 413_002,
    TooManyModulesOnDevice = 413_003,
    ThrottlingException = 429_001,
    ServerError = 500_001,
    GenericTimeout = 500_008,
    InvalidResponseWhileProxying = 502_101,
    ServiceUnavailable = 503_001,
    ServerBusy = 503_005,
    GatewayTimeout = 504_101,
}

impl ErrorCode {
    pub fn number(self) -> u32 {
        self as u32
    }

    pub fn http_status(self) -> u16 {
        u16::try_from(self.number() / 1_000).unwrap_or(500)
    }

    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.number() == number)
    }

    /// Whether the same request may succeed later without anybody changing anything.
    pub fn retryable(self) -> bool {
        // A device that answers nonsense will do so again.
        self != Self::InvalidResponseWhileProxying && matches!(self.http_status(), 429 | 500..)
    }
}

/// What the hub answers when it refuses or fails. The message is for the caller: no secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubError {
    pub code: ErrorCode,
    pub message: String,
}

impl HubError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub fn retryable(&self) -> bool {
        self.code.retryable()
    }
}

impl fmt::Display for HubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code.number(), self.code.name(), self.message)
    }
}

impl std::error::Error for HubError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_its_number() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), Some(*code));
        }
        assert_eq!(ErrorCode::from_number(1), None);
        assert_eq!(ErrorCode::DeviceDisabled.http_status(), 403);
    }

    #[test]
    fn only_passing_faults_are_retryable() {
        assert!(ErrorCode::ServiceUnavailable.retryable());
        assert!(ErrorCode::ThrottlingException.retryable());
        assert!(ErrorCode::GatewayTimeout.retryable());
        assert!(!ErrorCode::IotHubUnauthorized.retryable());
        assert!(!ErrorCode::PreconditionFailed.retryable());
        assert!(!ErrorCode::InvalidResponseWhileProxying.retryable());
    }
}
