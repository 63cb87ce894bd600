//! `/livez`, `/readyz` and `/metrics`, for who runs the process.

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dunlin_runtime::Health;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::process::Process;

const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn router(roles: Vec<Health>) -> Router {
    let mut registry = Registry::default();
    registry.register(
        "dunlin_build",
        "Version of the binary",
        Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
    );
    registry.register_collector(Box::new(Process));
    let registry = Arc::new(registry);
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(move || std::future::ready(ready(&roles))))
        .route("/metrics", get(move || std::future::ready(metrics(&registry))))
}

/// One line a role; 503 until every one is ready.
fn ready(roles: &[Health]) -> Response {
    let line = |role: &Health| {
        format!("{} {}\n", role.role(), if role.is_ready() { "ready" } else { "not ready" })
    };
    let status = match roles.iter().all(Health::is_ready) {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, roles.iter().map(line).collect::<String>()).into_response()
}

fn metrics(registry: &Registry) -> Response {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_every_role_is() {
        let roles = [Health::new("gateway"), Health::new("api")];
        assert_eq!(ready(&roles).status(), StatusCode::SERVICE_UNAVAILABLE);
        roles[0].set_ready(true);
        assert_eq!(ready(&roles).status(), StatusCode::SERVICE_UNAVAILABLE);
        roles[1].set_ready(true);
        assert_eq!(ready(&roles).status(), StatusCode::OK);
    }
}
