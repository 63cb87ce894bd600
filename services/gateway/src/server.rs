//! Listeners, and the way of a connection from accept to its thread.
//!
//! The accept loop is ours: ntex-server's sleeps 25 ms before its first and 100 ms behind its last
//! connection, which is most of a hub's start, and has no say in who is let in.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use dunlin_runtime::component::RunError;
use dunlin_runtime::{Health, Shutdown};
use futures_util::future::{join_all, select_all};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::gateway::Gateway;
use crate::lobby::{self, Limits};
use crate::threads::{Head, Shared, Thread};
use crate::tls::{ALPN_HTTP, TlsServer};
use crate::{Addresses, BuildError, Config, Timeouts};

/// Connections that may wait to be accepted: what a reconnect storm needs.
const BACKLOG: u32 = 4096;
/// How much longer than its drain a thread may take to end.
const STUCK: Duration = Duration::from_secs(5);
/// How long accepting pauses when the process or the machine is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bound sockets, not yet accepting.
pub struct Listeners {
    mqtt: TcpListener,
    https: TcpListener,
    pub addresses: Addresses,
}

impl Listeners {
    pub fn bind(config: &Config) -> Result<Self, BuildError> {
        let open = |what, port| {
            let address = SocketAddr::new(config.bind, port);
            listen(address, config.share_ports).map_err(|source| BuildError::Bind {
                what,
                address,
                source,
            })
        };
        let mqtt = open("MQTT", config.mqtt_port)?;
        let https = open("HTTPS", config.https_port)?;
        let address = |socket: &TcpListener, what, port| {
            let asked = SocketAddr::new(config.bind, port);
            socket.local_addr().map_err(|source| BuildError::Bind { what, address: asked, source })
        };
        let addresses = Addresses {
            mqtt: address(&mqtt, "MQTT", config.mqtt_port)?,
            https: address(&https, "HTTPS", config.https_port)?,
        };
        Ok(Self { mqtt, https, addresses })
    }
}

/// Not tokio's `TcpListener::bind`, which has a shorter backlog and shares no port.
fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A port whose last connections are still ending is free.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(shared)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// A gateway's server, ready to run.
pub struct Server {
    listeners: Listeners,
    workers: usize,
    shared: Shared,
    tls: TlsServer,
    health: Health,
}

impl Server {
    pub fn new(
        config: Config,
        listeners: Listeners,
        gateway: Arc<Gateway>,
        tls: TlsServer,
        health: Health,
    ) -> Result<Self, BuildError> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if config.workers == 0 { cores() } else { config.workers };
        let descriptors = lobby::raise_descriptor_limit();
        let shared = Shared {
            gateway,
            limits: Limits::new(config.max_unfinished, config.max_https, workers, descriptors),
            timeouts: Timeouts {
                tls_handshake: Duration::from_secs(config.tls_handshake_seconds),
                mqtt_connect: Duration::from_secs(config.mqtt_connect_seconds),
                http_head: Duration::from_secs(config.http_head_seconds),
                http_body: Duration::from_secs(config.http_body_seconds),
            },
            mqtt_tls: tls.config(&[])?,
            https_tls: tls.config(&[ALPN_HTTP])?,
        };
        Ok(Self { listeners, workers, shared, tls, health })
    }

    /// Serves until shutdown; then accepts no more, lets what is in flight come to its end, and
    /// closes every connection. Fails if a thread dies.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), RunError> {
        let starting = (0..self.workers).map(|number| Thread::start(number, self.shared.clone()));
        let threads = join_all(starting).await.into_iter().collect::<io::Result<Vec<_>>>()?;
        let threads = Arc::new(threads);
        let mut tasks = JoinSet::new();
        tasks.spawn(self.tls.watch(shutdown.clone()));
        for (listener, head) in
            [(self.listeners.mqtt, Head::Mqtt), (self.listeners.https, Head::Https)]
        {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.spawn(accept(listener, head, threads.clone()));
        }
        self.health.set_ready(true);
        let died = tokio::select! {
            // First: with the shutdown the others end too.
            biased;
            () = shutdown.cancelled() => None,
            () = any_gone(&threads) => Some("a connection thread died"),
            // None of them ends before the shutdown, but by a panic.
            Some(_) = tasks.join_next() => Some("a listener died"),
        };
        self.health.set_ready(false);
        // With the tasks go the listeners: who comes now is refused by the kernel.
        tasks.shutdown().await;
        if let Some(threads) = Arc::into_inner(threads) {
            // All are told at once: one that waits for its messages must not hold up the others.
            let patience = self.shared.patience() + STUCK;
            let stopping = join_all(threads.into_iter().map(Thread::stop));
            if tokio::time::timeout(patience, stopping).await.is_err() {
                tracing::warn!("a connection thread does not end, it is left behind");
            }
        }
        died.map_or(Ok(()), |died| Err(died.into()))
    }
}

async fn any_gone(threads: &[Thread]) {
    select_all(threads.iter().map(|thread| Box::pin(thread.gone()))).await;
}

/// Accepts, and hands round. Runs until it is dropped.
async fn accept(listener: tokio::net::TcpListener, head: Head, threads: Arc<Vec<Thread>>) {
    for thread in threads.iter().cycle() {
        // Taken off this runtime again: the connection lives on its thread's.
        match listener.accept().await.and_then(|(socket, _)| {
            socket.set_nodelay(true)?;
            socket.into_std()
        }) {
            Ok(socket) => hand_over(thread, &threads, head, socket).await,
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                tracing::warn!(%error, ?head, "cannot accept, trying again in {ACCEPT_PAUSE:?}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// To the thread whose turn it is, or to another that has room, or to the first again when it has.
async fn hand_over(first: &Thread, threads: &[Thread], head: Head, socket: TcpStream) {
    let mut socket = socket;
    for thread in [first].into_iter().chain(threads) {
        match thread.try_take(head, socket) {
            Ok(()) => return,
            Err(back) => socket = back,
        }
    }
    first.take(head, socket).await;
}

/// The client went away before it was accepted.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset | Kind::InvalidInput)
}
