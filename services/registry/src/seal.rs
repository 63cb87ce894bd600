//! The sealing of secrets before they reach a store: AES-256-GCM under the hub's master key.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::random;

/// First byte of everything sealed, so that a later form can be told apart.
const VERSION: u8 = 1;

/// The key that seals device keys and policies. Never printed.
#[derive(Clone)]
pub struct MasterKey(LessSafeKey);

/// Not what this key sealed for this owner and slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored secret does not open: another master key sealed it, or it was tampered with")]
pub struct Unsealable;

impl MasterKey {
    pub const BYTES: usize = 32;

    pub fn new(bytes: &[u8; Self::BYTES]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("AES-256 keys have 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// `owner` and `slot` are bound to the result: it opens nowhere else, so a store (or who
    /// writes to it) cannot give one device the keys of another.
    pub(crate) fn seal(&self, owner: &str, slot: &str, secret: &[u8]) -> Vec<u8> {
        // Random 96-bit nonces: safe for 2^32 seals under one key.
        let nonce: [u8; NONCE_LEN] = random::bytes();
        let mut text = secret.to_vec();
        let tag = self
            .0
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                place(owner, slot),
                &mut text,
            )
            .expect("a secret is far shorter than AES-GCM's limit");
        [&[VERSION], &nonce[..], &text, tag.as_ref()].concat()
    }

    pub(crate) fn open(
        &self,
        owner: &str,
        slot: &str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, Unsealable> {
        let (version, rest) = sealed.split_first().ok_or(Unsealable)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Unsealable)?;
        if *version != VERSION {
            return Err(Unsealable);
        }
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self
            .0
            .open_in_place(nonce, place(owner, slot), &mut text)
            .map_err(|_| Unsealable)?
            .len();
        text.truncate(length);
        Ok(text)
    }
}

/// Neither part can hold a NUL, so two places never read the same.
fn place(owner: &str, slot: &str) -> Aad<Vec<u8>> {
    Aad::from([owner, "\0", slot].concat().into_bytes())
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_only_where_it_was_sealed() {
        let key = MasterKey::new(&[7; 32]);
        let sealed = key.seal("d1", "sas", b"secret");
        assert_eq!(key.open("d1", "sas", &sealed).as_deref(), Ok(&b"secret"[..]));
        assert_ne!(sealed, key.seal("d1", "sas", b"secret"), "a nonce is never used twice");
        for (what, opened) in [
            ("another identity", key.open("d2", "sas", &sealed)),
            ("another slot", key.open("d1", "selfSigned", &sealed)),
            ("another key", MasterKey::new(&[8; 32]).open("d1", "sas", &sealed)),
            ("cut short", key.open("d1", "sas", &sealed[..sealed.len() - 1])),
            ("nothing", key.open("d1", "sas", &[])),
            ("a nonce only", key.open("d1", "sas", &sealed[..13])),
        ] {
            assert_eq!(opened, Err(Unsealable), "{what}");
        }
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert_eq!(key.open("d1", "sas", &flipped), Err(Unsealable), "byte {at}");
        }
    }

    #[test]
    fn the_key_is_not_printed() {
        assert_eq!(format!("{:?}", MasterKey::new(&[7; 32])), "MasterKey(..)");
    }
}
