//! HOT PATH: the WebSocket layer of a connection (RFC 6455, a server's side): bytes in binary frames.
//!
//! Payload is passed on as it comes: a frame may be of any size and is never held, what it carries
//! has bounds of its own. ntex has such a layer too, which holds whole frames, takes reserved bits
//! and control frames in pieces, ends a connection without a Close that says why, and answers pings
//! for as long as there is memory.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, Cursor};
use std::task::Poll;

use ntex::io::{FilterBuf, FilterLayer};
use ntex::util::{BytePages, BytesMut};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// The most a control frame may carry (5.5).
const MAX_CONTROL: u64 = 125;

pub struct WsFilter {
    incoming: RefCell<Incoming>,
    /// Close has been said, or TLS is gone: nothing more is said or taken.
    closed: Cell<bool>,
    /// What Close says when it is the hub that ends the connection.
    code: Cell<CloseCode>,
}

/// Where in the client's frames the connection is.
#[derive(Default)]
struct Incoming {
    /// Payload of a data frame that is still to come.
    left: u64,
    /// The frame's mask, turned so that the next byte's comes first.
    mask: [u8; 4],
    /// The last data frame was not the last of its message.
    fragmented: bool,
}

impl WsFilter {
    pub fn new() -> Self {
        Self {
            incoming: RefCell::default(),
            closed: Cell::new(false),
            code: Cell::new(CloseCode::Normal),
        }
    }

    pub fn set_code(&self, code: CloseCode) {
        self.code.set(code);
    }

    fn say_close(&self, code: CloseCode, out: &mut BytePages) {
        put(out, OpCode::Control(Control::Close), &u16::from(code).to_be_bytes());
        self.closed.set(true);
    }
}

impl Incoming {
    /// Takes frames apart for as long as there are any. An error ends the connection, with that code.
    fn take(
        &mut self,
        source: &mut BytesMut,
        plain: &mut BytesMut,
        mut answer: impl FnMut(&[u8]),
    ) -> Result<(), CloseCode> {
        loop {
            let here = source.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            if here > 0 {
                unmask(&mut source[..here], self.mask);
                plain.extend_from_slice(&source[..here]);
                source.advance_to(here);
                self.mask.rotate_left(here % 4);
                self.left -= here as u64;
            }
            let mut cursor = Cursor::new(&source[..]);
            let header = FrameHeader::parse(&mut cursor).map_err(|_| CloseCode::Protocol)?;
            let Some((header, length)) = header.filter(|_| self.left == 0) else { return Ok(()) };
            let start = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
            let mask = self.check(&header, length)?;
            let OpCode::Control(control) = header.opcode else {
                source.advance_to(start);
                (self.left, self.mask, self.fragmented) = (length, mask, !header.is_final);
                continue;
            };
            let end = start + usize::try_from(length).unwrap_or(usize::MAX);
            let Some(payload) = source.get_mut(start..end) else { return Ok(()) };
            unmask(payload, mask);
            match control {
                Control::Ping => answer(payload),
                Control::Close => return Err(close_code(payload)),
                _ => {}
            }
            source.advance_to(end);
        }
    }

    /// Whether a frame may come now, and its mask.
    fn check(&self, header: &FrameHeader, length: u64) -> Result<[u8; 4], CloseCode> {
        let control = matches!(header.opcode, OpCode::Control(_));
        let wrong = header.rsv1
            || header.rsv2
            || header.rsv3
            || length > i64::MAX as u64
            || control && (!header.is_final || length > MAX_CONTROL);
        match header.opcode {
            _ if wrong => Err(CloseCode::Protocol),
            OpCode::Data(Data::Continue) if !self.fragmented => Err(CloseCode::Protocol),
            OpCode::Data(Data::Text) => Err(CloseCode::Unsupported),
            OpCode::Data(Data::Binary) if self.fragmented => Err(CloseCode::Protocol),
            _ => header.mask.ok_or(CloseCode::Protocol),
        }
    }
}

/// What a client's Close is answered with: its own code, if that is one (7.4).
fn close_code(payload: &[u8]) -> CloseCode {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { CloseCode::Normal } else { CloseCode::Protocol };
    };
    let code = CloseCode::from(u16::from_be_bytes(*code));
    if std::str::from_utf8(reason).is_err() {
        return CloseCode::Invalid;
    }
    if code.is_allowed() { code } else { CloseCode::Protocol }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let word = u32::from_ne_bytes(mask);
    let (words, rest) = payload.as_chunks_mut::<4>();
    for bytes in words {
        *bytes = (u32::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// A whole frame, copied: in one piece with its header it is one TLS record.
fn put(out: &mut BytePages, opcode: OpCode, payload: &[u8]) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    header.format(payload.len() as u64, out).expect("memory takes any bytes");
    out.extend_from_slice(payload);
}

impl FilterLayer for WsFilter {
    fn process_read_buf(&self, buf: &FilterBuf<'_>) -> io::Result<()> {
        if self.closed.get() {
            // Whatever arrives after the end is dropped, or it would be kept for nothing.
            buf.with_read_src(|source| *source = None);
            return Ok(());
        }
        // Who does not take what it is sent gets no answers to pings, or they would pile up.
        let congested = buf.io().is_wr_backpressure();
        let taken = buf.with_read_buffers(|source, plain| {
            let Some(source) = source else { return Ok(()) };
            buf.with_write_buffers(|_, out| {
                let pong = |payload: &[u8]| {
                    if !congested {
                        put(out, OpCode::Control(Control::Pong), payload);
                    }
                };
                self.incoming.borrow_mut().take(source, plain, pong)
            })
        });
        if let Err(code) = taken {
            buf.with_write_buffers(|_, out| self.say_close(code, out));
            buf.io().close();
        }
        Ok(())
    }

    fn process_write_buf(&self, buf: &FilterBuf<'_>) -> io::Result<()> {
        buf.with_write_buffers(|plain, out| {
            if self.closed.get() {
                plain.clear();
            }
            while let Some(page) = plain.take() {
                put(out, OpCode::Data(Data::Binary), page.as_ref());
            }
        });
        Ok(())
    }

    fn shutdown(&self, buf: &FilterBuf<'_>) -> io::Result<Poll<()>> {
        if !self.closed.get() {
            buf.with_write_buffers(|_, out| self.say_close(self.code.get(), out));
        }
        Ok(Poll::Ready(()))
    }
}

impl fmt::Debug for WsFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WsFilter")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A client's frame.
    fn frame(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..=125 => bytes.push(0x80 | length as u8),
            length => bytes.extend([&[0xfe][..], &(length as u16).to_be_bytes()].concat()),
        }
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// What came of bytes that arrived in pieces: payload, pongs, the end, what is left over.
    fn take(pieces: &[&[u8]]) -> (Vec<u8>, Vec<Vec<u8>>, Result<(), CloseCode>, usize) {
        let (mut incoming, mut source) = (Incoming::default(), BytesMut::new());
        let (mut plain, mut pongs) = (BytesMut::new(), Vec::new());
        let mut end = Ok(());
        for piece in pieces {
            source.extend_from_slice(piece);
            end = incoming.take(&mut source, &mut plain, |payload| pongs.push(payload.to_vec()));
            if end.is_err() {
                break;
            }
        }
        (plain.to_vec(), pongs, end, source.len())
    }

    proptest! {
        #[test]
        fn nothing_is_held_or_lost_however_bytes_arrive(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..5),
            mask in any::<[u8; 4]>(),
            size in 1_usize..50,
        ) {
            let ping = frame(0x89, mask, b"ping");
            let last = payloads.len() - 1;
            let bytes: Vec<u8> = payloads.iter().enumerate().flat_map(|(at, payload)| {
                let first = if at == 0 { 2 } else { 0 } | if at == last { 0x80 } else { 0 };
                [frame(first, mask, payload), ping.clone()].concat()
            }).collect();
            let pieces: Vec<_> = bytes.chunks(size).collect();
            let (plain, pongs, end, left) = take(&pieces);
            prop_assert_eq!(plain, payloads.concat());
            prop_assert_eq!(pongs, vec![b"ping".to_vec(); payloads.len()]);
            prop_assert_eq!((end, left), (Ok(()), 0));
        }

        #[test]
        fn no_bytes_panic_and_no_more_than_a_control_frame_is_held(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            first in any::<u8>(),
        ) {
            let bytes = [&[first, 0x80 | first][..], &bytes].concat();
            let (.., end, left) = take(&[&bytes]);
            prop_assert!(end.is_err() || left < 14 + 125);
        }
    }

    #[test]
    fn a_frame_is_written_with_the_shortest_length() {
        for (length, head) in [
            (125, &[0x82, 125][..]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 255, 255]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = BytePages::default();
            put(&mut out, OpCode::Data(Data::Binary), &vec![7; length]);
            assert_eq!(out.freeze(), [head, &vec![7; length]].concat());
        }
    }
}
