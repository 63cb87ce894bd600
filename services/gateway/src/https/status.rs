//! Hub error → HTTP response, where the gateway itself has to answer. Everything else is answered
//! by `api`, in the same shape.

use dunlin_model::HubError;
use http::{HeaderValue, Response, StatusCode, header};
use tonic::body::Body;

/// What is wrong with a body that did not come whole.
pub const SPOILED: &str = "the request body was cut off, malformed, or took too long";

/// An answer's id, for a person to quote and an operator to find in the log.
pub fn tracking_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// The classic error body of IoT Hub (`Message`, `ExceptionMessage`) with its code in a header.
pub fn response(error: &HubError, tracking_id: &str) -> Response<Body> {
    let text = format!("ErrorCode:{};{}", error.code.name(), error.message);
    let time = jiff::Timestamp::now().strftime("%m/%d/%Y %H:%M:%S");
    let tracking = format!("Tracking ID:{tracking_id}-TimeStamp:{time}");
    let body = serde_json::json!({ "Message": text, "ExceptionMessage": tracking }).to_string();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() =
        StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, json);
    headers.insert("iothub-errorcode", HeaderValue::from_static(error.code.name()));
    response
}
