//! Answers that carry JSON.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::error::{ApiError, JSON};
use crate::etag;

pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Result<Response, ApiError> {
    let headers = [(header::CONTENT_TYPE, JSON)];
    Ok((status, headers, serde_json::to_vec(value)?).into_response())
}

/// As `json`, with the ETag of what is shown.
pub(crate) fn tagged(
    status: StatusCode,
    tag: &str,
    value: &impl Serialize,
) -> Result<Response, ApiError> {
    let mut response = json(status, value)?;
    response.headers_mut().extend(etag::header(tag));
    Ok(response)
}
