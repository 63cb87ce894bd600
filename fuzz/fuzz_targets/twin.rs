//! Twin documents, one a line: the first is reported, the others are desired, merged and replaced
//! in turn. What is taken is JSON to everybody else too, and can be sent back.
#![no_main]

use dunlin_model::Twin;
use dunlin_model::json::Object;
use dunlin_model::twin::{Limits, Report, Update};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let limits = Limits::default();
    let mut twin = Twin::new(0);
    // What the device knows, by what it was told.
    let mut device = Twin::new(0);
    for (n, line) in data.split(|byte| *byte == b'\n').enumerate() {
        if n == 0 {
            let Ok(report) = Report::read(line, None, &limits) else { continue };
            serde_json::from_slice::<Object>(line).expect("JSON");
            let _ = twin.report(&report, 0, &limits);
            assert!(sent_back(&twin.reported.properties, &limits) == twin.reported.properties);
            continue;
        }
        let replace = n % 2 == 0;
        let Ok(update) = Update::read(None, replace, None, Some(line), &limits) else { continue };
        serde_json::from_slice::<Object>(line).expect("JSON");
        let Ok(Some(told)) = twin.update(&update, 0, &limits) else { continue };
        let told = serde_json::to_vec(&told).expect("JSON");
        let told = Update::read(None, false, None, Some(&told), &limits).expect("by the rules");
        device.update(&told, 0, &limits).expect("it fits the hub");
        assert!(device.desired.properties == twin.desired.properties);
        assert!(sent_back(&twin.desired.properties, &limits) == twin.desired.properties);
    }
});

/// What a new twin has after it was sent a document as the hub writes it.
fn sent_back(document: &Object, limits: &Limits) -> Object {
    let text = serde_json::to_vec(document).expect("JSON");
    let report = Report::read(&text, None, limits).expect("by the rules");
    let mut twin = Twin::new(0);
    twin.report(&report, 0, limits).expect("it fitted before");
    twin.reported.properties
}
