//! `/devices` and `/devices/{id}/modules`: the identity registry over REST.

mod etag;
mod json;
mod routes;

pub(crate) use routes::router;
