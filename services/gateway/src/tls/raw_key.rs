//! HOT PATH: TLS 1.3 suites that keep a connection's keys raw and expand them for each record.
//!
//! rustls holds two expanded AEAD keys of 560 B for as long as a connection lives; a raw key and
//! its IV are 44 B. Expanding costs well under a microsecond a record, and an idle device sends
//! none. Nonces, sequence numbers, framing and key updates stay rustls' own.

use std::sync::LazyLock;

use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    OutboundOpaqueMessage, OutboundPlainMessage, Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::crypto::{CipherSuiteCommon, CryptoProvider, ring};
use rustls::{ConnectionTrafficSecrets, Error, SupportedCipherSuite, Tls13CipherSuite};
use zeroize::Zeroizing;

/// The one key length that `AeadKey` can be made from again.
const KEY_LEN: usize = 32;

/// The ring provider with its 256-bit TLS 1.3 suites wrapped, in ring's order of preference (which
/// puts AES-256 first). AES-128 and the TLS 1.2 suites stay as they are.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    for suite in &mut provider.cipher_suites {
        if let Some(wrapped) = WRAPPED.iter().find(|wrapped| wrapped.common.suite == suite.suite())
        {
            *suite = SupportedCipherSuite::Tls13(wrapped);
        }
    }
    provider
}

static WRAPPED: LazyLock<Vec<Tls13CipherSuite>> = LazyLock::new(|| {
    ring::ALL_CIPHER_SUITES
        .iter()
        .filter_map(|suite| suite.tls13())
        .filter(|suite| suite.aead_alg.key_len() == KEY_LEN)
        .map(|suite| Tls13CipherSuite {
            common: CipherSuiteCommon {
                suite: suite.common.suite,
                hash_provider: suite.common.hash_provider,
                confidentiality_limit: suite.common.confidentiality_limit,
            },
            hkdf_provider: suite.hkdf_provider,
            // Two small values for the life of the process: suites are referred to statically.
            aead_alg: Box::leak(Box::new(RawKeyAead(suite.aead_alg))),
            quic: None,
        })
        .collect()
});

struct RawKeyAead(&'static dyn Tls13AeadAlgorithm);

impl Tls13AeadAlgorithm for RawKeyAead {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        match RawKey::new(self.0, &key, &iv) {
            Some(raw) => Box::new(raw),
            None => self.0.encrypter(key, iv),
        }
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        match RawKey::new(self.0, &key, &iv) {
            Some(raw) => Box::new(raw),
            None => self.0.decrypter(key, iv),
        }
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }
}

struct RawKey {
    aead: &'static dyn Tls13AeadAlgorithm,
    key: Zeroizing<[u8; KEY_LEN]>,
    iv: [u8; 12],
}

impl RawKey {
    fn new(aead: &'static dyn Tls13AeadAlgorithm, key: &AeadKey, iv: &Iv) -> Option<Self> {
        Some(Self {
            aead,
            key: Zeroizing::new(key.as_ref().try_into().ok()?),
            iv: iv.as_ref().try_into().ok()?,
        })
    }

    fn expand(&self) -> (AeadKey, Iv) {
        (AeadKey::from(*self.key), Iv::from(self.iv))
    }
}

impl MessageEncrypter for RawKey {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let (key, iv) = self.expand();
        self.aead.encrypter(key, iv).encrypt(message, sequence)
    }

    fn encrypted_payload_len(&self, payload: usize) -> usize {
        // TLS 1.3: the content type byte and a 16-byte tag, which all its AEADs have.
        payload + 1 + 16
    }
}

impl MessageDecrypter for RawKey {
    fn decrypt<'a>(
        &mut self,
        message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let (key, iv) = self.expand();
        self.aead.decrypter(key, iv).decrypt(message, sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_256_bit_suites_are_wrapped_and_come_first() {
        assert_eq!(WRAPPED.len(), 2);
        let first = provider().cipher_suites[0].suite();
        assert_eq!(first, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
        assert_eq!(provider().cipher_suites.len(), ring::default_provider().cipher_suites.len());
    }
}
