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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use ntex::SharedCfg;
    use ntex::io::testing::IoTest;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Ends no test that goes well.
    const LONG: Duration = Duration::from_secs(30);

    /// Runs a test on a thread as connections have it: with a peer, and a bridge to it.
    fn with_peer<T: Future<Output = ()>>(
        patience: Duration,
        test: impl FnOnce(IoTest, Bridge<ntex::io::Base>) -> T + 'static,
    ) {
        let system = ntex::rt::System::build().disable_signals().build(ntex::rt::DefaultRuntime);
        system.block_on(async move {
            let (peer, here) = IoTest::create();
            let bridge = Bridge::new(Io::new(here, SharedCfg::default()), patience);
            tokio::time::timeout(LONG, test(peer, bridge)).await.expect("in time");
        });
    }

    /// Writes for as long as that is taken at once.
    async fn fill(bridge: &mut Bridge<ntex::io::Base>) -> Vec<u8> {
        let mut taken = Vec::new();
        for n in 0..=u8::MAX {
            let part = [n; 4_096];
            match poll_fn(|cx| Poll::Ready(Pin::new(&mut *bridge).poll_write(cx, &part))).await {
                Poll::Ready(length) => taken.extend(&part[..length.expect("taken")]),
                Poll::Pending => return taken,
            }
        }
        panic!("it takes any amount");
    }

    #[test]
    fn what_the_peer_sends_is_read_to_its_end() {
        with_peer(LONG, async |peer, mut bridge| {
            peer.write("hello");
            let mut part = [0; 3];
            assert_eq!(bridge.read(&mut part).await.expect("read"), 3);
            assert_eq!(&part, b"hel");
            assert_eq!(bridge.read(&mut part).await.expect("read"), 2);
            assert_eq!(&part[..2], b"lo");
            peer.write("!");
            peer.close().await;
            let mut rest = Vec::new();
            bridge.read_to_end(&mut rest).await.expect("an end");
            assert_eq!(rest, b"!");
            assert_eq!(bridge.read(&mut part).await.expect("still the end"), 0);
        });
    }

    #[test]
    fn output_waits_for_a_peer_that_is_slow() {
        with_peer(LONG, async |peer, mut bridge| {
            let mut sent = fill(&mut bridge).await;
            assert!(!sent.is_empty());
            assert!(peer.read_any().is_empty());
            peer.remote_buffer_cap(1 << 20);
            // There is room again, and nothing was lost or repeated.
            bridge.write_all(b"more").await.expect("written");
            sent.extend(b"more");
            bridge.flush().await.expect("flushed");
            assert!(peer.read_any() == sent);
        });
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up() {
        let patience = Duration::from_millis(10);
        with_peer(patience, async |_peer, mut bridge| {
            fill(&mut bridge).await;
            let error = bridge.write_all(b"more").await.expect_err("it takes nothing");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            bridge.flush().await.expect_err("it is over");
            assert_eq!(bridge.read(&mut [0]).await.unwrap_or(0), 0);
        });
        with_peer(patience, async |_peer, mut bridge| {
            bridge.write_all(b"a little").await.expect("taken");
            let error = bridge.flush().await.expect_err("it takes nothing");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }

    #[test]
    fn a_shutdown_comes_after_what_was_written() {
        with_peer(LONG, async |peer, mut bridge| {
            peer.remote_buffer_cap(1 << 20);
            bridge.write_all(b"bye").await.expect("written");
            bridge.shutdown().await.expect("shut down");
            assert_eq!(peer.read().await.expect("read"), "bye");
            while !peer.is_closed() {
                tokio::task::yield_now().await;
            }
        });
    }
}
