//! MQTT over WebSocket: the handshake and the frames, as far as a client of a hub needs them.
//!
//! Of our own for the same reason as the packets: a library's connection holds buffers, and an idle
//! device shall hold none.

use anyhow::{Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What a server's answer to the handshake may have.
const LONGEST_ANSWER: usize = 4_096;

/// Opens a WebSocket on a connection that has said nothing yet.
pub async fn open(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), host: &str) -> Result<()> {
    // The key is to be random against caches between; here is none.
    let request = format!(
        "GET /$iothub/websocket HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") && answer.len() < LONGEST_ANSWER {
        answer.push(stream.read_u8().await?);
    }
    if !answer.starts_with(b"HTTP/1.1 101 ") {
        bail!("no WebSocket: {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

/// `bytes` as one frame, masked as a client's must be: with zeros, which changes nothing.
pub fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(14 + bytes.len());
    out.push(0x82);
    match (u8::try_from(bytes.len()), u16::try_from(bytes.len())) {
        (Ok(short @ ..=125), _) => out.push(0x80 | short),
        (_, Ok(length)) => {
            out.push(0x80 | 126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(bytes);
    out
}

/// Takes a server's frames off, wherever they are cut.
#[derive(Default)]
pub struct Frames {
    /// The beginning of a frame's header.
    header: Vec<u8>,
    /// Bytes of the current frame that are still to come.
    left: usize,
}

impl Frames {
    /// Moves what the frames carry to the front of `bytes`; how much that is.
    pub fn take_off(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let (mut from, mut to) = (0, 0);
        while from < bytes.len() {
            if self.left == 0 {
                self.header.push(bytes[from]);
                from += 1;
                if let Some(length) = length(&self.header)? {
                    (self.left, self.header) = (length, Vec::new());
                }
                continue;
            }
            let here = self.left.min(bytes.len() - from);
            bytes.copy_within(from..from + here, to);
            (from, to, self.left) = (from + here, to + here, self.left - here);
        }
        Ok(to)
    }
}

/// What a frame carries, once its header is there in full.
fn length(header: &[u8]) -> Result<Option<usize>> {
    // A hub pings nobody; what is left is binary, whole or in parts, and the end.
    if header[0] & 0x0f > 2 {
        bail!("closed by the server with a WebSocket frame {:#04x}", header[0]);
    }
    Ok(match *header {
        [_, short @ ..=125] => Some(usize::from(short)),
        [_, 126, a, b] => Some(usize::from(u16::from_be_bytes([a, b]))),
        [_, 127, a, b, c, d, e, f, g, h] => {
            Some(usize::try_from(u64::from_be_bytes([a, b, c, d, e, f, g, h]))?)
        }
        [_, 128..=255, ..] => bail!("the server masks its WebSocket frames"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_standard() {
        assert_eq!(frame(b"hi"), b"\x82\x82\0\0\0\0hi");
        assert_eq!(frame(&[7; 126])[..8], *b"\x82\xfe\0\x7e\0\0\0\0");
        assert_eq!(frame(&[7; 65_536])[..14], *b"\x82\xff\0\0\0\0\0\x01\0\0\0\0\0\0");
    }

    #[test]
    fn frames_are_taken_off_however_they_are_cut() -> Result<()> {
        let mut all = b"\x82\x02ab\x82\x00\x02\x7e\0\x03cde\x80\x7f\0\0\0\0\0\0\0\x01f".to_vec();
        for cut in 0..=all.len() {
            let (mut frames, mut got) = (Frames::default(), Vec::new());
            let mut bytes = all.clone();
            let (first, second) = bytes.split_at_mut(cut);
            for part in [first, second] {
                let length = frames.take_off(part)?;
                got.extend_from_slice(&part[..length]);
            }
            assert_eq!(got, b"abcdef", "cut at {cut}");
        }
        all[0] = 0x88;
        assert!(Frames::default().take_off(&mut all).is_err());
        Ok(())
    }

    #[tokio::test]
    async fn a_refused_handshake_says_why() -> Result<()> {
        for (answer, opens) in [
            (&b"HTTP/1.1 101 Switching Protocols\r\na: b\r\n\r\n"[..], true),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", false),
            (b"HTTP/1.1 101 Switch", false),
        ] {
            let (mut client, mut server) = tokio::io::duplex(1_024);
            server.write_all(answer).await?;
            let mut asked = [0; 3];
            let opened = async {
                let opened = open(&mut client, "h").await;
                drop(client);
                opened
            };
            let (opened, asked_for) = tokio::join!(opened, async {
                server.read_exact(&mut asked).await?;
                server.shutdown().await
            });
            asked_for?;
            assert_eq!((opened.is_ok(), &asked), (opens, b"GET"));
        }
        Ok(())
    }
}
