//! What a span says of how its work ended: a code, never a text, which may quote what somebody sent.

use dunlin_model::HubError;
use dunlin_storage::StoreError;
use http::{Response, header};
use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanRef, Status};
use tonic::Code;

/// The end of some work. A span is marked as failed where the hub has failed, not where it refuses.
pub trait Outcome {
    fn describe(&self, span: &SpanRef<'_>);
}

impl<T> Outcome for Result<T, HubError> {
    fn describe(&self, span: &SpanRef<'_>) {
        if let Err(error) = self {
            fail(span, error.code.name(), error.retryable());
        }
    }
}

impl<T> Outcome for Result<T, StoreError> {
    fn describe(&self, span: &SpanRef<'_>) {
        if let Err(error) = self {
            fail(span, error.kind(), error.retryable());
        }
    }
}

/// Of the REST API, or a gRPC call's, whose status stands in the head if it has failed.
impl<B> Outcome for Response<B> {
    fn describe(&self, span: &SpanRef<'_>) {
        let kind = self.headers().get(header::CONTENT_TYPE);
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            return code_of(self).describe(span);
        }
        let status = self.status();
        let number = i64::from(status.as_u16());
        span.set_attribute(KeyValue::new("http.response.status_code", number));
        if status.is_server_error() {
            fail(span, status.canonical_reason().unwrap_or("5xx"), true);
        }
    }
}

impl Outcome for Code {
    fn describe(&self, span: &SpanRef<'_>) {
        span.set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(i32::from(*self))));
        let failed = matches!(
            self,
            Self::Unknown
                | Self::DeadlineExceeded
                | Self::Unimplemented
                | Self::Internal
                | Self::Unavailable
                | Self::DataLoss
        );
        if failed {
            fail(span, self.description(), true);
        }
    }
}

impl<B> Outcome for Result<Response<B>, tonic::Status> {
    fn describe(&self, span: &SpanRef<'_>) {
        match self {
            Ok(response) => response.describe(span),
            Err(status) => status.code().describe(span),
        }
    }
}

/// The gRPC status a response head carries; without one all is well so far.
pub(crate) fn code_of<B>(response: &Response<B>) -> Code {
    tonic::Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code())
}

fn fail(span: &SpanRef<'_>, kind: &'static str, failed: bool) {
    span.set_attribute(KeyValue::new("error.type", kind));
    if failed {
        span.set_status(Status::error(kind));
    }
}
