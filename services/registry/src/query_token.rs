//! Tokens for a URL: what a browser's event source or a download link can carry. Sealed by the
//! master key, so that every registry process can read them and none has to remember them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::seal::MasterKey;

/// How long one is good for. It only has to open a stream, which then stays open.
pub(crate) const SECONDS: u64 = 60;
/// No identity can have this name.
const SEALED_FOR: &str = "hub/query-tokens/";

/// Good until `expires` for `path`, which is bound to it, on behalf of `policy`.
pub(crate) fn issue(key: &MasterKey, path: &str, policy: &str, expires: u64) -> String {
    let secret = [&expires.to_be_bytes(), policy.as_bytes()].concat();
    URL_SAFE_NO_PAD.encode(key.seal(SEALED_FOR, path, &secret))
}

/// The policy on whose behalf it was issued, if it is one for this path and still good.
pub(crate) fn read(key: &MasterKey, path: &str, token: &str, now: u64) -> Option<String> {
    let sealed = URL_SAFE_NO_PAD.decode(token).ok()?;
    let secret = key.open(SEALED_FOR, path, &sealed).ok()?;
    let (expires, policy) = secret.split_first_chunk::<8>()?;
    (now < u64::from_be_bytes(*expires)).then(|| String::from_utf8(policy.to_vec()).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_one_path_and_a_while() {
        let key = MasterKey::new(&[7; 32]);
        let token = issue(&key, "/a", "service", 100);
        assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "{token}");
        let read_at = |path, now| read(&key, path, &token, now);
        assert_eq!(read_at("/a", 99).as_deref(), Some("service"));
        assert_eq!(read_at("/a", 100), None, "expired");
        assert_eq!(read_at("/b", 99), None, "another path");
        assert_eq!(read(&MasterKey::new(&[8; 32]), "/a", &token, 99), None, "another hub");
        for bad in ["", "x", "!", &token[1..], &format!("{token}A")] {
            assert_eq!(read(&key, "/a", bad, 99), None, "{bad}");
        }
    }
}
