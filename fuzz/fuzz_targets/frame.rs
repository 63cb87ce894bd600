//! MQTT packets: no bytes panic, and it does not matter how they arrive.
#![no_main]

use dunlin_gateway::fuzzing::frame::Frames;
use libfuzzer_sys::fuzz_target;
use ntex::codec::Decoder;
use ntex::util::BytesMut;

/// Packets as text, in pieces of `size`; whether the bytes are refused in the end.
fn decode(data: &[u8], size: usize, connect_only: bool) -> (Vec<String>, bool) {
    let frames = Frames { connect_only };
    let mut packets = Vec::new();
    let mut source = BytesMut::new();
    for piece in data.chunks(size) {
        source.extend_from_slice(piece);
        loop {
            let before = source.len();
            match frames.decode(&mut source) {
                Ok(Some(packet)) => {
                    assert!(source.len() < before, "a packet takes bytes");
                    packets.push(format!("{packet:?}"));
                }
                Ok(None) => break,
                Err(_) => return (packets, true),
            }
        }
    }
    (packets, false)
}

fuzz_target!(|data: &[u8]| {
    for connect_only in [false, true] {
        let whole = decode(data, data.len().max(1), connect_only);
        if data.len() <= 4_096 {
            assert_eq!(decode(data, 1, connect_only), whole);
        }
        assert_eq!(decode(data, 7, connect_only), whole);
    }
});
