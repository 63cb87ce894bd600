//! Traces: OpenTelemetry spans from a device's request to the store (docs/observability.md).
//!
//! A process has one [`Telemetry`], which it is given and which is no global: a test runs several
//! hubs beside one another. Without an endpoint there is none, and a span costs one comparison.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dunlin_model::Identity;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use opentelemetry::Context;
pub use opentelemetry::KeyValue;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
pub use opentelemetry::trace::SpanKind;
use opentelemetry::trace::{FutureExt, TraceContextExt, Tracer};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

mod export;
mod outcome;

pub use export::{TelemetryConfig, TelemetryError};
pub use outcome::Outcome;
pub(crate) use outcome::code_of;

/// How long the last spans may take to be sent when the process ends.
const LAST: Duration = Duration::from_secs(3);

/// Makes spans, or nothing. A clone is the same.
#[derive(Clone, Default)]
pub struct Telemetry(Option<Arc<Sink>>);

struct Sink {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
}

impl Telemetry {
    /// Whether spans are made at all.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A span of the one that is current here, or the first of a trace.
    pub fn span(
        &self,
        name: &'static str,
        kind: SpanKind,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Span {
        let Some(sink) = &self.0 else { return Span(None) };
        sink.start(name.to_owned(), kind, attributes(), &Context::current())
    }

    /// A span of the one that is current here. None where there is none: what the hub does by itself
    /// (sweeps, leases, reports) is no trace of anybody's.
    pub fn child(
        &self,
        kind: SpanKind,
        describe: impl FnOnce() -> (String, Vec<KeyValue>),
    ) -> Span {
        let Some(sink) = &self.0 else { return Span(None) };
        let parent = Context::current();
        if !parent.has_active_span() {
            return Span(None);
        }
        let (name, attributes) = describe();
        sink.start(name, kind, attributes, &parent)
    }

    /// A span of the one that the headers name (`traceparent`). If they name none, it is the first
    /// of a trace where `begins`, and none otherwise.
    pub fn received(
        &self,
        headers: &HeaderMap,
        begins: bool,
        describe: impl FnOnce() -> (String, Vec<KeyValue>),
    ) -> Span {
        let Some(sink) = &self.0 else { return Span(None) };
        let parent = sink.propagator.extract_with_context(&Context::new(), &Headers(headers));
        if !begins && !parent.has_active_span() {
            return Span(None);
        }
        let (name, attributes) = describe();
        sink.start(name, SpanKind::Server, attributes, &parent)
    }

    /// Sends what is left, for as long as that may take. Last of all.
    pub async fn close(&self) {
        let Some(sink) = self.0.clone() else { return };
        // It waits for the thread that sends.
        let closed = tokio::task::spawn_blocking(move || sink.provider.shutdown_with_timeout(LAST));
        if let Ok(Err(error)) = closed.await {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

impl Sink {
    fn start(
        &self,
        name: String,
        kind: SpanKind,
        attributes: Vec<KeyValue>,
        parent: &Context,
    ) -> Span {
        let span = self.tracer.span_builder(name).with_kind(kind).with_attributes(attributes);
        Span(Some(parent.with_span(span.start_with_context(&self.tracer, parent))))
    }
}

/// A span, or nothing where there are no traces.
pub struct Span(Option<Context>);

impl Span {
    /// Does the work as this span's: what it calls makes spans of this one. It ends with the work,
    /// also where that is given up.
    pub async fn run<F>(self, work: F) -> F::Output
    where
        F: Future<Output: Outcome>,
    {
        let Some(context) = self.0 else { return work.await };
        let output = work.with_context(context.clone()).await;
        output.describe(&context.span());
        context.span().end();
        output
    }

    /// Names this span to whoever is sent these headers.
    pub fn put_into(&self, headers: &mut HeaderMap) {
        if let Some(context) = &self.0 {
            TraceContextPropagator::new().inject_context(context, &mut HeadersMut(headers));
        }
    }
}

/// Has work that is spawned belong to the span that is current here.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    work.with_current_context()
}

/// Whose request it is, as attributes.
pub fn identity(id: &Identity) -> Vec<KeyValue> {
    let device = KeyValue::new("device.id", id.device_id().to_owned());
    let module = id.module_id().map(|module| KeyValue::new("dunlin.module.id", module.to_owned()));
    [Some(device), module].into_iter().flatten().collect()
}

/// The name of an HTTP method, for attributes and labels: a client may make up others.
pub fn http_method(method: &Method) -> &'static str {
    const ALL: [Method; 7] = [
        Method::GET,
        Method::PUT,
        Method::POST,
        Method::PATCH,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
    ];
    match ALL.iter().position(|known| known == method) {
        Some(at) => ["GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS"][at],
        None => "other",
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests;
