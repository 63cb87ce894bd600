//! What bounds an HTTPS connection in time and number: a body must arrive and an answer be taken in
//! good time, and a connection that serves no request waits in the lobby, from where it may have to
//! go.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use ntex::io::IoRef;
use tokio::time::Sleep;

use crate::lobby::{Seat, Waiting};

/// One connection: in the lobby but while it serves a request.
pub struct Watch {
    seat: Seat,
    io: IoRef,
    waiting: RefCell<Option<Waiting>>,
}

impl Watch {
    pub fn new(seat: Seat, waiting: Waiting, io: IoRef) -> Rc<Self> {
        Rc::new(Self { seat, io, waiting: RefCell::new(Some(waiting)) })
    }

    /// A request has come; the connection waits for the next when what is returned is dropped.
    pub fn busy(self: &Rc<Self>) -> Busy {
        self.waiting.borrow_mut().take();
        Busy(self.clone())
    }
}

pub struct Busy(Rc<Watch>);

impl Drop for Busy {
    fn drop(&mut self) {
        let waiting = self.0.seat.lobby().wait(self.0.io.clone());
        *self.0.waiting.borrow_mut() = Some(waiting);
    }
}

/// A response's body, which keeps its connection busy to its end.
pub struct Answer<B> {
    body: B,
    /// Of a stream of events, which has no end of its own: when the hub stops.
    ends: Option<Pin<Box<dyn Future<Output = ()>>>>,
    _busy: Busy,
}

impl<B> Answer<B> {
    pub fn to(response: Response<B>, busy: Busy) -> Response<Self> {
        let kind = response.headers().get(header::CONTENT_TYPE);
        let is_stream = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let draining = busy.0.seat.lobby().draining();
        let ends = is_stream.then(|| Box::pin(draining.clone().cancelled_owned()) as _);
        response.map(|body| Self { body, ends, _busy: busy })
    }
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Some(ends) = &mut self.ends
            && ends.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request's body, which must have arrived within a time.
pub struct Timely {
    body: Incoming,
    limit: Duration,
    /// From the first time that it is waited for: most requests have no body, or have it at hand.
    ends: Option<Pin<Box<Sleep>>>,
    spoiled: Spoiled,
}

/// Whether a request's body did not come whole and well-formed: then whatever became of the request
/// is the client's doing.
#[derive(Clone, Default)]
pub struct Spoiled(Arc<AtomicBool>);

impl Spoiled {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Timely {
    pub fn new(body: Incoming, limit: Duration, spoiled: Spoiled) -> Self {
        Self { body, limit, ends: None, spoiled }
    }

    fn spoil(&self, error: io::Error) -> io::Error {
        self.spoiled.0.store(true, Ordering::Release);
        error
    }
}

impl Body for Timely {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let spoil = |error| self.spoil(io::Error::other(error));
            return Poll::Ready(frame.map(|frame| frame.map_err(spoil)));
        }
        let limit = self.limit;
        let ends = self.ends.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        std::task::ready!(ends.as_mut().poll(cx));
        let late = io::Error::new(io::ErrorKind::TimedOut, "the request body took too long");
        Poll::Ready(Some(Err(self.spoil(late))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
