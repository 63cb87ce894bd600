//! Sending traces: OTLP over gRPC, by a thread of its own, from a queue with an end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter,
};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{Sink, Telemetry};
use crate::Role;

/// How long one batch may take. While it is under way the queue fills, and what finds no room in it
/// (2,048 spans, or OTEL_BSP_MAX_QUEUE_SIZE) is dropped.
const EXPORT: Duration = Duration::from_secs(5);

/// Traces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Where traces go, by OTLP over gRPC: `http://HOST:4317`, `https://…`. Empty: to the endpoint in
    /// the environment variable OTEL_EXPORTER_OTLP_ENDPOINT, and without that one nowhere.
    pub otlp_endpoint: String,
    /// The part of traces that is kept, 0 to 1. Who calls with a `traceparent` has decided already.
    pub sample_ratio: f64,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { otlp_endpoint: String::new(), sample_ratio: 1.0 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("telemetry.sample_ratio is {0}; it may be 0 to 1")]
    Ratio(f64),
    #[error("telemetry.otlp_endpoint is not a URL; write it as http://host:4317")]
    Endpoint,
    #[error("cannot send traces to telemetry.otlp_endpoint")]
    Exporter(#[from] ExporterBuildError),
}

impl Telemetry {
    /// `node`: this process, as the mesh names it. Nothing is connected yet.
    pub fn open(
        config: &TelemetryConfig,
        node: &str,
        roles: &[Role],
    ) -> Result<Self, TelemetryError> {
        let TelemetryConfig { otlp_endpoint, sample_ratio } = config;
        if !(0.0..=1.0).contains(sample_ratio) {
            return Err(TelemetryError::Ratio(*sample_ratio));
        }
        if otlp_endpoint.is_empty() {
            return Ok(Self::default());
        }
        let uri: http::Uri = otlp_endpoint.parse().map_err(|_| TelemetryError::Endpoint)?;
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => Some(ClientTlsConfig::new().with_enabled_roots()),
            _ => return Err(TelemetryError::Endpoint),
        };
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic();
        let exporter = exporter.with_endpoint(otlp_endpoint).with_timeout(EXPORT);
        let exporter = match tls {
            Some(tls) => exporter.with_tls_config(tls).build()?,
            None => exporter.build()?,
        };
        let exporter = Exporter {
            exporter: Arc::new(exporter),
            runtime: Handle::current(),
            away: AtomicBool::new(false),
        };
        let roles: Vec<_> = roles.iter().map(|role| role.name()).collect();
        // OTEL_RESOURCE_ATTRIBUTES comes before these.
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", "dunlin"),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", node.to_owned()),
                KeyValue::new("dunlin.roles", roles.join(",")),
            ])
            .with_detector(Box::new(opentelemetry_sdk::resource::EnvResourceDetector::new()))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).build())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(*sample_ratio))))
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("dunlin");
        Ok(Self(Some(Arc::new(Sink {
            provider,
            tracer,
            propagator: TraceContextPropagator::new(),
        }))))
    }
}

/// Exports on the main runtime, whose timers and sockets the exporter needs, and tells once of an
/// endpoint that is away: the crate's own logs, which tell of every batch, are off.
struct Exporter {
    exporter: Arc<opentelemetry_otlp::SpanExporter>,
    runtime: Handle,
    away: AtomicBool,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter")
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = self.exporter.clone();
        let export = async move { tokio::time::timeout(EXPORT, exporter.export(batch)).await };
        let outcome = match self.runtime.spawn(export).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(OTelSdkError::Timeout(EXPORT)),
            Err(error) => Err(OTelSdkError::InternalFailure(error.to_string())),
        };
        let was_away = self.away.swap(outcome.is_err(), Ordering::Relaxed);
        match &outcome {
            Err(error) if !was_away => {
                tracing::warn!(%error, "traces cannot be sent: they are dropped until they can");
            }
            Ok(()) if was_away => tracing::info!("traces are sent again"),
            _ => {}
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Nothing is exported yet, so nobody else has it.
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}
