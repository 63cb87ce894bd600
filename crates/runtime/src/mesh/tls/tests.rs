//! Who is let in, over real sockets.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::get;
use http_body_util::BodyExt;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::ServiceExt;

use super::*;
use crate::mesh::{Mesh, MeshError};
use crate::{Role, Shutdown, Telemetry};

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Writes a certificate of this CA for `name`, for who trusts `trusted`.
    fn issue(&self, folder: &TempDir, name: &str, trusted: &Self) -> Config {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        let write = |file: &str, pem: &str| {
            let path = folder.path().join(file);
            fs::write(&path, pem).expect("written");
            path
        };
        Config {
            tls_cert: write("tls.crt", &signed.pem()),
            tls_key: write("tls.key", &key.serialize_pem()),
            tls_ca: write("ca.crt", &trusted.pem),
            ..Config::default()
        }
    }
}

fn folder() -> TempDir {
    TempDir::new().expect("a folder")
}

/// A process that serves, and how often it was called.
async fn serve(config: Config) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let mesh =
        Mesh::open(config, &[Role::Api], Handle::current(), Telemetry::default()).expect("a mesh");
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    mesh.attach(axum::Router::new().route(
        "/",
        get(move || async move {
            counted.fetch_add(1, Ordering::SeqCst);
            "hi"
        }),
    ));
    tokio::spawn(async move { mesh.serve(listener, Shutdown::new()).await });
    (address, calls)
}

/// One call by a process with that configuration.
async fn call(config: Config, address: &str) -> Result<String, Status> {
    let scheme = if config.tls_cert.as_os_str().is_empty() { "http" } else { "https" };
    let config = Config { api: format!("{scheme}://{address}"), ..config };
    let mesh = Mesh::open(config, &[], Handle::current(), Telemetry::default()).expect("a mesh");
    let channel = mesh.channel(Role::Api).expect("configured");
    let request = http::Request::get("/").body(Body::empty()).expect("a request");
    let body = channel.oneshot(request).await?.into_body().collect().await?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

async fn refused(config: Config, address: &str, want: &str) {
    let status = call(config, address).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains(want), "{status}");
    assert!(status.message().contains("mesh.tls_cert"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_has_a_certificate_of_the_ca_is_served() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let folders = [(); 5].map(|()| folder());
    let (address, calls) = serve(ours.issue(&folders[0], "dunlin", &ours)).await;
    let stranger = theirs.issue(&folders[1], "dunlin", &ours);
    refused(stranger, &address, "lost").await;
    refused(Config::default(), &address, "lost").await;
    // Whoever it calls must be one of ours, too.
    let wary = ours.issue(&folders[2], "dunlin", &theirs);
    refused(wary, &address, "no TLS").await;
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    let friend = ours.issue(&folders[3], "dunlin", &ours);
    assert_eq!(call(friend.clone(), &address).await.expect("answered"), "hi");
    // A process that serves in the clear, and one whose certificate has another name.
    let (clear, _) = serve(Config::default()).await;
    refused(friend.clone(), &clear, "no TLS").await;
    let (misnamed, _) = serve(ours.issue(&folders[4], "hub.example", &ours)).await;
    refused(friend, &misnamed, "no TLS").await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_certificate_is_told_so() {
    let (ours, folder) = (Authority::new(), folder());
    let (address, _) = serve(ours.issue(&folder, "dunlin", &ours)).await;
    let mut roots = RootCertStore::empty();
    let pem = CertificateDer::from_pem_slice(ours.pem.as_bytes()).expect("PEM");
    roots.add(pem).expect("a CA");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(&address).await.expect("a connection");
    let name = ServerName::try_from(NAME).expect("a name");
    // The server's answer to what the client does not show comes behind the handshake.
    let refused = async {
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.read(&mut [0; 1]).await
    };
    let error = refused.await.expect_err("refused");
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_may_be_replaced() {
    let (old, new) = (Authority::new(), Authority::new());
    let (server, client) = (folder(), folder());
    let (address, _) = serve(old.issue(&server, "dunlin", &old)).await;
    let renewed = new.issue(&client, "dunlin", &new);
    refused(renewed.clone(), &address, "no TLS").await;
    let config = new.issue(&server, "dunlin", &new);
    call(renewed.clone(), &address).await.expect("the new CA is known");
    // What cannot be used is passed over.
    fs::write(&config.tls_key, "half a").expect("written");
    call(renewed, &address).await.expect("as before");
}

#[tokio::test]
async fn settings_that_do_not_fit_are_named() {
    let (ours, folder) = (Authority::new(), folder());
    let good = ours.issue(&folder, "dunlin", &ours);
    let check = |config: Config, want: &str| {
        let opened = Mesh::open(config, &[], Handle::current(), Telemetry::default());
        let opened = opened.and_then(|mesh| mesh.channel(Role::Api).map(|_| ()));
        let error = crate::mesh::chain(&opened.expect_err("a mistake"));
        assert!(error.contains(want), "{error}");
    };
    check(Config { tls_key: PathBuf::new(), ..good.clone() }, "belong together");
    check(Config { tls_ca: "/no/such.pem".into(), ..good.clone() }, "/no/such.pem");
    check(Config { tls_ca: good.tls_key.clone(), ..good.clone() }, "mesh.tls_ca");
    check(Config { api: "http://api:1".into(), ..good.clone() }, "https://host:port");
    check(Config { advertise: "http://me:1".into(), ..good.clone() }, "mesh.advertise");
    check(Config { api: "https://api:1".into(), ..Config::default() }, "as http://host:port");
    let listen = "10.0.0.1:9700".to_owned();
    let mesh = Mesh::open(Config { listen, ..good }, &[], Handle::current(), Telemetry::default())
        .expect("a mesh");
    assert_eq!(mesh.node(), "https://10.0.0.1:9700");
    assert!(matches!(mesh.channel(Role::Api), Err(MeshError::NoSuchRole { .. })));
}
