//! What is told of each call between roles, whichever way it goes: how long it took to its response
//! head and how it ended, and a span on either side if it is part of a trace (`traceparent`).

use std::time::Instant;

use axum::RequestExt;
use axum::extract::{MatchedPath, RawPathParams, State};
use axum::middleware::Next;
use dunlin_model::Identity;
use prometheus_client::encoding::EncodeLabelSet;
use tonic::Code;

use super::channel::{Request, Response};
use crate::metrics::{Latencies, Registry, latencies};
use crate::telemetry::{KeyValue, Span, SpanKind, Telemetry, code_of, http_method, identity};

/// The path below which the REST API is, for requests from outside.
const REST: &str = "/rest/";
/// What such requests go by, in place of a service.
const OUTSIDE: &str = "rest";
/// Before the name of every gRPC service.
const PACKAGE: &str = "dunlin.v1.";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    service: String,
    method: String,
    code: String,
}

#[derive(Clone)]
pub(super) struct Observer {
    pub telemetry: Telemetry,
    calls: Latencies<Labels>,
}

impl Observer {
    pub fn new(telemetry: Telemetry) -> Self {
        Self { telemetry, calls: latencies() }
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "dunlin_mesh_call_seconds",
            "Calls of this process to a role, here or elsewhere, to the response head",
            self.calls.clone(),
        );
    }

    /// Of a request that is about to be sent.
    pub fn call(&self, request: &mut Request) -> (Ongoing, Span) {
        let (service, method) = names(request);
        let span = self.telemetry.child(SpanKind::Client, || described(service, method));
        let (service, method) = (service.to_owned(), method.to_owned());
        span.put_into(request.headers_mut());
        let calls = self.calls.clone();
        (Ongoing { calls, service, method, began: Instant::now(), code: Code::Cancelled }, span)
    }
}

/// A call under way; dropped before it has an answer, it was cancelled.
pub(super) struct Ongoing {
    calls: Latencies<Labels>,
    service: String,
    method: String,
    began: Instant,
    code: Code,
}

impl Ongoing {
    pub fn end(mut self, answer: &Result<Response, tonic::Status>) {
        self.code = match answer {
            Ok(response) => code_of(response),
            Err(status) => status.code(),
        };
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        let service = std::mem::take(&mut self.service);
        let method = std::mem::take(&mut self.method);
        let labels = Labels { service, method, code: format!("{:?}", self.code) };
        self.calls.get_or_create(&labels).observe(self.began.elapsed().as_secs_f64());
    }
}

/// Service and method of gRPC. A request to the REST API goes by its HTTP method: its path is a
/// stranger's.
fn names<B>(request: &http::Request<B>) -> (&str, &str) {
    let path = request.uri().path();
    match path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
        Some((service, method)) if !path.starts_with(REST) => {
            (service.strip_prefix(PACKAGE).unwrap_or(service), method)
        }
        _ => (OUTSIDE, http_method(request.method())),
    }
}

fn described(service: &str, method: &str) -> (String, Vec<KeyValue>) {
    if service == OUTSIDE {
        let attributes = vec![KeyValue::new("http.request.method", method.to_owned())];
        return (method.to_owned(), attributes);
    }
    let name = format!("{PACKAGE}{service}/{method}");
    let attributes = vec![
        KeyValue::new("rpc.system", "grpc"),
        KeyValue::new("rpc.service", format!("{PACKAGE}{service}")),
        KeyValue::new("rpc.method", method.to_owned()),
    ];
    (name, attributes)
}

/// The other side: middleware around every route of this process.
pub(super) async fn serve(
    State(telemetry): State<Telemetry>,
    mut request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    // `{id}` and `{module}`, which are ids if they pass for such.
    let parameters = request.extract_parts::<RawPathParams>().await.ok();
    let span = telemetry.received(request.headers(), false, || {
        let (service, method) = names(&request);
        let (mut name, mut attributes) = described(service, method);
        if service != OUTSIDE {
            return (name, attributes);
        }
        // As clients know it. A path that is no route is not repeated: it is a stranger's.
        if let Some(route) = route.as_ref().and_then(|route| route.as_str().strip_prefix(REST)) {
            name = format!("{name} /{route}");
            attributes.push(KeyValue::new("http.route", format!("/{route}")));
            attributes.extend(parameters.as_ref().and_then(identity_of).unwrap_or_default());
        }
        (name, attributes)
    });
    span.run(next.run(request)).await
}

fn identity_of(parameters: &RawPathParams) -> Option<Vec<KeyValue>> {
    let find = |name| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| value);
    let id = match find("module") {
        Some(module) => Identity::module(find("id")?, module),
        None => Identity::device(find("id")?),
    };
    id.ok().map(|id| identity(&id))
}
