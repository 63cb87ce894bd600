//! Topics and property bags: no topic panics, and a bag used again holds nothing of before.
#![no_main]

use dunlin_gateway::fuzzing::bag::Bag;
use dunlin_gateway::fuzzing::topic::{self, Topic};
use dunlin_model::Identity;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // A topic's length is two bytes on the wire.
    let Ok(text) = std::str::from_utf8(&data[..data.len().min(65_535)]) else { return };
    let mut used = Bag::default();
    for id in ["d", "d/m"] {
        let id = Identity::parse(id).expect("an id");
        if let Some(Topic::Events { bag }) = topic::parse(text, &id) {
            used.read(bag);
        }
    }
    used.read(text);
    let mut fresh = Bag::default();
    fresh.read(text);
    let headers = |bag: &Bag| -> Vec<(String, Option<String>)> {
        bag.headers().map(|h| (h.name.to_owned(), h.value.map(str::to_owned))).collect()
    };
    assert_eq!(headers(&used), headers(&fresh));
    // Decoding never grows a text, so the size limit bounds what is stored.
    assert!(fresh.headers().map(|h| h.value.map_or(0, str::len)).sum::<usize>() <= text.len());
    let system: Vec<_> = fresh.headers().filter(|h| h.name.starts_with("iothub-")).collect();
    for header in &system {
        assert!(!header.name.contains("connection-device-id"), "stamped by the hub only");
    }
    let _ = fresh.size();
});
