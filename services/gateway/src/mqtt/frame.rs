//! HOT PATH: whole packets off the wire. ntex-mqtt's codec decodes them; what it leaves unchecked
//! of MQTT 3.1.1 is checked here first, on the bytes.

use dunlin_model::limits;
use ntex::codec::Decoder;
use ntex::util::BytesMut;
use ntex_mqtt::error::DecodeError;
use ntex_mqtt::v3::codec::{Codec, Decoded};

/// A topic is at most 65,535 bytes; its length and the packet id are 4 more.
const MAX_REMAINING: usize = limits::D2C_MESSAGE_BYTES + 65_535 + 4;

/// A CONNECT is taken from strangers: room for the longest will message, and for all else 16 KB.
const MAX_CONNECT: usize = 65_535 + 16 * 1_024;

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;
const PINGREQ: u8 = 12;
const DISCONNECT: u8 = 14;

/// Decodes one whole packet at a time; it has no state, so a connection keeps none for it.
#[derive(Debug, Clone, Copy)]
pub struct Frames {
    /// The first packet of a connection must be a CONNECT: nothing else is even waited for.
    pub connect_only: bool,
}

impl Decoder for Frames {
    type Item = Decoded;
    type Error = DecodeError;

    fn decode(&self, source: &mut BytesMut) -> Result<Option<Decoded>, DecodeError> {
        let Some(&first) = source.first() else { return Ok(None) };
        if self.connect_only && first >> 4 != CONNECT {
            return Err(DecodeError::UnsupportedPacketType);
        }
        let Some((remaining, header)) = remaining_length(&source[1..])? else { return Ok(None) };
        let most = if self.connect_only { MAX_CONNECT } else { MAX_REMAINING };
        if remaining > most {
            return Err(DecodeError::MaxSizeExceeded {
                size: u32::try_from(remaining).unwrap_or(u32::MAX),
                max_size: u32::try_from(most).unwrap_or(u32::MAX),
            });
        }
        let length = 1 + header + remaining;
        if source.len() < length {
            // Room in one step, for who has proved who he is: a stranger's buffer grows with what
            // he sends, not with what he announces.
            if !self.connect_only {
                source.reserve(length - source.len());
            }
            return Ok(None);
        }
        check(first, &source[1 + header..length])?;
        Codec::new().decode(source)
    }
}

/// The remaining length and how many bytes it takes [MQTT-2.2.3]; `None`: not all of it is here.
fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, DecodeError> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(DecodeError::InvalidLength) }
}

fn check(first: u8, body: &[u8]) -> Result<(), DecodeError> {
    match first >> 4 {
        CONNECT => check_connect(first, body),
        PUBLISH => check_publish(first, body),
        // A packet id and at least one filter [MQTT-3.8.3-3], [MQTT-3.10.3-2].
        SUBSCRIBE => {
            ensure(body.len() > 2)?;
            check_subscribe(&body[2..])
        }
        UNSUBSCRIBE => {
            ensure(body.len() > 2)?;
            check_unsubscribe(&body[2..])
        }
        PINGREQ | DISCONNECT => ensure(body.is_empty()),
        _ => Ok(()),
    }
}

/// Flags that contradict one another, and bytes after the end.
fn check_connect(first: u8, body: &[u8]) -> Result<(), DecodeError> {
    ensure(first & 0x0f == 0)?;
    // Not this protocol or level: the codec says which, and the answer differs.
    let Some(body) = body.strip_prefix(b"\0\x04MQTT\x04") else { return Ok(()) };
    let Some((&flags, rest)) = body.split_first() else { return Err(DecodeError::InvalidLength) };
    let (username, password) = (flags & 0x80 != 0, flags & 0x40 != 0);
    let (will, will_qos_retain) = (flags & 0x04 != 0, flags & 0x38 != 0);
    // [MQTT-3.1.2-22]; [MQTT-3.1.2-11], [-13] and [-15].
    ensure(username || !password)?;
    ensure(will || !will_qos_retain)?;
    let mut rest = rest.get(2..).ok_or(DecodeError::InvalidLength)?;
    let strings = 1 + 2 * usize::from(will) + usize::from(username) + usize::from(password);
    for at in 0..strings {
        let (field, after) = split_field(rest)?;
        // Of all fields only the will's message and the password are not text.
        let text = !(will && at == 2 || password && at + 1 == strings);
        ensure(!text || !field.contains(&0))?;
        rest = after;
    }
    ensure(rest.is_empty())
}

/// The header must fit: the codec subtracts it from the length unchecked.
fn check_publish(first: u8, body: &[u8]) -> Result<(), DecodeError> {
    let qos = first >> 1 & 0x03;
    // DUP means nothing on QoS 0 [MQTT-3.3.1-2].
    ensure(qos != 0 || first & 0x08 == 0)?;
    let rest = after_topic(body)?;
    ensure(qos == 0 || rest.len() >= 2)
}

fn check_subscribe(mut rest: &[u8]) -> Result<(), DecodeError> {
    while !rest.is_empty() {
        let after = after_topic(rest)?;
        // Reserved bits of the requested QoS are 0, and 3 is no QoS [MQTT-3-8.3-4].
        let (qos, after) = after.split_first().ok_or(DecodeError::InvalidLength)?;
        ensure(*qos <= 2)?;
        rest = after;
    }
    Ok(())
}

fn check_unsubscribe(mut rest: &[u8]) -> Result<(), DecodeError> {
    while !rest.is_empty() {
        rest = after_topic(rest)?;
    }
    Ok(())
}

/// A topic or a filter has a character and no U+0000 [MQTT-4.7.3-1], [MQTT-4.7.3-2].
fn after_topic(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    let (topic, rest) = split_field(bytes)?;
    ensure(!topic.is_empty() && !topic.contains(&0))?;
    Ok(rest)
}

/// A two-byte length and as many bytes.
fn split_field(bytes: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let (length, rest) = bytes.split_first_chunk::<2>().ok_or(DecodeError::InvalidLength)?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
        .ok_or(DecodeError::InvalidLength)
}

fn ensure(holds: bool) -> Result<(), DecodeError> {
    if holds { Ok(()) } else { Err(DecodeError::MalformedPacket) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONNECT_PACKET: &[u8] = b"\x10\x1a\0\x04MQTT\x04\xc2\0\x3c\0\x01d\0\x04user\0\x05token";

    fn decode(bytes: &[u8]) -> Result<bool, DecodeError> {
        let mut source = BytesMut::copy_from_slice(bytes);
        Frames { connect_only: false }.decode(&mut source).map(|packet| packet.is_some())
    }

    #[test]
    fn a_packet_is_taken_whole_or_waited_for() {
        for end in 0..CONNECT_PACKET.len() {
            assert_eq!(decode(&CONNECT_PACKET[..end]), Ok(false), "{end} bytes");
        }
        assert_eq!(decode(CONNECT_PACKET), Ok(true));
        assert_eq!(decode(b"\xc0\0"), Ok(true));
    }

    #[test]
    fn contradictions_are_malformed() {
        #[track_caller]
        fn refused(bytes: &[u8]) {
            assert!(decode(bytes).is_err(), "{bytes:x?}");
        }
        refused(b"\x11\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01d");
        refused(b"\x10\x12\0\x04MQTT\x04\x42\0\x3c\0\x01d\0\x03pwd");
        refused(b"\x10\x0d\0\x04MQTT\x04\x0a\0\x3c\0\x01d");
        refused(b"\x10\x0d\0\x04MQTT\x04\x22\0\x3c\0\x01d");
        refused(b"\x10\x0e\0\x04MQTT\x04\x02\0\x3c\0\x01dx");
        refused(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01\0");
        refused(b"\x10\x0d\0\x04MQTT\x04\x03\0\x3c\0\x01d");
        refused(b"\x30\x03\0\x05a");
        refused(b"\x32\x03\0\x01a");
        refused(b"\x36\x05\0\x01a\0\x01");
        refused(b"\x38\x03\0\x01a");
        refused(b"\x30\x02\0\0");
        refused(b"\x30\x03\0\x01\0");
        refused(b"\x82\x02\0\x01");
        refused(b"\x80\x06\0\x01\0\x01a\0");
        refused(b"\x82\x06\0\x01\0\x01a\x03");
        refused(b"\x82\x06\0\x01\0\x01a\x04");
        refused(b"\x82\x05\0\x01\0\0\0");
        refused(b"\x82\x06\0\x01\0\x01\0\0");
        refused(b"\xa2\x02\0\x01");
        refused(b"\xa2\x04\0\x01\0\0");
        refused(b"\xa2\x05\0\x01\0\x01\0");
        refused(b"\xc0\x01x");
        refused(b"\xe0\x01x");
        refused(b"\xc0\xff\xff\xff\xff\x01");
        refused(b"\x30\xff\xff\xff\x7f");
        refused(b"\x00\x00");
        refused(b"\xf0\x00");
    }

    #[test]
    fn nothing_but_connect_is_waited_for_at_first() {
        let mut source = BytesMut::copy_from_slice(b"G");
        assert!(Frames { connect_only: true }.decode(&mut source).is_err());
        // 81,919 bytes are waited for, one more is not.
        for (length, waits) in [(b"\x10\xff\xff\x04", true), (b"\x10\x80\x80\x05", false)] {
            let mut source = BytesMut::copy_from_slice(length);
            let decoded = Frames { connect_only: true }.decode(&mut source);
            assert_eq!(matches!(decoded, Ok(None)), waits);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn no_publish_panics(first in 0x30u8..0x40, body in proptest::collection::vec(any::<u8>(), 0..20)) {
            let mut bytes = vec![first, u8::try_from(body.len()).expect("short")];
            bytes.extend(body);
            let _ = decode(&bytes);
        }
    }
}
