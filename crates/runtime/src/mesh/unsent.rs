//! A request that can be sent again as long as nobody has seen it.
//!
//! hyper gives a request back if its connection was closed, but not if the peer said GOAWAY a
//! moment ago, as every process does that stops in good order.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http::Request;
use http::request::Parts;
use http_body::{Frame, SizeHint};
use hyper::client::conn::TrySendError;
use tonic::Status;
use tonic::body::Body;

pub(super) struct Unsent {
    head: Parts,
    body: Lent,
}

/// The body, lent to a connection.
#[derive(Clone)]
pub(super) struct Lent(Arc<Mutex<Content>>);

struct Content {
    body: Body,
    /// Something of it may be on its way.
    read: bool,
}

impl Unsent {
    pub fn new(request: Request<Body>) -> Self {
        let (head, body) = request.into_parts();
        Self { head, body: Lent(Arc::new(Mutex::new(Content { body, read: false }))) }
    }

    pub fn request(&self) -> Request<Lent> {
        Request::from_parts(self.head.clone(), self.body.clone())
    }

    /// Whether the request still is what it was, and the peer has certainly not begun with it.
    pub fn is_whole_after(&self, failed: &TrySendError<Request<Lent>>) -> bool {
        let certain = failed.message().is_some() || was_refused(failed.error());
        certain && !self.body.content().read
    }
}

/// The peer took no more requests, this one included (RFC 9113, 8.7).
fn was_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.find_map(|cause| cause.downcast_ref::<h2::Error>()).is_some_and(|error| {
        let stopped = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        let reset = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (stopped || reset)
    })
}

impl Lent {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl http_body::Body for Lent {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let mut content = self.content();
        content.read = true;
        Pin::new(&mut content.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.content().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content().body.size_hint()
    }
}
