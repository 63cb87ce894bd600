//! A receiver of traces: OTLP over gRPC, and what is asked of the spans that came.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span as Wire;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};

/// A span with the process it is of.
#[derive(Clone, Debug)]
pub struct Span {
    pub span: Wire,
    pub roles: String,
}

impl Span {
    pub fn attribute(&self, name: &str) -> Option<String> {
        attribute(&self.span.attributes, name)
    }
}

fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    Some(match found.value.clone()?.value? {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{name}: {other:?}"),
    })
}

#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<Span>>>);

#[async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for process in request.into_inner().resource_spans {
            let resource = process.resource.unwrap_or_default();
            assert_eq!(attribute(&resource.attributes, "service.name").as_deref(), Some("dunlin"));
            let roles = attribute(&resource.attributes, "dunlin.roles").expect("its roles");
            let came = process.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(came.map(|span| Span { span, roles: roles.clone() }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

pub struct Receiver {
    pub address: SocketAddr,
    received: Received,
    server: JoinHandle<()>,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let received = Received::default();
        let service = TraceServiceServer::new(received.clone());
        let server = Server::builder().add_service(service);
        let server = server.serve_with_incoming(TcpIncoming::from(listener));
        let server = tokio::spawn(async move { server.await.expect("served") });
        Self { address, received, server }
    }

    /// What came, once every hub that sends has stopped.
    pub fn spans(&self) -> Spans {
        let all = self.received.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let by_id = all.iter().enumerate().map(|(n, one)| (one.span.span_id.clone(), n)).collect();
        Spans { all, by_id }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub struct Spans {
    pub all: Vec<Span>,
    by_id: HashMap<Vec<u8>, usize>,
}

impl Spans {
    /// The spans of these names, each the parent of the next, all of one trace; the first is the
    /// trace's first in this hub.
    #[track_caller]
    pub fn path(&self, names: &[&str]) -> Vec<&Span> {
        let last = names.last().expect("a name");
        let ends: Vec<_> = self.all.iter().filter(|one| one.span.name == **last).collect();
        let paths: Vec<_> = ends.iter().map(|end| self.up_from(end)).collect();
        let wanted = |path: &&Vec<&Span>| {
            path.iter().map(|one| one.span.name.as_str()).eq(names.iter().copied())
        };
        let names_of =
            |path: &Vec<&Span>| path.iter().map(|one| one.span.name.clone()).collect::<Vec<_>>();
        let found = paths.iter().find(wanted);
        let found = found.unwrap_or_else(|| {
            let all: Vec<_> = paths.iter().map(names_of).collect();
            panic!("no path {names:?}; to {last:?} lead {all:?}")
        });
        assert!(found.iter().all(|one| one.span.trace_id == found[0].span.trace_id), "one trace");
        found.clone()
    }

    fn up_from<'a>(&'a self, end: &'a Span) -> Vec<&'a Span> {
        let parent =
            |one: &&'a Span| self.by_id.get(&one.span.parent_span_id).map(|n| &self.all[*n]);
        let mut path: Vec<_> = std::iter::successors(Some(end), parent).collect();
        path.reverse();
        path
    }
}
