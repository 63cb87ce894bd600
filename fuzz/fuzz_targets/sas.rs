//! SAS tokens: no text panics, and what is signed by us is read back and verified.
#![no_main]

use dunlin_auth::{Key, SasToken, sas};
use dunlin_model::Identity;
use libfuzzer_sys::fuzz_target;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const EXPIRY: u64 = 2_000_000_000;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let hosts = ["localhost".to_owned(), "hub.test".to_owned()];
    let key = Key::from_base64(KEY).expect("a key");
    if let Ok(token) = SasToken::parse(text) {
        let _ = token.verify([&key, &key], EXPIRY);
        let _ = (token.policy(), token.expiry());
        let _ = token.covers(&hosts, "/devices/d");
        for id in ["d", "d/m"] {
            let _ = token.covers_identity(&hosts, &Identity::parse(id).expect("an id"));
        }
    }
    // As a resource and a policy's name.
    let (resource, policy) = text.split_once('\n').unwrap_or((text, ""));
    let policy = (!policy.is_empty()).then_some(policy);
    let signed = sas::sign(resource, policy, &key, EXPIRY);
    let token = SasToken::parse(&signed).expect("our own token is read");
    assert_eq!(token.policy(), policy);
    assert_eq!(token.expiry(), EXPIRY);
    assert_eq!(token.verify([&key, &key], EXPIRY), Ok(()));
    if let Ok(id) = Identity::parse(text) {
        let (device, module) = (id.device_id(), id.module_id());
        let path = module.map(|module| format!("/modules/{module}")).unwrap_or_default();
        let signed = sas::sign(&format!("hub.test/devices/{device}{path}"), None, &key, EXPIRY);
        let token = SasToken::parse(&signed).expect("our own token is read");
        assert!(token.covers_identity(&hosts, &id), "{id}");
    }
});
