//! The ntex server: listeners, connection threads, and their end.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dunlin_runtime::component::RunError;
use dunlin_runtime::{Health, Shutdown};
use ntex::io::Io;
use ntex::service::fn_factory;
use ntex::{SharedCfg, fn_service};
use rustls::ServerConfig;
use tokio::sync::{oneshot, watch};

use crate::gateway::Gateway;
use crate::tls::{ALPN_HTTP, TlsServer};
use crate::worker::{Queue, Worker};
use crate::{Addresses, BuildError, Config, Timeouts, https, mqtt};

/// Connections that may wait to be accepted: what a reconnect storm needs.
const BACKLOG: i32 = 4096;
/// How long a shutdown waits for messages in flight.
const DRAIN_WAIT: Duration = Duration::from_secs(5);

/// Bound sockets, not yet accepting.
pub struct Listeners {
    mqtt: TcpListener,
    https: TcpListener,
    pub addresses: Addresses,
}

impl Listeners {
    pub fn bind(config: &Config) -> Result<Self, BuildError> {
        let mqtt = listen("MQTT", SocketAddr::new(config.bind, config.mqtt_port))?;
        let https = listen("HTTPS", SocketAddr::new(config.bind, config.https_port))?;
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

fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, BuildError> {
    ntex::server::create_tcp_listener(address, BACKLOG).map_err(|source| BuildError::Bind {
        what,
        address,
        source,
    })
}

/// A gateway's server, ready to run.
pub struct Server {
    listeners: Listeners,
    workers: usize,
    timeouts: Timeouts,
    gateway: Arc<Gateway>,
    tls: TlsServer,
    mqtt_tls: Arc<ServerConfig>,
    https_tls: Arc<ServerConfig>,
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
        Ok(Self {
            listeners,
            workers: if config.workers == 0 { cores() } else { config.workers },
            timeouts: Timeouts {
                tls_handshake: Duration::from_secs(config.tls_handshake_seconds),
                mqtt_connect: Duration::from_secs(config.mqtt_connect_seconds),
                http_head: Duration::from_secs(config.http_head_seconds),
            },
            gateway,
            mqtt_tls: tls.config(&[])?,
            https_tls: tls.config(&[ALPN_HTTP])?,
            tls,
            health,
        })
    }

    /// Serves until shutdown; then accepts no more, lets messages in flight be acknowledged, and
    /// closes every connection.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), RunError> {
        let queues = Arc::new(Mutex::new(Vec::new()));
        let health = self.health.clone();
        let certificates = tokio::spawn(self.tls.watch(shutdown.clone()));
        let (all_ready, mut is_ready) = watch::channel(false);
        let (stop, is_stopped) = oneshot::channel();
        let (ended, has_ended) = oneshot::channel();
        let front = Front {
            listeners: self.listeners,
            workers: self.workers,
            timeouts: self.timeouts,
            gateway: self.gateway,
            mqtt_tls: self.mqtt_tls,
            https_tls: self.https_tls,
            queues: queues.clone(),
            all_ready,
        };
        // ntex owns the thread it runs on.
        std::thread::Builder::new().name("gateway".into()).spawn(move || {
            let system = ntex::rt::System::build()
                .name("gateway")
                .disable_signals()
                .build(ntex::rt::DefaultRuntime);
            let result = system.block_on(front.run(is_stopped));
            // The receiver is gone only if the process is ending anyway.
            let _ = ended.send(result);
        })?;
        // No sign at all: the thread has died.
        if is_ready.wait_for(|ready| *ready).await.is_ok() {
            health.set_ready(true);
            shutdown.cancelled().await;
            health.set_ready(false);
            let queues = queues.lock().unwrap_or_else(PoisonError::into_inner).clone();
            drop(stop.send(queues));
        }
        let result = has_ended.await.map_err(|_| "the gateway's thread died")?;
        certificates.abort();
        Ok(result?)
    }
}

/// What moves to the server's own thread.
struct Front {
    listeners: Listeners,
    workers: usize,
    timeouts: Timeouts,
    gateway: Arc<Gateway>,
    mqtt_tls: Arc<ServerConfig>,
    https_tls: Arc<ServerConfig>,
    /// One per worker, as they start.
    queues: Arc<Mutex<Vec<Arc<Queue>>>>,
    all_ready: watch::Sender<bool>,
}

impl Front {
    async fn run(self, stop: oneshot::Receiver<Vec<Arc<Queue>>>) -> std::io::Result<()> {
        let Self { listeners, workers, timeouts, gateway, mqtt_tls, https_tls, .. } = self;
        // Descriptors are the limit, not this count.
        let builder =
            ntex::server::build().disable_signals().workers(workers).maxconn(usize::MAX / 2);

        let ready = Arc::new(AtomicUsize::new(0));
        let (for_mqtt, worker_queues, all_ready) = (gateway.clone(), self.queues, self.all_ready);
        let builder = builder.listen("mqtt", listeners.mqtt, async move |_| {
            let (gateway, tls, queues) =
                (for_mqtt.clone(), mqtt_tls.clone(), worker_queues.clone());
            let (ready, all_ready) = (ready.clone(), all_ready.clone());
            fn_factory(async move || {
                let queue = Arc::new(Queue::default());
                queues.lock().unwrap_or_else(PoisonError::into_inner).push(queue.clone());
                let worker = Worker::start(gateway.clone(), queue);
                if ready.fetch_add(1, Ordering::AcqRel) + 1 == workers {
                    all_ready.send_replace(true);
                }
                let tls = tls.clone();
                Ok::<_, ()>(fn_service(move |io: Io| {
                    // A task of its own, so that ntex' call future ends at once.
                    ntex::rt::spawn(mqtt::serve(io, worker.clone(), tls.clone(), timeouts));
                    std::future::ready(Ok::<_, ()>(()))
                }))
            })
        })?;
        let builder = builder.listen("https", listeners.https, async move |_| {
            let (gateway, tls) = (gateway.clone(), https_tls.clone());
            fn_service(move |io: Io| {
                ntex::rt::spawn(https::serve(io, gateway.clone(), tls.clone(), timeouts));
                std::future::ready(Ok::<_, ()>(()))
            })
        })?;
        let server = builder.config("mqtt", SharedCfg::new("mqtt")).run();

        let queues = stop.await.unwrap_or_default();
        server.pause().await;
        // All are told at once: one that waits for its messages must not hold up the others.
        let drains: Vec<_> = queues.iter().map(|queue| queue.drain()).collect();
        let drained = async {
            for drain in drains {
                let _ = drain.await;
            }
        };
        if tokio::time::timeout(DRAIN_WAIT, drained).await.is_err() {
            tracing::warn!(
                "some devices were still connected {DRAIN_WAIT:?} after the shutdown began"
            );
        }
        server.stop(false).await;
        Ok(())
    }
}
