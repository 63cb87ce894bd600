//! The JSON of devices and modules: no body panics.
#![no_main]

use dunlin_api::fuzzing::identity;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = identity(data, "d", None);
    let _ = identity(data, "d", Some("m"));
});
