//! What is told of direct methods (docs/observability.md).

use std::time::Duration;

use dunlin_model::HubError;
use dunlin_runtime::metrics::{Latencies, Registry, latencies};
use prometheus_client::encoding::EncodeLabelSet;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct By {
    outcome: &'static str,
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
            "dunlin_method_call_seconds",
            "Calls of direct methods, by the error code they ended with if the device gave no answer",
            self.0.clone(),
        );
        registry
    }

    pub fn called<T>(&self, outcome: &Result<T, HubError>, took: Duration) {
        let outcome = outcome.as_ref().err().map_or("answered", |error| error.code.name());
        self.0.get_or_create(&By { outcome }).observe(took.as_secs_f64());
    }
}
