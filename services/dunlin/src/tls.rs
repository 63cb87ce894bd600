//! The development certificates of `dunlin up`: a CA that stays, and a server certificate of it.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dunlin_gateway::TlsFiles;
use jiff::tz::TimeZone;
use jiff::{Span, ToSpan};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::files;

/// What clients trust and what the server shows.
pub(crate) struct Development {
    pub ca: PathBuf,
    pub server: TlsFiles,
    /// While it is held no other process makes a certificate in this folder.
    _lock: File,
}

/// Makes what is missing in `<data>/tls`. The server certificate is made anew at every start: that
/// takes no time, and it always names what it should and is never near its end. Gateways that share
/// the folder take turns, until each has read what it made, and those before it show it too: they
/// see that the files have changed.
pub(crate) fn develop(data: &Path, names: &[String]) -> Result<Development> {
    let folder = data.join("tls");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let lock = File::create(folder.join("lock")).and_then(|file| file.lock().map(|()| file));
    let lock = lock.with_context(|| format!("cannot lock {}", folder.display()))?;
    let file = |name| folder.join(name);
    let (ca, ca_key) = (file("ca.pem"), file("ca.key"));
    let issuer = authority(&ca, &ca_key)?;
    let (certificate, key) = (file("server.pem"), file("server.key"));
    let pair = KeyPair::generate()?;
    let signed = server_params(names)?.signed_by(&pair, &issuer)?;
    write(files::replace, &certificate, &signed.pem())?;
    write(files::replace, &key, &pair.serialize_pem())?;
    Ok(Development { ca, server: TlsFiles { certificate, key }, _lock: lock })
}

/// The CA in those two files, or a new one.
fn authority(certificate: &Path, key: &Path) -> Result<Issuer<'static, KeyPair>> {
    if certificate.exists() && key.exists() {
        let pem = std::fs::read_to_string(key)
            .with_context(|| format!("cannot read {}", key.display()))?;
        let pair = KeyPair::from_pem(&pem).with_context(|| {
            format!("{} is damaged: remove it, and a new CA will be made", key.display())
        })?;
        return Ok(Issuer::new(authority_params()?, pair));
    }
    let pair = KeyPair::generate()?;
    let params = authority_params()?;
    let pem = params.self_signed(&pair)?.pem();
    // The certificate last: where it is, its key is.
    write(files::keep, key, &pair.serialize_pem())?;
    write(files::keep, certificate, &pem)?;
    Ok(Issuer::new(params, pair))
}

/// The same every time but for the dates, which an issuer does not need: so the CA's certificate
/// need not be parsed to sign with its key.
fn authority_params() -> Result<CertificateParams> {
    let mut params = params(Vec::new(), "Dunlin development CA", 10.years())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn server_params(names: &[String]) -> Result<CertificateParams> {
    // Some platforms refuse server certificates that are valid for longer.
    let mut params = params(names.to_vec(), "Dunlin", 825.days())?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn params(names: Vec<String>, common_name: &str, valid: Span) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names)
        .context("a host name of the hub cannot stand in a certificate")?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    let today = jiff::Timestamp::now().to_zoned(TimeZone::UTC).date();
    // Clocks of devices may be behind.
    let [from, to] = [today.saturating_sub(1.days()), today.saturating_add(valid)].map(|date| {
        let part = |number: i8| u8::try_from(number).unwrap_or(1);
        rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
    });
    (params.not_before, params.not_after) = (from, to);
    Ok(params)
}

fn write(how: fn(&Path, &[u8]) -> std::io::Result<()>, path: &Path, pem: &str) -> Result<()> {
    how(path, pem.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

    use super::*;

    fn certificate(path: &Path) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(path).expect("a certificate")
    }

    #[test]
    fn the_ca_stays_and_vouches_for_every_name_of_every_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = ["localhost", "hub.example.com", "127.0.0.9"].map(str::to_owned);
        let first = develop(folder.path(), &names[..1]).expect("made");
        let ca = certificate(&first.ca);
        // Gives up its lock.
        drop(first);
        let second = develop(folder.path(), &names).expect("made again");
        assert_eq!(ca, certificate(&second.ca));

        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca).expect("a CA");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .expect("a verifier");
        let server = certificate(&second.server.certificate);
        for (name, good) in
            names.iter().map(|name| (name.as_str(), true)).chain([("other.example.com", false)])
        {
            let name = ServerName::try_from(name).expect("a name");
            let got = verifier.verify_server_cert(&server, &[], &name, &[], UnixTime::now());
            assert_eq!(got.is_ok(), good, "{name:?}: {got:?}");
        }
    }
}
