//! An ntex connection as a tokio stream, for libraries that want one. ntex has such an adapter of
//! its own, which takes any amount of output; this one passes backpressure on, and gives up on a
//! peer that does not take what it is sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ntex::io::{Filter, Io};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

pub struct Bridge<F: Filter> {
    io: Io<F>,
    /// How long output may wait for the peer, and the end of that wait while there is one.
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

// Nothing in it is ever pinned in its place.
impl<F: Filter> Unpin for Bridge<F> {}

impl<F: Filter> Bridge<F> {
    pub fn new(io: Io<F>, patience: Duration) -> Self {
        Self { io, patience, stalled: None }
    }

    pub fn into_inner(self) -> Io<F> {
        self.io
    }

    /// The outcome of waiting for the peer, unless that takes too long.
    fn bounded(
        &mut self,
        waited: Poll<io::Result<()>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if waited.is_ready() {
            self.stalled = None;
            return waited;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        // Nothing more can be said to it, not even that TLS ends.
        self.io.terminate();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<F: Filter> AsyncRead for Bridge<F> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let taken = self.io.with_read_buf(|source| {
                let length = source.len().min(buffer.remaining());
                buffer.put_slice(&source.split_to(length));
                length
            });
            if taken > 0 {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.io.poll_read_ready(cx))?.is_none() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<F: Filter> AsyncWrite for Bridge<F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.io.is_wr_backpressure() {
            let flushed = self.io.poll_flush(cx, false);
            ready!(self.bounded(flushed, cx))?;
        }
        self.io.encode_slice(bytes)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.io.poll_flush(cx, true);
        self.bounded(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = self.io.poll_shutdown(cx);
        self.bounded(closed, cx)
    }
}
