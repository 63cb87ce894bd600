//! `/livez`, `/readyz` and `/metrics`, for who runs the process.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dunlin_runtime::Health;
use dunlin_runtime::metrics::Registry;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;

use super::needs::Needs;
use super::process::Process;

const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `registries`: what the parts of the process measure; what is the process's own is added.
pub(super) fn router(roles: Vec<Health>, needs: Needs, mut registries: Vec<Registry>) -> Router {
    let mut registry = Registry::default();
    registry.register(
        "dunlin_build",
        "Version of the binary",
        Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
    );
    registry.register_collector(Box::new(Process));
    registry.register_collector(Box::new(Readiness(roles.clone())));
    registries.push(registry);
    let registries = Arc::new(registries);
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(async move || ready(&roles, &needs.ask().await)))
        .route("/metrics", get(move || std::future::ready(metrics(&registries))))
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

/// What `/readyz` says.
#[derive(Debug)]
struct Readiness(Vec<Health>);

impl Collector for Readiness {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Whether a role is ready (1) or not (0)";
        let mut roles = encoder.encode_descriptor("dunlin_ready", help, None, MetricType::Gauge)?;
        for role in &self.0 {
            let ready = ConstGauge::new(i64::from(role.is_ready()));
            ready.encode(roles.encode_family(&[("role", role.role())])?)?;
        }
        Ok(())
    }
}

fn metrics(registries: &[Registry]) -> Response {
    let mut text = String::new();
    let encoded = registries.iter().try_for_each(|one| encode_registry(&mut text, one));
    match encoded.and_then(|()| encode_eof(&mut text)) {
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
