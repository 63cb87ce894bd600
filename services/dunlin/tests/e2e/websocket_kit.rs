//! A WebSocket client by hand: it writes and reads frames as bytes, so that a test can make every
//! part of one wrong, and carries MQTT for the tests that do not care.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::hostile_kit::Answer;
use crate::mqtt_kit::Door;
use crate::raw::{self, Raw, within};

/// First bytes of whole frames.
pub const BINARY: u8 = 0x82;
pub const TEXT: u8 = 0x81;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;
/// FIN, without which a frame is not the last of its message; and a frame that goes on.
pub const FIN: u8 = 0x80;
pub const CONTINUE: u8 = 0x00;

/// The sample of RFC 6455, 1.3, and what it is answered with.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A handshake with these lines in place of, or beside, the usual ones; `""` behind a name: without.
pub fn handshake(target: &str, lines: &[(&str, &str)]) -> String {
    let usual = [
        ("Host", "localhost"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", "mqtt"),
    ];
    let kept = usual.iter().filter(|(name, _)| !lines.iter().any(|(other, _)| other == name));
    let text = kept.chain(lines).filter(|(_, value)| !value.is_empty());
    let text: String = text.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("GET {target} HTTP/1.1\r\n{text}\r\n")
}

pub const TARGET: &str = "/$iothub/websocket";

/// A client's frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = head(first, payload.len() as u64, 0x80);
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A frame's head without its mask; `masked`: 0x80 if there is one.
pub fn head(first: u8, length: u64, masked: u8) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(masked | length as u8),
        126..=65_535 => {
            bytes.push(masked | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(masked | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes
}

/// One whole frame of the hub's off the front of what came.
fn take(came: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (first, second) = (*came.first()?, *came.get(1)?);
    assert_eq!(second & 0x80, 0, "a server does not mask");
    let (length, start) = match second {
        126 => (u64::from(u16::from_be_bytes(*came.get(2..)?.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*came.get(2..)?.first_chunk()?), 10),
        length => (u64::from(length), 2),
    };
    assert_eq!(head(first, length, 0).len(), start, "the shortest form of a length");
    let end = start + usize::try_from(length).expect("a length");
    let payload = came.get(start..end)?.to_vec();
    came.drain(..end);
    Some((first, payload))
}

/// A connection after its handshake.
pub struct Ws {
    stream: TlsStream<TcpStream>,
    came: Vec<u8>,
}

impl Ws {
    pub async fn open(door: &Door) -> Self {
        let (ws, head) = Self::shake(door, handshake(TARGET, &[]).as_bytes()).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        ws
    }

    /// A TLS connection that is still to become one.
    pub fn over(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, came: Vec::new() }
    }

    /// Sends a handshake, and what may follow it; the head of the answer.
    pub async fn shake(door: &Door, bytes: &[u8]) -> (Self, String) {
        let stream = raw::open_tls(door.address, &door.tls).await.expect("a TLS connection");
        let mut ws = Self::over(stream);
        ws.send(bytes).await;
        let answer = ws.answer().await;
        (ws, answer.head)
    }

    /// The next HTTP answer.
    pub async fn answer(&mut self) -> Answer {
        loop {
            if let Some(answer) = Answer::take(&mut self.came) {
                return answer;
            }
            let read = within("an answer", self.stream.read_buf(&mut self.came)).await;
            assert!(read.expect("an answer") > 0, "closed");
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        within("sending", self.try_send(bytes)).await.expect("sent");
    }

    pub async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The hub's next frame: its first byte and its payload. `None`: it ended the connection.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(frame) = take(&mut self.came) {
                return Some(frame);
            }
            let read = within("a frame", self.stream.read_buf(&mut self.came)).await;
            if matches!(read, Ok(0) | Err(_)) {
                assert!(self.came.is_empty(), "part of a frame: {:x?}", self.came);
                return None;
            }
        }
    }

    #[track_caller]
    pub fn expect<'a>(&'a mut self, first: u8, payload: &'a [u8]) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let got = self.frame().await.unwrap_or_else(|| panic!("closed, at {caller}"));
            assert_eq!(got, (first, payload.to_vec()), "at {caller}");
        }
    }

    /// A Close with this code must come next, and then the end.
    pub async fn expect_close(&mut self, code: u16, what: &str) {
        let close = self.frame().await;
        assert_eq!(close, Some((CLOSE, code.to_be_bytes().to_vec())), "{what}");
        assert_eq!(self.frame().await, None, "{what}");
    }

    /// As `expect_close`, behind whatever else the hub had to say.
    pub async fn expect_close_after(&mut self, code: u16, what: &str) {
        loop {
            let frame = self.frame().await.unwrap_or_else(|| panic!("{what}: no Close"));
            if frame.0 == CLOSE {
                assert_eq!(frame.1, code.to_be_bytes(), "{what}");
                return assert_eq!(self.frame().await, None, "{what}");
            }
        }
    }

    /// Says that nothing more will follow, in TLS.
    pub async fn shut(&mut self) {
        // The hub may have closed before.
        let _ = self.stream.shutdown().await;
    }

    /// As a carrier of MQTT: each write is a frame.
    pub fn into_raw(self) -> Raw {
        Raw::over(Carried { ws: self, out: Vec::new(), plain: Vec::new(), closed: false })
    }
}

struct Carried {
    ws: Ws,
    out: Vec<u8>,
    plain: Vec<u8>,
    closed: bool,
}

impl AsyncRead for Carried {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            while let Some((first, payload)) = take(&mut self.ws.came) {
                assert!([BINARY, CLOSE].contains(&first), "{first:x}");
                assert!(!self.closed, "{payload:x?} after Close");
                match first {
                    CLOSE => self.closed = true,
                    _ => self.plain.extend(payload),
                }
            }
            if !self.plain.is_empty() {
                let length = self.plain.len().min(buffer.remaining());
                buffer.put_slice(&self.plain[..length]);
                self.plain.drain(..length);
                return Poll::Ready(Ok(()));
            }
            let mut more = [0; 4_096];
            let mut more = ReadBuf::new(&mut more);
            ready!(Pin::new(&mut self.ws.stream).poll_read(cx, &mut more))?;
            if more.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.ws.came.extend(more.filled());
        }
    }
}

impl AsyncWrite for Carried {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.out = frame(BINARY, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.out.is_empty() {
            let sent = ready!(Pin::new(&mut this.ws.stream).poll_write(cx, &this.out))?;
            this.out.drain(..sent);
        }
        Pin::new(&mut this.ws.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.get_mut().ws.stream).poll_shutdown(cx)
    }
}
