//! A symmetric key: of a device, a module or a shared access policy.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dunlin_model::{ErrorCode, HubError, limits};
use ring::rand::{SecureRandom, SystemRandom};

/// The decoded bytes of a key; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl Key {
    /// Reads a key in base64, as the REST API and connection strings carry it.
    pub fn from_base64(text: &str) -> Result<Self, HubError> {
        let bytes = STANDARD.decode(text).map_err(|_| invalid("a symmetric key is base64 text"))?;
        if !limits::KEY_BYTES.contains(&bytes.len()) {
            return Err(invalid(format!(
                "a symmetric key has {} to {} bytes after base64 decoding, this one has {}",
                limits::KEY_BYTES.start(),
                limits::KEY_BYTES.end(),
                bytes.len()
            )));
        }
        Ok(Self(bytes))
    }

    /// A new 32-byte key, as the hub makes them.
    pub fn generate() -> Self {
        let mut bytes = vec![0; 32];
        SystemRandom::new().fill(&mut bytes).expect("the operating system has randomness");
        Self(bytes)
    }

    pub fn to_base64(&self) -> String {
        STANDARD.encode(&self.0)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

fn invalid(message: impl Into<String>) -> HubError {
    HubError::new(ErrorCode::ArgumentInvalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_lengths_are_those_the_sdks_accept() {
        for (bytes, ok) in [(15, false), (16, true), (64, true), (65, false), (0, false)] {
            assert_eq!(Key::from_base64(&STANDARD.encode(vec![7; bytes])).is_ok(), ok, "{bytes}");
        }
        assert!(Key::from_base64("not base64!").is_err());
        let key = Key::generate();
        assert_eq!(Key::from_base64(&key.to_base64()).ok(), Some(key.clone()));
        assert_eq!(format!("{key:?}"), "Key(..)");
    }
}
