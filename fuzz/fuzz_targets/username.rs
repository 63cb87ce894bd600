//! User names: no text panics, and who is let in is who the ClientId says.
#![no_main]

use dunlin_gateway::fuzzing::username;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // The ClientId, then the user name.
    let Some((client_id, name)) = text.split_once('\n') else { return };
    let hosts = ["localhost".to_owned(), "hub.test".to_owned()];
    if let Ok(read) = username::parse(name, client_id, &hosts) {
        assert_eq!(read.identity.as_str(), client_id);
        assert!(name.contains(client_id));
    }
});
