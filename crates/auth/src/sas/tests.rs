//! Tables and properties of SAS tokens.

use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_700_000_000;

fn hosts() -> Vec<String> {
    vec!["hub.localhost".into(), "localhost".into()]
}

fn key(byte: u8) -> Key {
    Key::from_base64(&STANDARD.encode([byte; 32])).expect("a key")
}

/// A token whose `sr` stands in it as written here, as Java and C send it.
fn raw(sr: &str, key: &Key, expiry: u64, tail: &str) -> String {
    let mac = hmac::Key::new(hmac::HMAC_SHA256, key.bytes());
    let sig = STANDARD.encode(hmac::sign(&mac, format!("{sr}\n{expiry}").as_bytes()));
    let sig = utf8_percent_encode(&sig, NON_ALPHANUMERIC);
    format!("SharedAccessSignature sig={sig}&se={expiry}&sr={sr}{tail}")
}

#[test]
fn every_sdks_encoding_of_sr_verifies() {
    let id = Identity::module("a+b%c", "m").expect("an id");
    for sr in [
        "hub.localhost/devices/a%2Bb%25c/modules/m",
        "hub.localhost%2Fdevices%2Fa%2Bb%25c%2Fmodules%2Fm",
        "hub.localhost%2fdevices%2fa%252Bb%2525c%2fmodules%2fm",
        "LocalHost%2Fdevices",
        "hub.localhost",
        "hub.localhost:8443",
    ] {
        let text = raw(sr, &key(1), NOW, "");
        let token = SasToken::parse(&text).expect(sr);
        assert_eq!(token.verify([&key(1), &key(2)], NOW), Ok(()), "{sr}");
        assert_eq!(token.verify([&key(2), &key(1)], NOW), Ok(()), "{sr}");
        assert!(token.covers_identity(&hosts(), &id), "{sr}");
    }
}

#[test]
fn scope_is_matched_by_whole_segments() {
    #[track_caller]
    fn check(sr: &str, id: &str, want: bool) {
        let text = raw(sr, &key(1), NOW, "");
        let token = SasToken::parse(&text).expect("a token");
        let id = Identity::parse(id).expect("an id");
        assert_eq!(token.covers_identity(&hosts(), &id), want, "{sr} for {id}");
    }
    check("localhost/devices/d", "d", true);
    check("localhost/devices/d/", "d", true);
    check("localhost/devices/d/api-version=2016-11-14", "d", true);
    check("localhost%2Fdevices%2Fd%2Fapi-version%3D2016-11-14", "d", true);
    check("localhost/devices/d", "dd", false);
    check("localhost/devices/dd", "d", false);
    check("localhost/devices/d", "D", false);
    check("localhost/devices/d", "d/m", false);
    check("localhost/devices/d/modules/m", "d", false);
    check("localhost/devices/d/modules/m", "d/m", true);
    check("localhost/devices/d/modules/m/x", "d/m", false);
    check("localhost/devices/d/modules/m/api-version=1", "d/m", true);
    check("localhost/devices/d/modules/api-version=1", "d/api-version=1", true);
    check("localhost/devices/d/modules/api-version=1", "d", false);
    check("localhost/devices/d/api-version=1", "d/api-version=1", false);
    check("localhost/devices/d/modules", "d/m", false);
    check("localhost/devices/d/messages", "d", false);
    check("localhost/twins/d", "d", false);
    check("localhost/devices", "d/m", true);
    check("localhost", "d", true);
    check("localhost.evil", "d", false);
    check("other/devices/d", "d", false);
    check("", "d", false);
}

#[test]
fn paths_are_covered_by_their_prefixes() {
    let text = raw("localhost/devices/a", &key(1), NOW, "");
    let token = SasToken::parse(&text).expect("a token");
    for (path, want) in
        [("/devices/a", true), ("/devices/a/modules", true), ("/devices/ab", false), ("/", false)]
    {
        assert_eq!(token.covers(&hosts(), path), want, "{path}");
    }
}

#[test]
fn expiry_has_five_minutes_of_skew() {
    let text = sign("localhost/devices/d", None, &key(1), NOW);
    let token = SasToken::parse(&text).expect("a token");
    assert_eq!(token.verify([&key(1), &key(1)], NOW + 300), Ok(()));
    assert_eq!(token.verify([&key(1), &key(1)], NOW + 301), Err(SasError::Expired));
    assert_eq!(token.verify([&key(2), &key(3)], NOW + 301), Err(SasError::WrongSignature));
    let text = sign("localhost", None, &key(1), u64::MAX);
    let token = SasToken::parse(&text).expect("a token");
    assert_eq!(token.verify([&key(1), &key(1)], u64::MAX), Ok(()));
}

#[test]
fn an_empty_skn_is_none() {
    let text = raw("localhost/devices/d", &key(1), NOW, "&skn=");
    assert_eq!(SasToken::parse(&text).expect("a token").policy(), None);
    let text = raw("localhost", &key(1), NOW, "&SKN=iothubowner");
    assert_eq!(SasToken::parse(&text).expect("a token").policy(), Some("iothubowner"));
}

#[test]
fn malformed_tokens_are_refused() {
    for bad in [
        "",
        "SharedAccessSignature",
        "SharedAccessSignature ",
        "Bearer abc",
        "SharedAccessSignature sr=localhost&se=1",
        "SharedAccessSignature sr=localhost&sig=YQ%3D%3D",
        "SharedAccessSignature sr=localhost&sig=YQ%3D%3D&se=x",
        "SharedAccessSignature sr=localhost&sig=YQ%3D%3D&se=-1",
        "SharedAccessSignature sr=localhost&sig=YQ%3D%3D&se=18446744073709551616",
        "SharedAccessSignature sr=localhost&sig=%%%&se=1",
        "SharedAccessSignature sr=%ff&sig=YQ%3D%3D&se=1",
        "SharedAccessSignature sr=a&sr=b&sig=YQ%3D%3D&se=1",
        "SharedAccessSignature sr&sig=YQ%3D%3D&se=1",
        "SharedAccessSignaturä sr=localhost",
    ] {
        assert_eq!(SasToken::parse(bad).err(), Some(SasError::Malformed), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn what_is_signed_verifies_with_its_key_only(
        resource in "[ -~]{0,40}",
        policy in proptest::option::of("[a-zA-Z0-9&=%]{1,16}"),
        expiry in 1u64..,
    ) {
        let text = sign(&resource, policy.as_deref(), &key(9), expiry);
        let token = SasToken::parse(&text).expect("our own token");
        prop_assert_eq!(token.expiry(), expiry);
        prop_assert_eq!(token.policy(), policy.as_deref());
        prop_assert_eq!(token.verify([&key(8), &key(9)], expiry), Ok(()));
        prop_assert_eq!(token.verify([&key(8), &key(7)], expiry), Err(SasError::WrongSignature));
    }

    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let _ = SasToken::parse(&text);
        let _ = SasToken::parse(&format!("SharedAccessSignature {text}"));
    }
}
