//! An ntex connection as a tokio stream, for libraries that want one. ntex has such an adapter of
//! its own, which takes any amount of output; this one passes backpressure on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ntex::io::{Filter, Io};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub struct Bridge<F: Filter>(Io<F>);

impl<F: Filter> Bridge<F> {
    pub fn new(io: Io<F>) -> Self {
        Self(io)
    }
}

impl<F: Filter> AsyncRead for Bridge<F> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let taken = self.0.with_read_buf(|source| {
                let length = source.len().min(buffer.remaining());
                buffer.put_slice(&source.split_to(length));
                length
            });
            if taken > 0 {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.0.poll_read_ready(cx))?.is_none() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<F: Filter> AsyncWrite for Bridge<F> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.0.is_wr_backpressure() {
            ready!(self.0.poll_flush(cx, false))?;
        }
        self.0.encode_slice(bytes)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx, true)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_shutdown(cx)
    }
}
