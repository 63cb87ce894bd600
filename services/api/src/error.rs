//! Every answer of the REST API that is not a success: one table from the hub's codes to HTTP.

use axum::body::Body;
use axum::extract::Request;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use dunlin_model::{ErrorCode, HubError};
use dunlin_proto::status::from_status;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;
use tracing::warn;

use crate::guard::query;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
pub(crate) const ERROR_CODE: HeaderName = HeaderName::from_static("iothub-errorcode");

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

/// An error that was answered: `reshape` may have to write its body anew.
#[derive(Clone)]
struct Told {
    error: HubError,
    tracking_id: String,
}

/// The classic body and the header beside it: the only shape all four SDK families classify.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let told = Told { error: self.0, tracking_id: tracking_id() };
        let HubError { code, message } = &told.error;
        let time = jiff::Timestamp::now().strftime("%m/%d/%Y %H:%M:%S").to_string();
        // That a device answers badly or not at all is no failure of the hub's.
        let by_device =
            matches!(code, ErrorCode::GatewayTimeout | ErrorCode::InvalidResponseWhileProxying);
        if code.http_status() >= 500 && !by_device {
            warn!(tracking_id = told.tracking_id, code = code.number(), %message, "call failed");
        }
        let body = json!({
            "Message": format!("ErrorCode:{};{message}", code.name()),
            "ExceptionMessage": format!("Tracking ID:{}-TimeStamp:{time}", told.tracking_id),
        });
        let status =
            StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = [(header::CONTENT_TYPE, JSON), (ERROR_CODE, name_of(*code))];
        let mut response = (status, headers, body.to_string()).into_response();
        response.extensions_mut().insert(told);
        response
    }
}

/// As the header `iothub-errorcode` carries it.
pub(crate) fn name_of(code: ErrorCode) -> HeaderValue {
    HeaderValue::from_static(code.name())
}

/// The last API version whose errors have the classic body (docs/registry.md).
const CLASSIC: jiff::civil::Date = jiff::civil::date(2021, 4, 12);

/// Middleware around everything: callers of a later API version get the body with the number in
/// it. Whatever else is asked wrongly, the version is looked at leniently here.
pub(crate) async fn reshape(request: Request, next: Next) -> Response {
    let later = query(request.uri()).ok().and_then(|parameters| {
        let version = parameters.get("api-version")?;
        let date = version.strip_suffix("-preview").unwrap_or(version);
        Some(date.parse::<jiff::civil::Date>().ok()? > CLASSIC)
    });
    let response = next.run(request).await;
    match response.extensions().get::<Told>().cloned() {
        Some(told) if later == Some(true) => {
            let (mut parts, _) = response.into_parts();
            parts.headers.remove(header::CONTENT_LENGTH);
            Response::from_parts(parts, Body::from(numbered(&told)))
        }
        _ => response,
    }
}

fn numbered(told: &Told) -> String {
    let now = jiff::Timestamp::now();
    let inner = json!({
        "errorCode": told.error.code.number(),
        "trackingId": format!("{}-TimeStamp:{}", told.tracking_id, now.strftime("%m/%d/%Y %H:%M:%S")),
        "message": told.error.message,
        "timestampUtc": format!("{now:.3}"),
    });
    json!({ "Message": inner.to_string(), "ExceptionMessage": "" }).to_string()
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
