//! rustls' server side as the hub needs it: TLS 1.2 and 1.3, client certificates asked for but
//! not required.

use std::sync::Arc;

use dunlin_model::limits;
use dunlin_runtime::Shutdown;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError as Refusal, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};

use super::certificate::{CertificateError, Resolver, TlsFiles};
use super::raw_key;

/// The protocol of the front door on 443.
pub const ALPN_HTTP: &[u8] = b"http/1.1";

/// What all listeners of a gateway share: provider and certificate.
pub struct TlsServer {
    provider: Arc<CryptoProvider>,
    resolver: Arc<Resolver>,
    files: TlsFiles,
}

impl TlsServer {
    pub fn new(files: TlsFiles) -> Result<Self, CertificateError> {
        let provider = Arc::new(raw_key::provider());
        let resolver = Resolver::new(&files, &provider)?;
        Ok(Self { provider, resolver, files })
    }

    /// A listener's configuration; `alpn` empty: whatever the client asks for.
    pub fn config(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, Error> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_client_cert_verifier(Arc::new(AnyClientCertificate(self.provider.clone())))
            .with_cert_resolver(self.resolver.clone());
        // Our preference: AES-256 suites hold a quarter of the memory here (see raw_key).
        config.ignore_client_order = true;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// Follows changes of the certificate files until shutdown.
    pub async fn watch(self, shutdown: Shutdown) {
        self.resolver.watch(self.files, self.provider, shutdown).await;
    }
}

/// Takes any client certificate and checks only that the client holds its key: which device it
/// proves is decided by the registry, by thumbprint or chain. A client with a SAS token may present
/// one, too, which then counts for nothing.
#[derive(Debug)]
struct AnyClientCertificate(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyClientCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: the client may present whatever it has.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // rustls holds them for as long as the connection lives.
        let all = std::iter::once(leaf).chain(intermediates);
        if limits::client_certificates_fit(all.map(|one| one.len())) {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(Refusal::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
