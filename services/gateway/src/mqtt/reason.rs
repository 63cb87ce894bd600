//! Hub error → CONNACK return code, and the body of a refused twin request: the one table of this
//! head. All else is a closed connection, since MQTT 3.1.1 has no error messages.

use dunlin_model::HubError;
use ntex::util::Bytes;
use ntex_mqtt::v3::codec::ConnectAckReason;
use serde_json::json;

/// 3 for whatever may pass, 5 for the rest: official SDKs take 5 for final and stop reconnecting.
pub fn connack(error: &HubError) -> ConnectAckReason {
    if error.retryable() {
        ConnectAckReason::ServiceUnavailable
    } else {
        ConnectAckReason::NotAuthorized
    }
}

/// What a refused twin request is answered, beside its HTTP status in the topic. The Node SDK goes
/// by `errorCode` alone.
pub fn twin_body(error: &HubError) -> Bytes {
    let body = json!({
        "errorCode": error.code.number(),
        "trackingId": format!("{:032x}", fastrand::u128(..)),
        "message": error.message,
        "timestampUtc": format!("{:.7}", jiff::Timestamp::now()),
    });
    Bytes::from(body.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use dunlin_model::ErrorCode;

    use super::*;

    #[test]
    fn only_lasting_refusals_are_final() {
        for (code, want) in [
            (ErrorCode::IotHubUnauthorized, ConnectAckReason::NotAuthorized),
            (ErrorCode::DeviceNotFound, ConnectAckReason::NotAuthorized),
            (ErrorCode::DeviceDisabled, ConnectAckReason::NotAuthorized),
            (ErrorCode::ThrottlingException, ConnectAckReason::ServiceUnavailable),
            (ErrorCode::ServerBusy, ConnectAckReason::ServiceUnavailable),
            (ErrorCode::ServiceUnavailable, ConnectAckReason::ServiceUnavailable),
            (ErrorCode::GenericTimeout, ConnectAckReason::ServiceUnavailable),
            (ErrorCode::ServerError, ConnectAckReason::ServiceUnavailable),
        ] {
            assert_eq!(connack(&HubError::new(code, "")), want, "{code:?}");
        }
    }
}
