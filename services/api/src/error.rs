//! Every answer of the REST API that is not a success: one table from the hub's codes to HTTP.

use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use dunlin_model::{ErrorCode, HubError};
use dunlin_proto::status::from_status;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;
use tracing::warn;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const ERROR_CODE: HeaderName = HeaderName::from_static("iothub-errorcode");

/// What handlers return on failure.
#[derive(Debug)]
pub(crate) struct ApiError(pub HubError);

impl ApiError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(HubError::new(code, message))
    }
}

impl From<HubError> for ApiError {
    fn from(error: HubError) -> Self {
        Self(error)
    }
}

impl From<tonic::Status> for ApiError {
    fn from(status: tonic::Status) -> Self {
        Self(from_status(&status))
    }
}

impl From<PathRejection> for ApiError {
    fn from(_: PathRejection) -> Self {
        Self::new(ErrorCode::ArgumentInvalid, "the path is not percent-encoded UTF-8")
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Self::new(ErrorCode::MessageTooLarge, "the request body is too large")
        } else {
            Self::new(ErrorCode::ArgumentInvalid, "the request body ended early")
        }
    }
}

impl From<serde_json::Error> for ApiError {
    fn from(error: serde_json::Error) -> Self {
        let message = format!("the request body is not what this call takes: {error}");
        Self::new(ErrorCode::IotHubFormatError, message)
    }
}

/// The classic body and the header beside it: the only shape all four SDK families classify.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let HubError { code, message } = self.0;
        let tracking_id = tracking_id();
        let time = jiff::Timestamp::now().strftime("%m/%d/%Y %H:%M:%S").to_string();
        if code.http_status() >= 500 {
            warn!(%tracking_id, code = code.number(), %message, "call failed");
        }
        let body = json!({
            "Message": format!("ErrorCode:{};{message}", code.name()),
            "ExceptionMessage": format!("Tracking ID:{tracking_id}-TimeStamp:{time}"),
        });
        let status =
            StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let name = HeaderValue::from_static(code.name());
        (status, [(header::CONTENT_TYPE, JSON), (ERROR_CODE, name)], body.to_string())
            .into_response()
    }
}

/// A random GUID, for a person to quote and an operator to find in the log.
fn tracking_id() -> String {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).expect("the operating system has randomness");
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

pub(crate) async fn not_found() -> ApiError {
    ApiError::new(ErrorCode::GenericNotFound, "there is nothing at this path")
}

pub(crate) async fn method_not_allowed() -> ApiError {
    ApiError::new(ErrorCode::GenericMethodNotAllowed, "this path does not take this method")
}
