//! How a command fails: what is said on stderr, and the exit code (1 refused, 2 usage, 3 cannot
//! reach the hub).

use std::process::ExitCode;

use crate::client::ClientError;

#[derive(Debug)]
pub(super) enum Failure {
    /// The command as given makes no sense.
    Usage(String),
    Client(ClientError),
    /// The hub said no by another way than its REST API, or what it said is of no use.
    Refused(String),
    /// The hub was there, and is not any more.
    Lost(String),
    /// There is no hub to ask.
    NoHub(String),
    Other(anyhow::Error),
    /// Who read our output has gone, and wants to hear nothing more.
    BrokenPipe,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl Failure {
    pub(super) fn report(self) -> ExitCode {
        let (text, code) = match self {
            Self::Usage(text) => (text, 2),
            Self::NoHub(text) | Self::Lost(text) => (text, 3),
            Self::Refused(text) => (text, 1),
            Self::Other(error) => (format!("{error:#}"), 1),
            Self::BrokenPipe => return ExitCode::SUCCESS,
            Self::Client(error) => {
                let (next, code) = advice(&error);
                (format!("{error}{next}"), code)
            }
        };
        eprintln!("error: {text}");
        ExitCode::from(code)
    }
}

/// What to do next, and the exit code.
fn advice(error: &ClientError) -> (&'static str, u8) {
    match error {
        ClientError::Refused { code, message, .. } => match code.as_str() {
            "GenericNotFound" if message.contains("policy") => {
                ("\n`dunlin policy list` shows what there is", 1)
            }
            "GenericConflict" if message.contains("policy") => {
                ("\n`dunlin policy show -n NAME` shows it", 1)
            }
            "DeviceNotFound" => ("\n`dunlin device list` shows what is registered", 1),
            "DeviceAlreadyExists" => ("\n`dunlin device show -d ID` shows it", 1),
            "CertificateNotFound" => ("\n`dunlin ca list` shows the hub's CA certificates", 1),
            "ArgumentInvalid" if message.contains("generate a verification code") => {
                ("\n`dunlin ca verify -n NAME` without --path prints one, and how to sign it", 1)
            }
            "ModuleNotFound" => ("\n`dunlin module list -d ID` shows the device's modules", 1),
            "ModuleAlreadyExistsOnDevice" => ("\n`dunlin module show -d ID -m ID` shows it", 1),
            "PreconditionFailed" => {
                ("\nit has changed: `show` tells the current ETag; without --etag, any will do", 1)
            }
            "DeviceNotOnline" => {
                ("\nit is not connected or takes no methods: --connect-timeout waits for it", 1)
            }
            "DeviceMaximumQueueDepthExceeded" => {
                ("\n`dunlin c2d purge -d ID` empties it; c2d.depth in the hub's configuration", 1)
            }
            "InvalidMessageExpiryTime" => {
                ("\n--expiry-time-utc is in milliseconds: `date +%s%3N` is now", 1)
            }
            "DeviceMessageLockLost" => {
                ("\nit was held for too long, or is settled: receive it again", 1)
            }
            "GatewayTimeout" => ("\nthe device is there: --timeout gives it more time", 1),
            "ThrottlingException" | "ServerBusy" | "ServiceUnavailable" => {
                ("\nthe hub is busy or starting: try again in a while", 1)
            }
            // What a device is told, which here has a good token.
            "IotHubUnauthorized" if message.contains("valid for this identity") => {
                ("\n`dunlin device show -d ID` shows whether it is disabled", 1)
            }
            "IotHubUnauthorized" | "IotHubUnauthorizedAccess" => {
                ("\ncheck the policy and key of --login (or DUNLIN_LOGIN)", 1)
            }
            _ => ("", 1),
        },
        ClientError::Unreachable { reason, .. } if reason.contains("certificate") => {
            ("\nset DUNLIN_CA to the hub's CA file (`dunlin up` prints where it is)", 3)
        }
        ClientError::Unreachable { .. } => {
            ("\nstart a hub with `dunlin up`, or name another with --login (or DUNLIN_LOGIN)", 3)
        }
        ClientError::NotAHub { .. } => ("\ncheck the host name and port of the login", 3),
        ClientError::BadCa => ("\ncheck DUNLIN_CA", 2),
        ClientError::NotAPolicy => ("\ntake the owner connection string `dunlin up` prints", 2),
    }
}
