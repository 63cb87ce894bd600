//! The few MQTT 3.1.1 packets a device needs, written and read in place.
//!
//! Of our own, because the client shares the processors with what it measures: a PUBLISH is copied
//! once, into the buffer that is sent, an acknowledgement is read without an allocation, and an
//! idle device holds no buffer at all. A general codec's packet types would cost all three.

use anyhow::{Context, Result, bail};

/// The longest packet we take: a hub's have 256 KiB at most, and what comes is kept until it is whole.
const LONGEST: usize = 1 << 20;

/// What a server sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    ConnectAck {
        code: u8,
    },
    PublishAck {
        id: u16,
    },
    SubscribeAck {
        refused: u8,
    },
    Pong,
    /// A message to the device; `id` with QoS 1.
    Publish {
        id: Option<u16>,
        topic: &'a str,
        body: &'a [u8],
    },
}

pub struct Connect<'a> {
    pub client_id: &'a str,
    pub username: Option<&'a str>,
    pub password: Option<&'a str>,
    pub keep_alive: u16,
    pub clean_session: bool,
}

pub fn connect(out: &mut Vec<u8>, connect: &Connect<'_>) -> Result<()> {
    let Connect { client_id, username, password, keep_alive, clean_session } = connect;
    let texts = [Some(*client_id), *username, *password];
    let length = 10 + texts.iter().flatten().map(|text| 2 + text.len()).sum::<usize>();
    header(out, 0x10, length);
    out.extend_from_slice(b"\0\x04MQTT\x04");
    let flag = |set: bool, bit: u8| if set { 1 << bit } else { 0 };
    out.push(flag(username.is_some(), 7) | flag(password.is_some(), 6) | flag(*clean_session, 1));
    out.extend_from_slice(&keep_alive.to_be_bytes());
    texts.iter().flatten().try_for_each(|part| text(out, part))
}

/// QoS 1 with an id, else QoS 0.
pub fn publish(out: &mut Vec<u8>, topic: &str, id: Option<u16>, body: &[u8]) -> Result<()> {
    let (first, id_length) = if id.is_some() { (0x32, 2) } else { (0x30, 0) };
    header(out, first, 2 + topic.len() + id_length + body.len());
    text(out, topic)?;
    if let Some(id) = id {
        out.extend_from_slice(&id.to_be_bytes());
    }
    out.extend_from_slice(body);
    Ok(())
}

/// Each filter with QoS 1.
pub fn subscribe(out: &mut Vec<u8>, id: u16, filters: &[&str]) -> Result<()> {
    header(out, 0x82, 2 + filters.iter().map(|filter| 3 + filter.len()).sum::<usize>());
    out.extend_from_slice(&id.to_be_bytes());
    for filter in filters {
        text(out, filter)?;
        out.push(1);
    }
    Ok(())
}

pub fn publish_ack(out: &mut Vec<u8>, id: u16) {
    out.extend_from_slice(&[0x40, 2]);
    out.extend_from_slice(&id.to_be_bytes());
}

pub const PING: [u8; 2] = [0xc0, 0];
pub const DISCONNECT: [u8; 2] = [0xe0, 0];

fn header(out: &mut Vec<u8>, first: u8, mut length: usize) {
    out.push(first);
    loop {
        let low = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

fn text(out: &mut Vec<u8>, text: &str) -> Result<()> {
    out.extend_from_slice(&u16::try_from(text.len())?.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// The first packet of `input` and its length; `None`: it is not there in full.
pub fn read(input: &[u8]) -> Result<Option<(Packet<'_>, usize)>> {
    let Some((&first, rest)) = input.split_first() else { return Ok(None) };
    let (mut length, mut at) = (0_usize, 0);
    loop {
        let Some(&byte) = rest.get(at) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * at);
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if at == 4 {
            bail!("malformed packet length");
        }
    }
    if length > LONGEST {
        bail!("a packet of {length} bytes");
    }
    let Some(body) = rest.get(at..at + length) else { return Ok(None) };
    let id = |at: usize| match body.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => bail!("packet {first:#04x} of {length} bytes is too short"),
    };
    let packet = match first >> 4 {
        2 => Packet::ConnectAck { code: id(0)?.to_be_bytes()[1] },
        3 => {
            let topic_end = 2 + usize::from(id(0)?);
            let topic = body.get(2..topic_end).context("a topic longer than its packet")?;
            let qos_0 = first >> 1 & 3 == 0;
            Packet::Publish {
                id: if qos_0 { None } else { Some(id(topic_end)?) },
                topic: std::str::from_utf8(topic)?,
                body: &body[if qos_0 { topic_end } else { topic_end + 2 }..],
            }
        }
        4 => Packet::PublishAck { id: id(0)? },
        9 => {
            id(0)?;
            let refused = body[2..].iter().filter(|code| **code == 0x80).count();
            Packet::SubscribeAck { refused: u8::try_from(refused)? }
        }
        13 => Packet::Pong,
        _ => bail!("packet {first:#04x} is none a server may send us"),
    };
    Ok(Some((packet, 1 + at + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_those_of_the_standard() -> Result<()> {
        let mut out = Vec::new();
        connect(
            &mut out,
            &Connect {
                client_id: "d",
                username: Some("u"),
                password: Some("pw"),
                keep_alive: 60,
                clean_session: false,
            },
        )?;
        assert_eq!(out, b"\x10\x14\0\x04MQTT\x04\xc0\0\x3c\0\x01d\0\x01u\0\x02pw");
        out.clear();
        let anonymous = Connect {
            client_id: "d",
            username: None,
            password: None,
            keep_alive: 60,
            clean_session: true,
        };
        connect(&mut out, &anonymous)?;
        assert_eq!(out, b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01d");
        out.clear();
        publish(&mut out, "t", Some(7), b"hi")?;
        assert_eq!(out, b"\x32\x07\0\x01t\0\x07hi");
        out.clear();
        publish(&mut out, "t", None, b"hi")?;
        assert_eq!(out, b"\x30\x05\0\x01thi");
        out.clear();
        publish(&mut out, "t", Some(7), &[0; 200])?;
        assert_eq!(out[..3], *b"\x32\xcd\x01");
        out.clear();
        subscribe(&mut out, 1, &["a", "b"])?;
        assert_eq!(out, b"\x82\x0a\0\x01\0\x01a\x01\0\x01b\x01");
        Ok(())
    }

    #[test]
    fn answers_are_read_however_they_are_cut() -> Result<()> {
        let all = b"\x20\x02\0\x05\x40\x02\x01\x02\x90\x05\0\x01\x80\x01\x80\xd0\0\x32\x06\0\x01t\0\x09x\x30\x03\0\x01t";
        let want = [
            Packet::ConnectAck { code: 5 },
            Packet::PublishAck { id: 258 },
            Packet::SubscribeAck { refused: 2 },
            Packet::Pong,
            Packet::Publish { id: Some(9), topic: "t", body: b"x" },
            Packet::Publish { id: None, topic: "t", body: b"" },
        ];
        let mut at = 0;
        for packet in want {
            let (found, length) = read(&all[at..])?.expect("a packet");
            assert_eq!(found, packet);
            for end in at..at + length {
                assert_eq!(read(&all[at..end])?, None, "{packet:?} cut at {end}");
            }
            at += length;
        }
        assert_eq!(at, all.len());
        Ok(())
    }

    #[test]
    fn nonsense_is_an_error() {
        for bad in [
            &b"\x40\x01\0"[..],
            b"\x20\0",
            b"\x10\0",
            b"\x30\x01\0",
            b"\x40\xff\xff\xff\xff\x01",
            b"\x30\x03\0\x02t",
            b"\x30\x03\0\x01\xff",
            b"\x32\x03\0\x01t",
            // Before it has come.
            b"\x30\x81\x80\x40",
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
