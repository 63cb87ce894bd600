//! Hub error → HTTP response, where the front door itself has to answer. Everything else is
//! answered by `api`, in the same shape.

use dunlin_model::HubError;
use http::{HeaderValue, Response, StatusCode, header};
use tonic::body::Body;

/// The classic error body of IoT Hub (`Message`, `ExceptionMessage`) with its code in a header.
pub fn response(error: &HubError) -> Response<Body> {
    let text = format!("ErrorCode:{};{}", error.code.name(), error.message);
    let body = serde_json::json!({ "Message": text, "ExceptionMessage": "" }).to_string();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() =
        StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, json);
    headers.insert("iothub-errorcode", HeaderValue::from_static(error.code.name()));
    response
}
