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

use super::needs::Needs;
use super::process::Process;

const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn router(roles: Vec<Health>, needs: Needs) -> Router {
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
        .route("/readyz", get(async move || ready(&roles, &needs.ask().await)))
        .route("/metrics", get(move || std::future::ready(metrics(&registry))))
}

/// One line for each role and for what they need; 503 until every one is ready.
fn ready(roles: &[Health], needs: &[(&str, bool)]) -> Response {
    let roles = roles.iter().map(|role| (role.role(), role.is_ready()));
    let lines: Vec<_> = roles.chain(needs.iter().copied()).collect();
    let status = match lines.iter().all(|(_, ready)| *ready) {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let line = |(name, ready)| format!("{name} {}\n", if ready { "ready" } else { "not ready" });
    (status, lines.into_iter().map(line).collect::<String>()).into_response()
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
    fn a_process_is_ready_when_every_role_and_need_is() {
        let roles = [Health::new("gateway"), Health::new("api")];
        assert_eq!(ready(&roles, &[]).status(), StatusCode::SERVICE_UNAVAILABLE);
        roles[0].set_ready(true);
        assert_eq!(ready(&roles, &[]).status(), StatusCode::SERVICE_UNAVAILABLE);
        roles[1].set_ready(true);
        assert_eq!(ready(&roles, &[("stores.devices", true)]).status(), StatusCode::OK);
        let unmet = ready(&roles, &[("stores.devices", false)]);
        assert_eq!(unmet.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
