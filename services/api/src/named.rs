//! The identity that a path names: `/twins/{id}…` a device, `/twins/{id}/modules/{module}…` a module.

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use dunlin_model::{ErrorCode, Identity};

use crate::error::ApiError;

pub(crate) struct Named(pub Identity);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let names: Result<Path<Vec<String>>, PathRejection> =
            Path::from_request_parts(parts, state).await;
        let Path(names) = names?;
        match names.as_slice() {
            [device] => Ok(Self(Identity::device(device)?)),
            [device, module] => Ok(Self(Identity::module(device, module)?)),
            _ => Err(ApiError::new(ErrorCode::ServerError, "this path names no identity")),
        }
    }
}
