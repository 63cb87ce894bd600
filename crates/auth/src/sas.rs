//! SAS tokens: `SharedAccessSignature sig=…&se=…&sr=…[&skn=…]`.
//!
//! The HMAC is over the text of `sr` and `se` exactly as they stand in the token: SDKs differ in
//! how they encode `sr`, so it is never decoded and encoded again.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use ring::hmac;

use dunlin_model::{Identity, limits};

use crate::key::Key;

const SCHEME: &str = "SharedAccessSignature ";

/// Everything but the unreserved characters of RFC 3986, as Python's `quote` has it.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why a token is refused. Nothing of the token is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SasError {
    #[error("not a SAS token: it must read SharedAccessSignature sr=…&sig=…&se=…")]
    Malformed,
    #[error("the SAS token has expired")]
    Expired,
    #[error("the SAS token's signature does not match the key")]
    WrongSignature,
    #[error("the SAS token's sr does not cover this resource")]
    WrongScope,
}

/// A parsed token; `sr` and `se` are kept raw for the HMAC.
pub struct SasToken<'a> {
    sr: &'a str,
    se: &'a str,
    signature: Vec<u8>,
    policy: Option<String>,
    resource: String,
    expiry: u64,
}

impl<'a> SasToken<'a> {
    pub fn parse(text: &'a str) -> Result<Self, SasError> {
        let fields = text
            .get(..SCHEME.len())
            .filter(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
            .map(|_| &text[SCHEME.len()..])
            .ok_or(SasError::Malformed)?;
        let (mut sr, mut se, mut sig, mut skn) = (None, None, None, None);
        for field in fields.split('&') {
            let (name, value) = field.split_once('=').ok_or(SasError::Malformed)?;
            let slot = match name.trim() {
                name if name.eq_ignore_ascii_case("sr") => &mut sr,
                name if name.eq_ignore_ascii_case("se") => &mut se,
                name if name.eq_ignore_ascii_case("sig") => &mut sig,
                name if name.eq_ignore_ascii_case("skn") => &mut skn,
                _ => continue,
            };
            // Two of a kind would let the signed text and the checked text differ.
            if slot.replace(value).is_some() {
                return Err(SasError::Malformed);
            }
        }
        let (Some(sr), Some(se), Some(sig)) = (sr, se, sig) else {
            return Err(SasError::Malformed);
        };
        let signature = STANDARD.decode(decode(sig)?).map_err(|_| SasError::Malformed)?;
        let policy = skn.map(decode).transpose()?.filter(|name| !name.is_empty());
        let expiry = se.parse().map_err(|_| SasError::Malformed)?;
        Ok(Self { sr, se, signature, policy, resource: decode(sr)?, expiry })
    }

    /// The shared access policy whose key signed it; `None` for a device or module key.
    pub fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }

    /// Expiry, Unix seconds.
    pub fn expiry(&self) -> u64 {
        self.expiry
    }

    /// Checks signature (either key, in constant time) and expiry (with the SDKs' clock skew).
    pub fn verify(&self, keys: [&Key; 2], now: u64) -> Result<(), SasError> {
        let mut signed = Vec::with_capacity(self.sr.len() + self.se.len() + 1);
        signed.extend_from_slice(self.sr.as_bytes());
        signed.push(b'\n');
        signed.extend_from_slice(self.se.as_bytes());
        let matches = |key: &Key| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, key.bytes());
            hmac::verify(&key, &signed, &self.signature).is_ok()
        };
        // Both are computed, so that the time taken does not tell which key it was.
        let [primary, secondary] = keys.map(matches);
        if !(primary | secondary) {
            return Err(SasError::WrongSignature);
        }
        // A signature that fits is checked before the expiry, so that "expired" is true.
        if now > self.expiry.saturating_add(limits::SAS_SKEW_SECONDS) {
            return Err(SasError::Expired);
        }
        Ok(())
    }

    /// Whether `sr` names this hub, or `path` (`/devices/d`) or a whole-segment prefix of it.
    pub fn covers(&self, hostnames: &[String], path: &str) -> bool {
        let Some(scope) = self.scope_path(hostnames) else { return false };
        scope.is_empty()
            || path == scope
            || path.strip_prefix(scope).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether the token lets its signer act as `id`: hub, `/devices`, or the identity itself.
    ///
    /// A device's own scope does not cover its modules (they are identities of their own), and may
    /// end in `/api-version=…` as in the documentation's sample.
    pub fn covers_identity(&self, hostnames: &[String], id: &Identity) -> bool {
        let Some(scope) = self.scope_path(hostnames) else { return false };
        let mut segments = scope.split('/').filter(|segment| !segment.is_empty());
        match segments.next() {
            None => return true,
            Some(word) if word.eq_ignore_ascii_case("devices") => {}
            Some(_) => return false,
        }
        let Some(device) = segments.next() else { return true };
        if !same_id(device, id.device_id()) {
            return false;
        }
        let rest: Vec<_> = segments.collect();
        let tail = match (id.module_id(), rest.as_slice()) {
            (None, tail) => tail,
            (Some(wanted), [word, module, tail @ ..])
                if word.eq_ignore_ascii_case("modules") && same_id(module, wanted) =>
            {
                tail
            }
            _ => return false,
        };
        // Behind the ids only: an id may begin so, too.
        tail.iter().all(|segment| segment.starts_with("api-version="))
    }

    /// What follows the host name, without a trailing slash; `None` if the host is not this hub.
    fn scope_path(&self, hostnames: &[String]) -> Option<&str> {
        let (host, path) = match self.resource.find('/') {
            Some(at) => self.resource.split_at(at),
            None => (self.resource.as_str(), ""),
        };
        let bare = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host }
        });
        hostnames
            .iter()
            .any(|name| name.eq_ignore_ascii_case(bare))
            .then(|| path.trim_end_matches('/'))
    }
}

/// Some SDKs encode the id before they encode the whole of `sr`, others do not.
fn same_id(segment: &str, id: &str) -> bool {
    segment == id || percent_decode_str(segment).decode_utf8().is_ok_and(|once| once == id)
}

fn decode(text: &str) -> Result<String, SasError> {
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| SasError::Malformed)
}

/// Makes a token for `resource` (`host[/devices/d]`, ids not encoded), valid until `expiry` (Unix seconds).
pub fn sign(resource: &str, policy: Option<&str>, key: &Key, expiry: u64) -> String {
    let sr = utf8_percent_encode(resource, RESERVED).to_string();
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.bytes());
    let tag = hmac::sign(&key, format!("{sr}\n{expiry}").as_bytes());
    let sig = STANDARD.encode(tag);
    let sig = utf8_percent_encode(&sig, RESERVED);
    let skn = policy.map(|name| format!("&skn={}", utf8_percent_encode(name, RESERVED)));
    format!("{SCHEME}sr={sr}&sig={sig}&se={expiry}{}", skn.unwrap_or_default())
}

#[cfg(test)]
mod tests;
