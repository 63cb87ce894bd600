//! Calls that go together: what callers ask of a role while its process has not yet taken up what
//! was asked before is one request (docs/adr/0008-gathered-calls.md).
//!
//! A request of its own takes HTTP/2 longer, on both sides, than most calls take what they call.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dunlin_proto::v1;
use dunlin_proto::v1::answer::Outcome;
use dunlin_proto::v1::gathered_client::GatheredClient;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Full};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::body::Body;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::{Code, Status};

use super::channel::{Request, Response};
use super::peers::Shared;

mod serve;

pub(super) use serve::server;

/// Calls in one request.
const MOST: usize = 256;
/// A message of more bytes goes by itself.
const LARGE: usize = 64 << 10;
/// How long calls wait at most for those before them to be taken up.
const PATIENCE: Duration = Duration::from_millis(2);

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// What W3C's Trace Context passes on.
const TRACE: [&str; 2] = ["traceparent", "tracestate"];

/// What waits for its turn with the replicas behind a URL.
pub(super) struct Gathered(mpsc::UnboundedSender<Waiting>);

struct Waiting {
    call: v1::Call,
    /// Nobody waits for it any longer then.
    until: Instant,
    reply: oneshot::Sender<Result<v1::Answer, Status>>,
}

impl Gathered {
    /// The task that sends ends with what is returned.
    pub fn new(shared: Arc<Shared>, runtime: &tokio::runtime::Handle) -> Self {
        let (sender, queue) = mpsc::unbounded_channel();
        runtime.spawn(send(shared, queue));
        Self(sender)
    }

    /// A unary call. Once it is on its way, or waits for a connection, a caller that goes away does
    /// not end it.
    pub async fn call(
        &self,
        shared: &Shared,
        request: Request,
        until: Instant,
    ) -> Result<Response, Status> {
        let (head, body) = request.into_parts();
        let message = body.collect().await?.to_bytes();
        if message.len() > LARGE {
            return shared.call(Request::from_parts(head, Body::new(Full::new(message)))).await;
        }
        let trace = TRACE.into_iter().filter_map(|name| {
            let value = head.headers.get(name)?.to_str().ok()?;
            Some((name.to_owned(), value.to_owned()))
        });
        let call = v1::Call { path: head.uri.path().to_owned(), trace: trace.collect(), message };
        let (reply, answer) = oneshot::channel();
        // The receiver is there as long as this is; should it have died, so has the reply.
        let _ = self.0.send(Waiting { call, until, reply });
        let answer = answer.await.unwrap_or_else(|_| Err(Status::internal("a request died")))?;
        match answer.outcome {
            Some(Outcome::Message(message)) => Ok(answered(message)),
            Some(Outcome::Refusal(refusal)) => Err(refused(refusal)),
            None => Err(Status::internal("an answer of another version")),
        }
    }
}

/// As a response that came alone.
fn answered(message: Bytes) -> Response {
    let mut trailers = HeaderMap::new();
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    let body = Full::new(message).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

fn refused(refusal: v1::Refusal) -> Status {
    let mut status = Status::new(Code::from_i32(refusal.code), refusal.text);
    for (name, value) in refusal.metadata {
        let name = name.parse::<AsciiMetadataKey>();
        let value = value.parse::<AsciiMetadataValue>();
        if let (Ok(name), Ok(value)) = (name, value) {
            status.metadata_mut().insert(name, value);
        }
    }
    status
}

/// One request after the other: the next when a replica has taken up the last one, or seems not to.
async fn send(shared: Arc<Shared>, mut queue: mpsc::UnboundedReceiver<Waiting>) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, MOST).await > 0 {
        let (taken, is_taken) = oneshot::channel();
        tokio::spawn(ask(shared.clone(), std::mem::take(&mut waiting), taken));
        // Either way it is time.
        let _ = timeout(PATIENCE, is_taken).await;
    }
}

async fn ask(shared: Arc<Shared>, waiting: Vec<Waiting>, taken: oneshot::Sender<()>) {
    // Callers have deadlines of their own, and none is later.
    let Some(until) = waiting.iter().map(|call| call.until).max() else { return };
    let (calls, mut replies): (Vec<_>, Vec<_>) =
        waiting.into_iter().map(|waiting| (waiting.call, Some(waiting.reply))).unzip();
    let answers = async {
        let line = tower::service_fn(|request| shared.call(request));
        let mut client = GatheredClient::new(line).max_decoding_message_size(usize::MAX);
        let mut answers = client.call(v1::Calls { calls }).await?.into_inner();
        drop(taken);
        // What breaks from here on has begun, and tonic calls it by many names.
        let lost = |status: Status| shared.lost(status.message());
        while let Some(v1::Answers { answers }) = answers.message().await.map_err(lost)? {
            for answer in answers {
                let reply = replies.get_mut(answer.call as usize).and_then(Option::take);
                // Who has stopped waiting is not told.
                let _ = reply.map(|reply| reply.send(Ok(answer)));
            }
        }
        Ok(())
    };
    let status = match timeout_at(until, answers).await {
        Ok(Ok(())) => shared.lost("it has not answered all of them"),
        Ok(Err(status)) => status,
        Err(_) => Status::deadline_exceeded("no answer in time"),
    };
    for reply in replies.into_iter().flatten() {
        let _ = reply.send(Err(status.clone()));
    }
}

#[cfg(test)]
mod tests;
