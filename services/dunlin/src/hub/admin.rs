//! `/livez`, `/readyz` and `/metrics`, for who runs the process.

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dunlin_runtime::Health;
use dunlin_runtime::metrics::Registry;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;

use super::needs::Needs;
use super::process::Process;

const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a role, or what the roles need, is ready (1) or not (0).
type Ready = Family<[(&'static str, &'static str); 1], Gauge>;

/// What there is to be ready: the roles, and what they need.
struct Parts {
    roles: Vec<Health>,
    needs: Needs,
    told: Ready,
}

impl Parts {
    async fn ask(&self) -> Vec<(&'static str, bool)> {
        let needs = self.needs.ask().await;
        let roles = self.roles.iter().map(|role| (role.role(), role.is_ready()));
        let parts: Vec<_> = roles.chain(needs).collect();
        for (part, ready) in &parts {
            self.told.get_or_create(&[("part", part)]).set(i64::from(*ready));
        }
        parts
    }
}

/// `registries`: what the parts of the process measure; what is the process's own is added.
pub(super) fn router(roles: Vec<Health>, needs: Needs, mut registries: Vec<Registry>) -> Router {
    let mut registry = Registry::default();
    registry.register(
        "dunlin_build",
        "Version of the binary",
        Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
    );
    registry.register_collector(Box::new(Process));
    let parts = Arc::new(Parts { roles, needs, told: Ready::default() });
    registry.register("dunlin_ready", "What /readyz says", parts.told.clone());
    registries.push(registry);
    let (registries, told) = (Arc::new(registries), parts.clone());
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(async move || ready(&parts.ask().await)))
        .route(
            "/metrics",
            get(async move || {
                told.ask().await;
                metrics(&registries)
            }),
        )
}

/// One line for each part; 503 until every one is ready.
fn ready(parts: &[(&str, bool)]) -> Response {
    let status = match parts.iter().all(|(_, ready)| *ready) {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let line =
        |(name, ready): &_| format!("{name} {}\n", if *ready { "ready" } else { "not ready" });
    (status, parts.iter().map(line).collect::<String>()).into_response()
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
    fn a_process_is_ready_when_every_part_is() {
        for (gateway, devices, want) in [
            (true, true, StatusCode::OK),
            (false, true, StatusCode::SERVICE_UNAVAILABLE),
            (true, false, StatusCode::SERVICE_UNAVAILABLE),
        ] {
            let parts = [("gateway", gateway), ("stores.devices", devices)];
            assert_eq!(ready(&parts).status(), want, "{parts:?}");
        }
    }
}
