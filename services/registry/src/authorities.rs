//! The CA certificates that vouch for devices: one counts once who uploaded it has proved to hold
//! its key.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dunlin_auth::{Authority, Chain, X509Error, x509};
use dunlin_model::{ErrorCode, HubError, limits};
use dunlin_runtime::clock::{unix_millis, unix_seconds};
use dunlin_storage::DeviceStore;
use dunlin_storage::device_store::IfMatch;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::seal::MasterKey;
use crate::setting::{Content, Setting};
use crate::{BuildError, random};

/// A CA certificate of the hub. Times are Unix milliseconds.
#[derive(Clone)]
pub(crate) struct Entry {
    pub name: String,
    pub authority: Authority,
    pub verified: bool,
    /// What is to be signed to prove possession; empty: none was asked for since the last proof.
    pub code: String,
    pub created: i64,
    pub updated: i64,
}

/// An entry as it stands in the sealed setting.
#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    /// Base64 of DER.
    certificate: String,
    verified: bool,
    code: String,
    created: i64,
    updated: i64,
}

#[derive(Clone)]
pub(crate) struct Authorities(Setting<Vec<Entry>>);

impl Authorities {
    pub(crate) async fn load(
        store: Arc<dyn DeviceStore>,
        key: MasterKey,
    ) -> Result<Self, BuildError> {
        Ok(Self(Setting::load(store, key, &Vec::new()).await?))
    }

    /// As they were a second ago at the latest.
    pub(crate) async fn all(&self) -> Result<Arc<Vec<Entry>>, HubError> {
        self.0.get().await
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Entry, HubError> {
        let all = self.all().await?;
        all.iter()
            .find(|entry| same_name(&entry.name, name))
            .cloned()
            .ok_or_else(|| not_found(name))
    }

    pub(crate) async fn add(&self, name: &str, pem: &str) -> Result<Entry, HubError> {
        check_name(name)?;
        let authority = Authority::from_der(x509::from_pem(pem).map_err(refused)?);
        let authority = authority.map_err(refused)?;
        authority.check_dates(unix_seconds()).map_err(refused)?;
        let now = unix_millis();
        let new = Entry {
            name: name.to_owned(),
            authority,
            verified: false,
            code: String::new(),
            created: now,
            updated: now,
        };
        self.0
            .change(|entries| {
                let same = |entry: &&Entry| {
                    same_name(&entry.name, name) || entry.authority.der() == new.authority.der()
                };
                if let Some(there) = entries.iter().find(same) {
                    return Err(HubError::new(
                        ErrorCode::GenericConflict,
                        format!("there is a certificate {} already: delete it first", there.name),
                    ));
                }
                if entries.len() >= limits::AUTHORITIES {
                    return Err(HubError::new(
                        ErrorCode::IotHubQuotaExceeded,
                        format!("a hub has at most {} CA certificates", limits::AUTHORITIES),
                    ));
                }
                entries.push(new.clone());
                Ok(new.clone())
            })
            .await
            .inspect(|entry| info!(ca = entry.name, "CA certificate added"))
    }

    /// Makes a new code to be signed; an older one is good for nothing any more.
    pub(crate) async fn generate_code(
        &self,
        name: &str,
        if_match: &IfMatch,
    ) -> Result<Entry, HubError> {
        let code = random::verification_code();
        let make = |entry: &mut Entry| {
            entry.code.clone_from(&code);
            Ok(())
        };
        self.update(name, if_match, make).await
    }

    /// Takes the proof that the CA's key is held: a certificate of the code, signed by the CA.
    pub(crate) async fn verify(
        &self,
        name: &str,
        pem: &str,
        if_match: &IfMatch,
    ) -> Result<Entry, HubError> {
        let proof = Chain::new(vec![x509::from_pem(pem).map_err(refused)?]).map_err(refused)?;
        let prove = |entry: &mut Entry| {
            if entry.code.is_empty() {
                return Err(invalid(
                    "no code waits for a proof: generate a verification code, and sign that",
                ));
            }
            proof
                .proves_possession(&entry.authority, &entry.code, unix_seconds())
                .map_err(refused)?;
            (entry.verified, entry.code) = (true, String::new());
            Ok(())
        };
        self.update(name, if_match, prove)
            .await
            .inspect(|entry| info!(ca = entry.name, "CA certificate verified"))
    }

    pub(crate) async fn delete(&self, name: &str, if_match: &IfMatch) -> Result<(), HubError> {
        let delete = |entries: &mut Vec<Entry>| {
            let at = matching(entries, name, if_match)?;
            Ok(entries.remove(at).name)
        };
        let name = self.0.change(delete).await?;
        info!(ca = name, "CA certificate deleted");
        Ok(())
    }

    async fn update(
        &self,
        name: &str,
        if_match: &IfMatch,
        change: impl Fn(&mut Entry) -> Result<(), HubError>,
    ) -> Result<Entry, HubError> {
        let update = |entries: &mut Vec<Entry>| {
            let at = matching(entries, name, if_match)?;
            change(&mut entries[at])?;
            entries[at].updated = unix_millis();
            Ok(entries[at].clone())
        };
        self.0.change(update).await
    }
}

/// Where the entry of that name stands, if it is the one that is meant.
fn matching(entries: &[Entry], name: &str, if_match: &IfMatch) -> Result<usize, HubError> {
    let at = entries.iter().position(|entry| same_name(&entry.name, name));
    let at = at.ok_or_else(|| not_found(name))?;
    if if_match.matches(&entries[at].etag()) {
        return Ok(at);
    }
    Err(HubError::new(
        ErrorCode::PreconditionFailed,
        format!("the certificate {name} was changed since: the ETag in If-Match is an old one"),
    ))
}

fn same_name(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// Names stand in paths as they are.
fn check_name(name: &str) -> Result<(), HubError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if (1..=limits::AUTHORITY_NAME_CHARS).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(invalid("the name of a certificate has 1 to 64 letters, digits, -, _ or ."))
    }
}

fn not_found(name: &str) -> HubError {
    // The name is the caller's text: it is cut before it reaches a log.
    let name: String = name.chars().take(limits::AUTHORITY_NAME_CHARS).collect();
    HubError::new(ErrorCode::CertificateNotFound, format!("there is no certificate {name:?}"))
}

fn refused(error: X509Error) -> HubError {
    HubError::new(ErrorCode::ArgumentInvalid, error.to_string())
}

fn invalid(message: &str) -> HubError {
    HubError::new(ErrorCode::ArgumentInvalid, message)
}

impl Entry {
    /// Made of the content.
    pub(crate) fn etag(&self) -> String {
        let text = serde_json::to_vec(&Stored::from(self)).expect("strings and numbers are JSON");
        STANDARD.encode(&digest(&SHA256, &text).as_ref()[..12])
    }
}

impl Content for Vec<Entry> {
    const NAME: &'static str = "certificates";

    fn to_bytes(&self) -> Vec<u8> {
        let stored: Vec<_> = self.iter().map(Stored::from).collect();
        serde_json::to_vec(&stored).expect("strings and numbers are JSON")
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let stored: Vec<Stored> = serde_json::from_slice(bytes).ok()?;
        stored.into_iter().map(Stored::into_entry).collect()
    }
}

impl From<&Entry> for Stored {
    fn from(entry: &Entry) -> Self {
        Self {
            name: entry.name.clone(),
            certificate: STANDARD.encode(entry.authority.der()),
            verified: entry.verified,
            code: entry.code.clone(),
            created: entry.created,
            updated: entry.updated,
        }
    }
}

impl Stored {
    fn into_entry(self) -> Option<Entry> {
        let Self { name, certificate, verified, code, created, updated } = self;
        let authority = Authority::from_der(STANDARD.decode(certificate).ok()?).ok()?;
        Some(Entry { name, authority, verified, code, created, updated })
    }
}
