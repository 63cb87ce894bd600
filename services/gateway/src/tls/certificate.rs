//! The server's certificate chain and key, read from PEM files and read again when these change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use dunlin_runtime::Shutdown;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// How often the files are looked at. Polled, because certificates are often replaced by renaming
/// a folder they are linked from, which file notifications miss.
const POLL: Duration = Duration::from_secs(1);

/// Where the server's certificate chain (leaf first) and its private key are, both PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not a PEM file of the right kind")]
    Pem { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("the certificate in {certificate} and the key in {key} cannot be used together")]
    Unusable { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// Hands out the newest certificate that could be read.
#[derive(Debug)]
pub(super) struct Resolver {
    current: ArcSwap<CertifiedKey>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl Resolver {
    pub(super) fn new(
        files: &TlsFiles,
        provider: &CryptoProvider,
    ) -> Result<Arc<Self>, CertificateError> {
        let current = ArcSwap::from_pointee(load(files, provider)?);
        Ok(Arc::new(Self { current }))
    }

    /// Reads the files again whenever they change, until shutdown. New connections get the new
    /// certificate; a pair that cannot be used is reported and the old one stays.
    pub(super) async fn watch(
        self: Arc<Self>,
        files: TlsFiles,
        provider: Arc<CryptoProvider>,
        shutdown: Shutdown,
    ) {
        let mut seen = stamps(&files);
        let mut ticks = tokio::time::interval(POLL);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let now = stamps(&files);
            if now == seen {
                continue;
            }
            match load(&files, &provider) {
                Ok(fresh) => {
                    self.current.store(Arc::new(fresh));
                    seen = now;
                    tracing::info!(certificate = %files.certificate.display(), "certificate reloaded");
                }
                // Often the two files are between two writes; what is seen next decides.
                Err(error) if now != stamps(&files) => {
                    tracing::debug!(%error, "certificate is being replaced");
                }
                Err(error) => {
                    seen = now;
                    tracing::error!(
                        %error,
                        "the new certificate cannot be used, the old one stays: mend the files"
                    );
                }
            }
        }
    }
}

/// What tells one version of the files from the next.
fn stamps(files: &TlsFiles) -> [Option<(SystemTime, u64)>; 2] {
    [&files.certificate, &files.key].map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn load(files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey, CertificateError> {
    let pem = read(&files.certificate)?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| CertificateError::Pem { path: files.certificate.clone(), source })?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
        .map_err(|source| CertificateError::Pem { path: files.key.clone(), source })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|source| CertificateError::Unusable {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    fs::read(path).map_err(|source| CertificateError::Read { path: path.to_owned(), source })
}
