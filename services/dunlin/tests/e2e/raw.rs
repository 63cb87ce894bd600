//! A raw MQTT client over TLS: the tests write and read bytes, so that nothing of our own code
//! judges what our own code sends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ConfigBuilder, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Long enough for a loaded machine; nothing waits for it when all is well.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// What carries MQTT: TLS, or WebSocket over it.
pub trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Carrier for S {}

/// A client; of whole connections the stream is what carries them, of halves one half of it.
pub struct Raw<S = Box<dyn Carrier>> {
    stream: S,
}

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// TLS for a test client that trusts the hub's CA.
pub fn connector(ca_pem: &str) -> TlsConnector {
    TlsConnector::from(Arc::new(trusting(ca_pem, BOTH).with_no_client_auth()))
}

/// As `connector`, for one that shows certificates (DER, leaf first) and holds the leaf's key
/// (PKCS #8).
pub fn connector_showing(ca_pem: &str, chain: Vec<Vec<u8>>, key: Vec<u8>) -> TlsConnector {
    connector_showing_by(BOTH, ca_pem, chain, key)
}

/// The same by these versions of TLS.
pub fn connector_showing_by(
    versions: &[&'static SupportedProtocolVersion],
    ca_pem: &str,
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
) -> TlsConnector {
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
    let provider = rustls::crypto::ring::default_provider();
    let key = provider.key_provider.load_private_key(key).expect("a key");
    // `with_client_auth_cert` would look at the certificates, which may be no such thing.
    let shown =
        Arc::new(rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(chain, key)));
    TlsConnector::from(Arc::new(trusting(ca_pem, versions).with_client_cert_resolver(shown)))
}

fn trusting(
    ca_pem: &str,
    versions: &[&'static SupportedProtocolVersion],
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.expect("a certificate")).expect("a usable certificate");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("TLS 1.2 or 1.3")
        .with_root_certificates(roots)
}

/// A TLS connection on which nothing has been said yet.
pub async fn open_tls(
    address: SocketAddr,
    connector: &TlsConnector,
) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    tls_over(tcp, connector).await
}

/// TLS on a connection that exists.
pub async fn tls_over(
    tcp: TcpStream,
    connector: &TlsConnector,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    within("the TLS handshake", connector.connect(name, tcp)).await
}

impl Raw {
    /// A TLS connection on which nothing has been said yet.
    pub async fn open(address: SocketAddr, connector: &TlsConnector) -> Self {
        Self::try_open(address, connector).await.expect("a TLS connection")
    }

    pub async fn try_open(address: SocketAddr, connector: &TlsConnector) -> io::Result<Self> {
        Ok(Self::over(open_tls(address, connector).await?))
    }

    pub fn over(stream: impl Carrier + 'static) -> Self {
        Self { stream: Box::new(stream) }
    }

    /// The connection must be alive: it answers a ping, and nothing came before that.
    #[track_caller]
    pub fn expect_alive(&mut self) -> impl Future<Output = ()> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            self.send(&PINGREQ).await;
            let got =
                self.packet().await.unwrap_or_else(|error| panic!("dead at {caller}: {error}"));
            assert_eq!(got, PINGRESP, "at {caller}");
        }
    }

    /// What reads, and what writes, for two tasks.
    pub fn split(self) -> (Raw<impl AsyncRead + Unpin>, Raw<impl AsyncWrite + Unpin>) {
        let (reader, writer) = tokio::io::split(self.stream);
        (Raw { stream: reader }, Raw { stream: writer })
    }

    /// Ends TLS and TCP in good order, which MQTT knows nothing of.
    pub async fn close(mut self) {
        self.end().await;
    }

    /// As `close`, and what the hub makes of it can still be seen.
    pub async fn end(&mut self) {
        // The hub may have closed before.
        let _ = self.stream.shutdown().await;
    }

    /// Ends the TCP connection without a word.
    pub fn abandon(self) {}
}

impl<S: AsyncWrite + Unpin> Raw<S> {
    pub async fn send(&mut self, bytes: &[u8]) {
        within("sending", self.try_send(bytes)).await.expect("sent");
    }

    /// As `send`, where the hub may have closed the connection already.
    pub async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }
}

impl<S: AsyncRead + Unpin> Raw<S> {
    /// The next bytes must be these.
    #[track_caller]
    pub fn expect<'a>(&'a mut self, want: &'a [u8]) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let mut got = vec![0; want.len()];
            within("an answer", self.stream.read_exact(&mut got))
                .await
                .unwrap_or_else(|error| panic!("no answer at {caller}: {error}"));
            assert_eq!(got, want, "at {caller}");
        }
    }

    /// One whole packet.
    pub async fn packet(&mut self) -> io::Result<Vec<u8>> {
        within("a packet", async {
            let mut packet = vec![self.stream.read_u8().await?];
            let (mut length, mut shift) = (0, 0);
            loop {
                let byte = self.stream.read_u8().await?;
                packet.push(byte);
                length |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let start = packet.len();
            packet.resize(start + length, 0);
            self.stream.read_exact(&mut packet[start..]).await?;
            Ok(packet)
        })
        .await
    }

    /// The next packet, a PUBLISH of the hub's.
    pub async fn published(&mut self) -> Published {
        Published::of(&self.packet().await.expect("a packet"))
    }

    /// What the hub still says until it closes the connection, which it must.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is as good a close as close_notify: the hub may not have read all.
        let _ = within("the close", self.stream.read_to_end(&mut rest)).await;
        rest
    }

    /// The hub must close the connection, and say nothing more.
    #[track_caller]
    pub fn expect_close(&mut self) -> impl Future<Output = ()> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            let rest = self.rest().await;
            assert!(rest.is_empty(), "said {rest:x?} before closing, at {caller}");
        }
    }
}

/// A PUBLISH as it came.
#[derive(Debug)]
pub struct Published {
    pub qos: u8,
    pub dup: bool,
    pub topic: String,
    /// 0: there is none.
    pub packet_id: u16,
    pub body: Vec<u8>,
}

impl Published {
    pub fn of(packet: &[u8]) -> Self {
        let first = packet[0];
        assert!(first & 0xf1 == 0x30, "a PUBLISH without RETAIN: {packet:x?}");
        let (qos, dup) = (first >> 1 & 3, first & DUP != 0);
        let length = packet[1..].iter().take_while(|byte| *byte & 0x80 != 0).count() + 1;
        let rest = &packet[1 + length..];
        let field = |at: &[u8]| u16::from_be_bytes([at[0], at[1]]);
        let (topic, mut body) = rest[2..].split_at(field(rest).into());
        let mut packet_id = 0;
        if qos > 0 {
            (packet_id, body) = (field(body), &body[2..]);
        }
        let topic = String::from_utf8(topic.to_vec()).expect("UTF-8");
        Self { qos, dup, topic, packet_id, body: body.to_vec() }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }
}

/// Fails the test rather than hang.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} took longer than {DEADLINE:?}"))
}

pub const PINGREQ: [u8; 2] = [0xc0, 0];
pub const PINGRESP: [u8; 2] = [0xd0, 0];
pub const DISCONNECT: [u8; 2] = [0xe0, 0];

/// CONNACK with a return code, no session present.
pub fn connack(code: u8) -> [u8; 4] {
    [0x20, 2, 0, code]
}

/// CONNACK 0 that says there is a session.
pub const CONNACK_PRESENT: [u8; 4] = [0x20, 2, 1, 0];

/// SUBACK with a return code for each filter.
pub fn suback(packet_id: u16, codes: &[u8]) -> Vec<u8> {
    frame(0x90, &[&packet_id.to_be_bytes(), codes].concat())
}

pub fn unsuback(packet_id: u16) -> [u8; 4] {
    let [high, low] = packet_id.to_be_bytes();
    [0xb0, 2, high, low]
}

pub fn puback(packet_id: u16) -> [u8; 4] {
    let [high, low] = packet_id.to_be_bytes();
    [0x40, 2, high, low]
}

/// A CONNECT; every part can be made wrong.
#[derive(Clone)]
pub struct Connect {
    pub protocol: &'static str,
    pub level: u8,
    /// Bits that are set beside those of the fields below.
    pub flags: u8,
    pub clean: bool,
    pub keep_alive: u16,
    pub client_id: String,
    pub username: Option<String>,
    pub password: Option<Vec<u8>>,
    pub will: Option<Will>,
}

#[derive(Clone)]
pub struct Will {
    pub topic: String,
    pub body: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
}

impl Connect {
    pub fn new(client_id: &str, username: &str, password: &str) -> Self {
        Self {
            protocol: "MQTT",
            level: 4,
            flags: 0,
            clean: false,
            keep_alive: 60,
            client_id: client_id.to_owned(),
            username: Some(username.to_owned()),
            password: Some(password.as_bytes().to_vec()),
            will: None,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        frame(0x10, &self.body())
    }

    /// The packet without its fixed header, to which a test may add what does not belong there.
    pub fn body(&self) -> Vec<u8> {
        let mut flags = self.flags;
        flags |= u8::from(self.clean) << 1;
        flags |= u8::from(self.username.is_some()) << 7 | u8::from(self.password.is_some()) << 6;
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        let mut body = field(self.protocol.as_bytes());
        body.extend([self.level, flags]);
        body.extend(self.keep_alive.to_be_bytes());
        body.extend(field(self.client_id.as_bytes()));
        if let Some(will) = &self.will {
            body.extend(field(will.topic.as_bytes()));
            body.extend(field(&will.body));
        }
        for text in [self.username.as_ref().map(String::as_bytes), self.password.as_deref()] {
            body.extend(text.map(field).unwrap_or_default());
        }
        body
    }
}

/// A PUBLISH with the flags of its first byte; `packet_id` where QoS asks for one.
pub fn publish(flags: u8, topic: &str, packet_id: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = field(topic.as_bytes());
    if flags & 0x06 != 0 {
        bytes.extend(packet_id.to_be_bytes());
    }
    bytes.extend(body);
    frame(0x30 | flags, &bytes)
}

/// QoS 1 in the flags of a PUBLISH.
pub const QOS1: u8 = 0x02;
/// RETAIN in the flags of a PUBLISH.
pub const RETAIN: u8 = 0x01;
/// DUP in the flags of a PUBLISH.
pub const DUP: u8 = 0x08;

/// A SUBSCRIBE: filters, each with the QoS it asks for.
pub fn subscribe(packet_id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    for (filter, qos) in filters {
        body.extend(field(filter.as_bytes()));
        body.push(*qos);
    }
    frame(0x82, &body)
}

pub fn unsubscribe(packet_id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    for filter in filters {
        body.extend(field(filter.as_bytes()));
    }
    frame(0xa2, &body)
}

/// A packet of any type with its length.
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = header(first, body.len());
    packet.extend(body);
    packet
}

/// The fixed header of a packet of that remaining length.
pub fn header(first: u8, mut length: usize) -> Vec<u8> {
    let mut header = vec![first];
    loop {
        let byte = u8::try_from(length & 0x7f).expect("seven bits");
        length >>= 7;
        header.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            return header;
        }
    }
}

/// A two-byte length and as many bytes.
pub fn field(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("at most 65,535 bytes");
    [&length.to_be_bytes(), bytes].concat()
}
