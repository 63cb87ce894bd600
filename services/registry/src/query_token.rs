//! Tokens for a URL: what a browser's event source or a download link can carry. Sealed by the
//! master key, so that every registry process can read them and none has to remember them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dunlin_auth::Policy;
use ring::digest::{Digest, SHA256, SHA256_OUTPUT_LEN, digest};

use crate::seal::MasterKey;

/// How long one is good for. It only has to open a stream, which then stays open.
pub(crate) const SECONDS: u64 = 60;
/// No identity can have this name.
const SEALED_FOR: &str = "hub/query-tokens/";

/// On whose behalf a token was issued.
pub(crate) struct Bearer {
    pub policy: String,
    keys: [u8; SHA256_OUTPUT_LEN],
}

impl Bearer {
    /// Whether the policy has the keys that it had then: a token ends with them.
    pub(crate) fn is(&self, policy: &Policy) -> bool {
        keys(policy).as_ref() == self.keys
    }
}

fn keys(policy: &Policy) -> Digest {
    digest(&SHA256, [policy.primary.to_base64(), policy.secondary.to_base64()].concat().as_bytes())
}

/// Good until `expires` for `path`, which is bound to it, on behalf of `policy`.
pub(crate) fn issue(key: &MasterKey, path: &str, policy: &Policy, expires: u64) -> String {
    let secret = [&expires.to_be_bytes(), keys(policy).as_ref(), policy.name.as_bytes()].concat();
    URL_SAFE_NO_PAD.encode(key.seal(SEALED_FOR, path, &secret))
}

/// Whose it is, if it is one for this path and its time is not over.
pub(crate) fn read(key: &MasterKey, path: &str, token: &str, now: u64) -> Option<Bearer> {
    let sealed = URL_SAFE_NO_PAD.decode(token).ok()?;
    let secret = key.open(SEALED_FOR, path, &sealed).ok()?;
    let (expires, rest) = secret.split_first_chunk::<8>()?;
    let (keys, policy) = rest.split_first_chunk()?;
    let policy = String::from_utf8(policy.to_vec()).ok()?;
    (now < u64::from_be_bytes(*expires)).then_some(Bearer { policy, keys: *keys })
}

#[cfg(test)]
mod tests {
    use dunlin_auth::{Key, Permissions};

    use super::*;

    #[test]
    fn a_token_is_for_one_path_and_a_while() {
        let key = MasterKey::new(&[7; 32]);
        let service = Policy {
            name: "service".to_owned(),
            permissions: Permissions::SERVICE_CONNECT,
            primary: Key::generate(),
            secondary: Key::generate(),
        };
        let token = issue(&key, "/a", &service, 100);
        assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "{token}");
        let read_at = |path, now| read(&key, path, &token, now);
        let bearer = read_at("/a", 99).expect("good");
        assert_eq!(bearer.policy, "service");
        assert!(bearer.is(&service));
        assert!(!bearer.is(&Policy { primary: Key::generate(), ..service.clone() }));
        assert!(!bearer.is(&Policy { secondary: Key::generate(), ..service }));
        assert!(read_at("/a", 100).is_none(), "expired");
        assert!(read_at("/b", 99).is_none(), "another path");
        assert!(read(&MasterKey::new(&[8; 32]), "/a", &token, 99).is_none(), "another hub");
        for bad in ["", "x", "!", &token[1..], &format!("{token}A")] {
            assert!(read(&key, "/a", bad, 99).is_none(), "{bad}");
        }
    }
}
