//! `/devices` and `/devices/{id}/modules`: the identity registry over REST.

mod bulk;
mod json;
mod page;
mod routes;

pub(crate) use bulk::reads_rows;
pub(crate) use json::{Capabilities, X509Thumbprint, time};
pub(crate) use routes::routes;

/// Reads the body of a PUT as the routes do; whether it would be handed to the registry.
pub(crate) fn reads(body: &[u8], device: &str, module: Option<&str>) -> bool {
    crate::body::object::<json::Body>(body).is_ok_and(|body| body.into_wire(device, module).is_ok())
}
