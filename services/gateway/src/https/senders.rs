//! Who sends a request: the registry says, and for a second it is remembered. A key or device that
//! is revoked is out within that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dunlin_model::{ErrorCode, HubError, Identity};
use dunlin_proto::status::from_status;
use dunlin_proto::v1::AuthenticateResponse;
use dunlin_proto::v1::registry_client::RegistryClient;
use http::{HeaderMap, header};
use ring::digest;

use crate::gateway::Gateway;
use crate::session::Credentials;

/// How long an answer of the registry is good for.
const LIFETIME: Duration = Duration::from_secs(1);
/// Answers that are remembered of each second; who comes after them is asked for every time.
const MOST: usize = 10_000;

/// A hash of an identity and its token or certificates, which themselves are kept nowhere.
type Key = [u8; digest::SHA256_OUTPUT_LEN];

#[derive(Default)]
pub struct Senders(Mutex<Known>);

/// Answers by age: what is in neither map is forgotten.
#[derive(Default)]
struct Known {
    since: Option<Instant>,
    young: HashMap<Key, Answer>,
    old: HashMap<Key, Answer>,
}

#[derive(Clone)]
struct Answer {
    asked: Instant,
    granted: Arc<AuthenticateResponse>,
}

impl Known {
    fn find(&mut self, key: &Key, now: Instant) -> Option<Arc<AuthenticateResponse>> {
        self.age(now);
        let answer = self.young.get(key).or_else(|| self.old.get(key))?;
        (now.duration_since(answer.asked) < LIFETIME).then(|| answer.granted.clone())
    }

    fn keep(&mut self, key: Key, asked: Instant, granted: Arc<AuthenticateResponse>) {
        self.age(asked);
        if self.young.len() < MOST {
            self.young.insert(key, Answer { asked, granted });
        }
    }

    fn age(&mut self, now: Instant) {
        if self.since.is_none_or(|since| now.duration_since(since) >= LIFETIME) {
            self.since = Some(now);
            self.old = std::mem::take(&mut self.young);
        }
    }
}

impl Senders {
    fn with<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Gateway {
    /// Whether a request is the identity's, and what is stamped on its messages. That the identity
    /// was heard of is noted; it is not connected by that.
    pub async fn sender(
        &self,
        id: &Identity,
        headers: &HeaderMap,
        shown: Option<&[Vec<u8>]>,
    ) -> Result<Arc<AuthenticateResponse>, HubError> {
        let proof = proof(headers, shown)?;
        let key = key(id, &proof);
        let asked = Instant::now();
        let known = self.senders.with(|known| known.find(&key, asked));
        let granted = match known {
            Some(granted) => granted,
            None => {
                let _turn = self.turn()?;
                let request = proof.credentials().into_request(id);
                let mut registry = RegistryClient::new(self.registry.clone());
                let granted = registry.authenticate(request).await.map_err(|status| {
                    let error = from_status(&status);
                    if error.retryable() {
                        return error;
                    }
                    tracing::info!(identity = %id, %error, "request refused");
                    // Which devices there are is not for strangers to find out.
                    refused(
                        "the token or certificate is not valid for this identity, or has expired",
                    )
                })?;
                let granted = Arc::new(granted.into_inner());
                self.senders.with(|known| known.keep(key, asked, granted.clone()));
                granted
            }
        };
        self.reports.active_without_connection(id, &granted.generation_id);
        Ok(granted)
    }
}

fn refused(message: &str) -> HubError {
    HubError::new(ErrorCode::IotHubUnauthorized, message)
}

/// By what a request is to be its sender's: copied only where the registry is asked.
enum Proof<'a> {
    SasToken(&'a str),
    Certificates(&'a [Vec<u8>]),
}

impl Proof<'_> {
    fn credentials(&self) -> Credentials {
        match *self {
            Self::SasToken(token) => Credentials::SasToken(token.to_owned()),
            Self::Certificates(shown) => Credentials::Certificates(shown.to_vec()),
        }
    }
}

/// A certificate counts only where there is no token. Some send an empty header beside it.
fn proof<'a>(headers: &'a HeaderMap, shown: Option<&'a [Vec<u8>]>) -> Result<Proof<'a>, HubError> {
    let token = headers.get(header::AUTHORIZATION).filter(|token| !token.is_empty());
    match (token, shown) {
        (Some(token), _) => token
            .to_str()
            .map(Proof::SasToken)
            .map_err(|_| refused("Authorization is not a SAS token")),
        (None, Some(shown)) => Ok(Proof::Certificates(shown)),
        (None, None) => Err(refused(
            "send Authorization: SharedAccessSignature …, or show a client certificate",
        )),
    }
}

fn key(id: &Identity, proof: &Proof<'_>) -> Key {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(id.as_str().as_bytes());
    // No identity has it.
    hash.update(b"\n");
    match proof {
        Proof::SasToken(token) => hash.update(token.as_bytes()),
        // No token holds a NUL, and no two lists of certificates read the same.
        Proof::Certificates(certificates) => certificates.iter().for_each(|one| {
            hash.update(b"\0");
            hash.update(&one.len().to_be_bytes());
            hash.update(one);
        }),
    }
    let mut key = Key::default();
    key.copy_from_slice(hash.finish().as_ref());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_good_for_a_second() {
        let (mut known, start) = (Known::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let key = |n: usize| {
            let mut key = Key::default();
            key[..8].copy_from_slice(&n.to_be_bytes());
            key
        };
        known.keep(key(1), at(0), Arc::default());
        known.keep(key(2), at(900), Arc::default());
        for (millis, first, second) in
            [(900, true, true), (999, true, true), (1_000, false, true), (1_899, false, true)]
        {
            assert_eq!(known.find(&key(1), at(millis)).is_some(), first, "{millis}");
            assert_eq!(known.find(&key(2), at(millis)).is_some(), second, "{millis}");
        }
        assert!(known.find(&key(2), at(1_900)).is_none());
        assert!(known.find(&key(3), at(1_900)).is_none());
        for n in 0..2 * MOST {
            known.keep(key(n), at(5_000), Arc::default());
        }
        assert_eq!(known.young.len() + known.old.len(), MOST + known.old.len());
        assert!(known.old.len() <= MOST);
        known.find(&key(1), at(6_000));
        known.find(&key(1), at(7_000));
        assert_eq!(known.young.len() + known.old.len(), 0);
    }

    #[test]
    fn a_token_is_known_for_its_identity_only() {
        let key = |id: &str, token: &str| {
            key(&Identity::parse(id).expect("an id"), &Proof::SasToken(token))
        };
        assert_eq!(key("d", "t"), key("d", "t"));
        assert_ne!(key("d", "t"), key("d/m", "t"));
        assert_ne!(key("d", "t"), key("d", "u"));
    }

    #[test]
    fn certificates_are_known_whole_and_in_order() {
        let id = Identity::parse("d").expect("an id");
        let key = |certificates: &[&[u8]]| {
            let certificates: Vec<_> = certificates.iter().map(|one| one.to_vec()).collect();
            key(&id, &Proof::Certificates(&certificates))
        };
        assert_eq!(key(&[b"a", b"b"]), key(&[b"a", b"b"]));
        for other in [&[b"ab".as_slice()][..], &[b"b", b"a"], &[b"a"], &[b"a", b"b", b""], &[]] {
            assert_ne!(key(&[b"a", b"b"]), key(other), "{other:?}");
        }
    }

    #[test]
    fn a_token_outdoes_a_certificate_and_an_empty_one_is_none() {
        let shown = [vec![1]];
        let with = |authorization: Option<&[u8]>, shown: Option<&[Vec<u8>]>| {
            let value = authorization.map(|text| text.try_into().expect("a value"));
            let headers = value.map(|value| (header::AUTHORIZATION, value)).into_iter().collect();
            proof(&headers, shown).ok().map(|proof| match proof {
                Proof::SasToken(token) => token.to_owned(),
                Proof::Certificates(shown) => format!("{shown:?}"),
            })
        };
        assert_eq!(with(Some(b"t"), Some(&shown)).as_deref(), Some("t"));
        assert_eq!(with(Some(b""), Some(&shown)).as_deref(), Some("[[1]]"));
        assert_eq!(with(None, Some(&shown)).as_deref(), Some("[[1]]"));
        assert_eq!(with(Some(b"\xff"), Some(&shown)), None);
        assert_eq!(with(Some(b""), None), None);
        assert_eq!(with(None, None), None);
    }
}
