//! Client certificates: whom they prove their bearer to be, by thumbprint or by a chain to a CA of
//! the hub's. That the bearer holds the leaf's key, TLS has shown.

use std::time::Duration;

use dunlin_model::{Identity, KeyPair, limits};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, Error, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// Why a certificate is refused. It is for the operator: of a stranger's certificate there is no
/// more in it than hashes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum X509Error {
    #[error("no certificate was presented")]
    Missing,
    #[error(
        "the client's certificates are more than {count} or more than {bytes} bytes",
        count = limits::CLIENT_CERTIFICATES,
        bytes = limits::CLIENT_CERTIFICATE_BYTES
    )]
    TooLarge,
    #[error("not an X.509 certificate of version 3")]
    Malformed,
    #[error("not a certificate in PEM form (-----BEGIN CERTIFICATE-----)")]
    NotPem,
    #[error("the certificate is not valid yet: look at its dates and at the clocks")]
    NotYetValid,
    #[error("the certificate has expired: it takes a new one")]
    Expired,
    #[error(
        "Thumbprint does not match configuration: Thumbprint: SHA1Hash={sha1}, SHA2Hash={sha256}; \
         Configuration: PrimaryThumbprint={primary}, SecondaryThumbprint={secondary}"
    )]
    WrongThumbprint { sha1: String, sha256: String, primary: String, secondary: String },
    #[error("the certificate's subject must have one common name (CN), which must be {wanted}")]
    WrongName { wanted: String },
    #[error("not a CA certificate: it needs basicConstraints CA:TRUE, and keyCertSign of keyUsage")]
    NotAnAuthority,
    #[error("no verified CA certificate of the hub vouches for it: {reason}")]
    Untrusted { reason: String },
    #[error("not signed by the key of the CA certificate: {reason}")]
    NotPossessed { reason: String },
}

/// What a client has presented: the leaf, and intermediates in any order.
pub struct Chain(Vec<CertificateDer<'static>>);

impl Chain {
    /// From DER, the leaf first.
    pub fn new(certificates: Vec<Vec<u8>>) -> Result<Self, X509Error> {
        if certificates.is_empty() {
            return Err(X509Error::Missing);
        }
        if !limits::client_certificates_fit(certificates.iter().map(Vec::len)) {
            return Err(X509Error::TooLarge);
        }
        Ok(Self(certificates.into_iter().map(CertificateDer::from).collect()))
    }

    /// Whether the leaf is the one of either thumbprint (hex of SHA-1 or SHA-256) and valid at
    /// `now`; until when (Unix seconds). Who signed it does not matter.
    pub fn has_thumbprint(&self, configured: &KeyPair, now: u64) -> Result<u64, X509Error> {
        let leaf = &self.0[0];
        // Before anything of it is read: all but its owner end here.
        let (sha1, sha256) = (sha1(leaf), sha256(leaf));
        let KeyPair { primary, secondary } = configured;
        let is = |known: &String| {
            known.eq_ignore_ascii_case(&sha1) || known.eq_ignore_ascii_case(&sha256)
        };
        if !(is(primary) || is(secondary)) {
            let (primary, secondary) = (primary.clone(), secondary.clone());
            return Err(X509Error::WrongThumbprint { sha1, sha256, primary, secondary });
        }
        Validity::of(&parse(leaf)?).check(now)
    }

    /// Whether the leaf is that identity's by its common name, and a chain of certificates valid at
    /// `now` leads from it to one of the `authorities`; until when the leaf is valid (Unix seconds).
    pub fn proves(
        &self,
        id: &Identity,
        authorities: &[&Authority],
        now: u64,
    ) -> Result<u64, X509Error> {
        self.leads_to(authorities, id.as_str(), now)
    }

    /// Whether it is the proof that its bearer holds the key of `authority`: a certificate of that
    /// CA with the `code` for a common name.
    pub fn proves_possession(
        &self,
        authority: &Authority,
        code: &str,
        now: u64,
    ) -> Result<(), X509Error> {
        match self.leads_to(&[authority], code, now) {
            Err(X509Error::Untrusted { reason }) => Err(X509Error::NotPossessed { reason }),
            outcome => outcome.map(drop),
        }
    }

    fn leads_to(
        &self,
        authorities: &[&Authority],
        common_name: &str,
        now: u64,
    ) -> Result<u64, X509Error> {
        let (leaf, intermediates) = (&self.0[0], &self.0[1..]);
        let parsed = parse(leaf)?;
        // What is cheap comes first.
        let until = Validity::of(&parsed).check(now)?;
        let mut names = parsed.subject().iter_common_name().map(|name| name.as_str().ok());
        if (names.next(), names.next()) != (Some(Some(common_name)), None) {
            return Err(X509Error::WrongName { wanted: common_name.to_owned() });
        }
        // webpki takes an anchor for trusted whatever its dates and its path length.
        let valid = || authorities.iter().filter(|one| one.validity.check(now).is_ok());
        let anchors: Vec<TrustAnchor<'_>> = valid().map(|one| one.anchor.clone()).collect();
        let untrusted = |error: Error| {
            let over = authorities.iter().filter(|one| one.validity.check(now).is_err());
            let over: String =
                over.map(|one| format!("; {} is out of date", one.subject)).collect();
            X509Error::Untrusted { reason: format!("{error}{over}") }
        };
        let end = EndEntityCert::try_from(leaf).map_err(|_| X509Error::Malformed)?;
        end.verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &anchors,
            intermediates,
            UnixTime::since_unix_epoch(Duration::from_secs(now)),
            KeyUsage::client_auth(),
            None,
            Some(&|path| {
                let length = path.intermediate_certificates().count();
                let fits = |one: &&Authority| {
                    one.anchor == *path.anchor()
                        && one.path_length.is_none_or(|most| length <= most)
                };
                let fits = valid().copied().any(|one| fits(&one));
                if fits { Ok(()) } else { Err(Error::PathLenConstraintViolated) }
            }),
        )
        .map_err(untrusted)?;
        Ok(until)
    }
}

/// A CA certificate, root or intermediate.
#[derive(Clone, Debug)]
pub struct Authority {
    anchor: TrustAnchor<'static>,
    validity: Validity,
    path_length: Option<usize>,
    der: Vec<u8>,
    subject: String,
}

impl Authority {
    pub fn from_der(der: Vec<u8>) -> Result<Self, X509Error> {
        if der.len() > limits::CLIENT_CERTIFICATE_BYTES {
            return Err(X509Error::TooLarge);
        }
        let parsed = parse(&der)?;
        let constraints = parsed.basic_constraints().map_err(|_| X509Error::Malformed)?;
        let constraints = constraints.map(|extension| extension.value);
        let usage = parsed.key_usage().map_err(|_| X509Error::Malformed)?;
        let signs = usage.is_none_or(|usage| usage.value.key_cert_sign());
        let Some(constraints) = constraints.filter(|constraints| constraints.ca && signs) else {
            return Err(X509Error::NotAnAuthority);
        };
        let most = |most| usize::try_from(most).unwrap_or(usize::MAX);
        let path_length = constraints.path_len_constraint.map(most);
        let (validity, subject) = (Validity::of(&parsed), parsed.subject().to_string());
        let certificate = CertificateDer::from(der.as_slice());
        let anchor = anchor_from_trusted_cert(&certificate).map_err(|_| X509Error::Malformed)?;
        Ok(Self { anchor: anchor.to_owned(), validity, path_length, der, subject })
    }

    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Its distinguished name, for people.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// SHA-1 in hex, as IoT Hub shows it.
    pub fn thumbprint(&self) -> String {
        sha1(&self.der)
    }

    /// Unix seconds.
    pub fn expires(&self) -> u64 {
        self.validity.until
    }

    /// Fails unless it is valid at `now`.
    pub fn check_dates(&self, now: u64) -> Result<(), X509Error> {
        self.validity.check(now).map(drop)
    }
}

/// The first certificate of a PEM text, as DER.
pub fn from_pem(text: &str) -> Result<Vec<u8>, X509Error> {
    let first = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|_| X509Error::NotPem)?;
    Ok(first.to_vec())
}

/// From when on and until when, Unix seconds, both inclusive.
#[derive(Clone, Copy, Debug)]
struct Validity {
    from: u64,
    until: u64,
}

impl Validity {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        // Nothing before 1970 was ever valid.
        let seconds = |timestamp: i64| u64::try_from(timestamp).unwrap_or(0);
        let validity = certificate.validity();
        Self {
            from: seconds(validity.not_before.timestamp()),
            until: seconds(validity.not_after.timestamp()),
        }
    }

    fn check(self, now: u64) -> Result<u64, X509Error> {
        if now < self.from {
            return Err(X509Error::NotYetValid);
        }
        if now > self.until { Err(X509Error::Expired) } else { Ok(self.until) }
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, X509Error> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(X509Error::Malformed),
    }
}

fn sha1(der: &[u8]) -> String {
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref())
}

fn sha256(der: &[u8]) -> String {
    hex(digest(&SHA256, der).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests;
