//! The side that is called: takes requests apart and has each call carried out.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use dunlin_proto::v1;
use dunlin_proto::v1::answer::Outcome;
use dunlin_proto::v1::gathered_server;
use futures_util::stream::unfold;
use futures_util::{FutureExt, Stream};
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::metadata::KeyAndValueRef;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::ServiceExt;

use super::{GRPC, LARGE, MOST};

/// Has calls carried out by `routes`.
pub fn server(routes: Routes) -> gathered_server::GatheredServer<impl gathered_server::Gathered> {
    gathered_server::GatheredServer::new(Apart(routes)).max_decoding_message_size(MOST * 2 * LARGE)
}

struct Apart(Routes);

#[tonic::async_trait]
impl gathered_server::Gathered for Apart {
    type CallStream = Pin<Box<dyn Stream<Item = Result<v1::Answers, Status>> + Send>>;

    async fn call(
        &self,
        request: tonic::Request<v1::Calls>,
    ) -> Result<tonic::Response<Self::CallStream>, Status> {
        let (done, answers) = mpsc::unbounded_channel();
        // Each goes on whatever becomes of the others, and however slowly answers are read. They end
        // with the stream.
        let mut under_way = JoinSet::new();
        for (call, place) in request.into_inner().calls.into_iter().zip(0..) {
            let (routes, done) = (self.0.clone(), done.clone());
            under_way.spawn(async move {
                let answer = AssertUnwindSafe(answer(routes, call)).catch_unwind().await;
                let died = |_| Err(Status::internal("the handler died"));
                let outcome = answer.unwrap_or_else(died).unwrap_or_else(refusal);
                // Nobody reads any more: the stream is being dropped.
                let _ = done.send(v1::Answer { call: place, outcome: Some(outcome) });
            });
        }
        drop(done);
        let answers = unfold((under_way, answers), |(under_way, mut answers)| async move {
            let mut some = Vec::new();
            answers.recv_many(&mut some, MOST).await;
            (!some.is_empty()).then(|| (Ok(v1::Answers { answers: some }), (under_way, answers)))
        });
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}

async fn answer(routes: Routes, call: v1::Call) -> Result<Outcome, Status> {
    let v1::Call { path, trace, message } = call;
    let request = http::Request::post(path).header(CONTENT_TYPE, GRPC);
    let traced = |request: http::request::Builder, (name, value)| request.header(name, value);
    let request = trace.into_iter().fold(request, traced);
    let request = request.body(Body::new(Full::new(message)));
    let request = request.map_err(|error| Status::invalid_argument(error.to_string()))?;
    let response = routes.oneshot(request).await.unwrap_or_else(|never| match never {});
    let (head, body) = response.into_parts();
    said(Status::from_header_map(&head.headers))?;
    let body = body.collect().await?;
    let said_last = body.trailers().and_then(Status::from_header_map);
    let message = body.to_bytes();
    match said_last {
        None => Err(Status::unimplemented("that is no gRPC here")),
        last => said(last).map(|()| Outcome::Message(message)),
    }
}

fn said(status: Option<Status>) -> Result<(), Status> {
    match status {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok(()),
    }
}

fn refusal(status: Status) -> Outcome {
    let metadata = status.metadata().iter().filter_map(|field| match field {
        KeyAndValueRef::Ascii(name, value) => {
            Some((name.to_string(), value.to_str().ok()?.to_owned()))
        }
        KeyAndValueRef::Binary(..) => None,
    });
    Outcome::Refusal(v1::Refusal {
        code: status.code().into(),
        text: status.message().to_owned(),
        metadata: metadata.collect(),
    })
}
