//! Something between a client and the test server: it speaks TLS, cuts connections, or is silent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::Config;
use tokio_postgres::config::Host;
use tokio_rustls::TlsAcceptor;

use super::server;

/// Where the test server listens.
async fn upstream() -> TcpStream {
    let config: Config = server().parse().expect("a URL");
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let Some(Host::Tcp(host)) = config.get_hosts().first() else {
        panic!("a TCP server is needed")
    };
    TcpStream::connect((host.as_str(), port)).await.expect("the test server")
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// Speaks TLS in front of the test server.
pub(super) async fn tls(config: ServerConfig) -> SocketAddr {
    let (listener, address) = listen().await;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // SSLRequest, and the consent to it.
                let mut request = [0; 8];
                client.read_exact(&mut request).await.expect("a request");
                client.write_all(b"S").await.expect("sent");
                // A client that does not trust us goes.
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let _ = copy_bidirectional(&mut client, &mut upstream().await).await;
            });
        }
    });
    address
}

/// When to cut a connection.
#[derive(Default)]
pub(super) struct Cut {
    /// After so many more messages; 0: not at all.
    left: AtomicUsize,
    /// Whether the server has the last of them, and has committed.
    committed: AtomicBool,
}

impl Cut {
    /// Instead of the n-th round trip from now on, or of its answer.
    pub(super) fn at(&self, trip: usize, committed: bool) {
        self.committed.store(committed, Ordering::SeqCst);
        self.left.store(trip, Ordering::SeqCst);
    }

    fn now(&self) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less) == Ok(1)
    }
}

/// Passes everything on until it is to cut.
pub(super) async fn cutting(cut: Arc<Cut>) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass_on(client, Arc::clone(&cut)));
        }
    });
    address
}

async fn pass_on(mut client: TcpStream, cut: Arc<Cut>) -> std::io::Result<()> {
    let mut server = upstream().await;
    let (mut asked, mut told) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let message = &asked[..read?];
                let over = cut.now();
                if message.is_empty() || over && !cut.committed.load(Ordering::SeqCst) {
                    return Ok(());
                }
                server.write_all(message).await?;
                let mut answer = Vec::new();
                while over && !answer.windows(6).any(|tag| tag == b"COMMIT") {
                    let read = server.read(&mut told).await?;
                    assert_ne!(read, 0, "the server has committed");
                    answer.extend_from_slice(&told[..read]);
                }
                if over {
                    return Ok(());
                }
            }
            read = server.read(&mut told) => {
                let message = &told[..read?];
                if message.is_empty() {
                    return Ok(());
                }
                client.write_all(message).await?;
            }
        }
    }
}

/// Accepts, and never says a word.
pub(super) async fn silent() -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((client, _)) = listener.accept().await {
            held.push(client);
        }
    });
    address
}

/// Asks for a password in clear, and refuses any.
pub(super) async fn refusing() -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            // TLS is declined; then the startup message comes.
            let mut request = [0; 8];
            client.read_exact(&mut request).await.expect("a request");
            client.write_all(b"N").await.expect("sent");
            let mut message = [0; 1024];
            assert_ne!(client.read(&mut message).await.expect("startup"), 0);
            client.write_all(b"R\0\0\0\x08\0\0\0\x03").await.expect("sent");
            assert_ne!(client.read(&mut message).await.expect("the password"), 0);
            let fields = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0\0";
            let length = u32::try_from(fields.len() + 4).expect("short").to_be_bytes();
            let answer = [b"E", &length[..], fields].concat();
            client.write_all(&answer).await.expect("sent");
        }
    });
    address
}
