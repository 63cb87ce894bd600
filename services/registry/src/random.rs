//! What the registry makes up: nonces, ETags and generation ids.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};

pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system has randomness");
    bytes
}

/// Opaque to clients, in the form the hub's have: base64 of a decimal number.
pub(crate) fn etag() -> String {
    STANDARD.encode(u64::from_be_bytes(bytes()).to_string())
}

/// 48 hexadecimal digits, as the hub's have.
pub(crate) fn verification_code() -> String {
    bytes::<24>().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// 18 decimal digits, as the hub's have. Random rather than from the clock, which may be set back.
pub(crate) fn generation_id() -> String {
    const SMALLEST: u64 = 100_000_000_000_000_000;
    (SMALLEST + u64::from_be_bytes(bytes()) % (9 * SMALLEST)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_those_of_the_hub() {
        for _ in 0..100 {
            let id = generation_id();
            assert!(id.len() == 18 && id.bytes().all(|b| b.is_ascii_digit()), "{id}");
            let code = verification_code();
            assert!(code.len() == 48 && code.bytes().all(|b| b.is_ascii_hexdigit()), "{code}");
            let number = STANDARD.decode(etag()).expect("base64");
            assert!(number.iter().all(u8::is_ascii_digit), "{number:?}");
        }
        assert_ne!(etag(), etag());
    }
}
