//! The rows of a bulk call: no body panics, and each row is taken or refused on its own.
#![no_main]

use dunlin_api::fuzzing::bulk;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(taken) = bulk(data) else { return };
    // Twice the rows, twice the outcome: no row depends on the one before.
    let Some(inner) = data.trim_ascii().strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"))
    else {
        panic!("what is no array was read");
    };
    if !inner.trim_ascii().is_empty() {
        let twice = [b"[", inner, b",", inner, b"]"].concat();
        assert_eq!(bulk(&twice), Some(2 * taken));
    }
});
