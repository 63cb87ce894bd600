//! Hub error → HTTP response, where the gateway itself has to answer. Everything else is answered
//! by `api`, in the same shape.

use dunlin_model::HubError;
use http::{HeaderValue, Response, StatusCode, header};
use tonic::body::Body;

/// What is wrong with a body that did not come whole.
pub const SPOILED: &str = "the request body was cut off, malformed, or took too long";

/// The classic error body of IoT Hub (`Message`, `ExceptionMessage`) with its code in a header.
pub fn response(error: &HubError) -> Response<Body> {
    let text = format!("ErrorCode:{};{}", error.code.name(), error.message);
    let time = jiff::Timestamp::now().strftime("%m/%d/%Y %H:%M:%S");
    let tracking = format!("Tracking ID:{}-TimeStamp:{time}", random());
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

/// With the id that each answer to a device has.
pub fn marked(mut response: Response<Body>) -> Response<Body> {
    if let Ok(id) = HeaderValue::try_from(random()) {
        response.headers_mut().insert("x-ms-request-id", id);
    }
    response
}

fn random() -> String {
    format!("{:032x}", fastrand::u128(..))
}
