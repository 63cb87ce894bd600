//! TLS between processes: both sides show a certificate of the mesh's CA. The files are read for
//! each connection, of which there are few: a renewed certificate needs no restart and no watcher.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, ServerName};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::Config;

/// The name in the certificate of every process: one certificate may serve them all, by whatever
/// address they are reached.
const NAME: &str = "dunlin";
/// How long a peer may take over a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long accepting pauses when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that are through and wait to be served.
const ACCEPTED: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("mesh.tls_cert, mesh.tls_key and mesh.tls_ca belong together: set all or none of them")]
    Incomplete,
    #[error("cannot use {path} as a PEM file")]
    Pem { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("mesh.tls_cert, mesh.tls_key and mesh.tls_ca cannot be used together")]
    Unusable(#[from] rustls::Error),
    #[error("mesh.tls_ca has no certificate that can be trusted")]
    Authority(#[from] VerifierBuilderError),
}

/// The files, and what they were when they could be used last.
#[derive(Clone)]
pub(super) struct Tls(Arc<Inner>);

struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    authority: PathBuf,
    last: Mutex<Sides>,
}

#[derive(Clone)]
struct Sides {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    /// `None`: the processes talk in the clear.
    pub fn new(config: &Config) -> Result<Option<Self>, TlsError> {
        let files = [&config.tls_cert, &config.tls_key, &config.tls_ca];
        if files.iter().all(|path| path.as_os_str().is_empty()) {
            return Ok(None);
        }
        if files.iter().any(|path| path.as_os_str().is_empty()) {
            return Err(TlsError::Incomplete);
        }
        let [certificate, key, authority] = files.map(PathBuf::clone);
        let last = Mutex::new(load(&certificate, &key, &authority)?);
        Ok(Some(Self(Arc::new(Inner { certificate, key, authority, last }))))
    }

    /// As the files are now; if they cannot be used, as they were.
    fn sides(&self) -> Sides {
        let Inner { certificate, key, authority, last } = &*self.0;
        let fresh = load(certificate, key, authority);
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        match fresh {
            Ok(sides) => *last = sides,
            // Perhaps they are being replaced just now.
            Err(error) => tracing::warn!(
                error = super::chain(&error),
                "the mesh goes on with its former certificate: mend the files"
            ),
        }
        last.clone()
    }

    pub async fn connect(&self, stream: TcpStream) -> io::Result<client::TlsStream<TcpStream>> {
        let name = DnsName::try_from(NAME).map_err(io::Error::other)?;
        TlsConnector::from(self.sides().client).connect(ServerName::DnsName(name), stream).await
    }

    /// Accepts, and lets through who shows a certificate. It ends when nobody takes them any more.
    pub fn accept(&self, listener: TcpListener) -> mpsc::Receiver<Accepted> {
        let (through, accepted) = mpsc::channel(ACCEPTED);
        tokio::spawn(accept(self.clone(), listener, through));
        accepted
    }
}

type Accepted = io::Result<server::TlsStream<TcpStream>>;

async fn accept(tls: Tls, listener: TcpListener, through: mpsc::Sender<Accepted>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = through.closed() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a process, trying again in {ACCEPT_PAUSE:?}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (tls, through) = (tls.clone(), through.clone());
        tokio::spawn(async move {
            let handshake = async {
                stream.set_nodelay(true)?;
                TlsAcceptor::from(tls.sides().server).accept(stream).await
            };
            let ended = tokio::time::timeout(HANDSHAKE, handshake).await;
            match ended.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                // Nobody takes it at the process's end.
                Ok(stream) => drop(through.send(Ok(stream)).await),
                Err(error) => tracing::warn!(
                    %peer, %error,
                    "a process is refused: it needs a certificate of mesh.tls_ca"
                ),
            }
        });
    }
}

fn load(certificate: &Path, key: &Path, authority: &Path) -> Result<Sides, TlsError> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|source| TlsError::Pem { path: key.to_owned(), source })?;
    let mut roots = RootCertStore::empty();
    for root in certificates(authority)? {
        roots.add(root)?;
    }
    let roots = Arc::new(roots);
    // Both sides are ours: nothing older is needed.
    let versions = &[&rustls::version::TLS13];
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())?;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Sides { server: Arc::new(server), client: Arc::new(client) })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| TlsError::Pem { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
