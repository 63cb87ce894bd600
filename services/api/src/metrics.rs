//! What is told of requests to the REST API (docs/observability.md).

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use dunlin_runtime::metrics::{Latencies, Registry, latencies};
use dunlin_runtime::telemetry::http_method;
use prometheus_client::encoding::EncodeLabelSet;

use crate::PREFIX;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct By {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone)]
pub(crate) struct Metrics(Latencies<By>);

impl Metrics {
    pub fn new() -> Self {
        Self(latencies())
    }

    pub fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        registry.register(
            "dunlin_api_request_seconds",
            "Requests of back ends to the REST API, to the response head",
            self.0.clone(),
        );
        registry
    }
}

/// Middleware around all routes. A path that is none of them has the route `none`: nobody is to make
/// up labels.
pub(crate) async fn measure(
    State(metrics): State<Metrics>,
    request: Request,
    next: Next,
) -> Response {
    let method = http_method(request.method());
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let route = matched.and_then(|path| path.strip_prefix(PREFIX)).unwrap_or("none").to_owned();
    let began = Instant::now();
    let response = next.run(request).await;
    let by = By { method, route, status: response.status().as_u16() };
    metrics.0.get_or_create(&by).observe(began.elapsed().as_secs_f64());
    response
}
