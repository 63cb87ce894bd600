//! Whom a connection trusts, by its URL.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tempfile::{NamedTempFile, TempDir, tempdir};

use super::*;

/// A CA in a file, and a server with its certificate for `name`.
struct Authority {
    folder: TempDir,
    server: ServerConfig,
}

impl Authority {
    fn vouching_for(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("sound");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = params.self_signed(&key).expect("a CA");
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("sound");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        let folder = tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).expect("written");
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .expect("a server");
        Self { folder, server }
    }

    fn verify_full(&self) -> String {
        format!("sslmode=verify-full&sslrootcert={}/ca.pem", self.folder.path().display())
    }
}

/// What opening the test server comes to, by way of a proxy with that certificate.
async fn open(proxy: &Authority, mode: &str) -> Result<(), String> {
    let address = proxy::tls(proxy.server.clone()).await;
    let place = Place::create().await;
    let opened = Postgres::open(&by_way_of(&place, address, mode)).await;
    opened.map(drop).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_to_be_verified_is() {
    let known = Authority::vouching_for("127.0.0.1");
    open(&known, &known.verify_full()).await.expect("its CA and its name");
    open(&known, "sslmode=require").await.expect("whoever it is");
    let other = Authority::vouching_for("127.0.0.1");
    let error = open(&other, &known.verify_full()).await.expect_err("another CA");
    assert!(error.contains("invalid peer certificate"), "{error}");
    let renamed = Authority::vouching_for("db.example.com");
    let error = open(&renamed, &renamed.verify_full()).await.expect_err("another name");
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn a_file_without_a_certificate_is_named() {
    let file = NamedTempFile::new().expect("a file");
    let path = file.path().display();
    for path in [path.to_string(), format!("{path}.missing")] {
        let url = format!("postgres://h/db?sslmode=verify-full&sslrootcert={path}");
        let error = Postgres::open(&PostgresConfig::new(url)).await.err().expect("refused");
        assert!(error.to_string().contains(&path), "{error}");
    }
}
