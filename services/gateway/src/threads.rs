//! Connection threads: an ntex runtime each, which is handed accepted sockets and keeps them for
//! life.

use std::net::TcpStream;
use std::sync::Arc;

use dunlin_runtime::Shutdown;
use ntex::SharedCfg;
use rustls::ServerConfig;
use tokio::sync::{mpsc, oneshot};

use crate::gateway::Gateway;
use crate::lobby::Limits;
use crate::worker::{Queue, Worker};
use crate::{Timeouts, https, mqtt};

/// Which head a socket was accepted for.
#[derive(Clone, Copy, Debug)]
pub enum Head {
    Mqtt,
    Https,
}

/// What every thread serves its connections with.
#[derive(Clone)]
pub struct Shared {
    pub gateway: Arc<Gateway>,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub mqtt_tls: Arc<ServerConfig>,
    pub https_tls: Arc<ServerConfig>,
}

/// A running connection thread. It ends, and its connections with it, when this is dropped.
pub struct Thread {
    /// Unbounded, but the sockets in it are: they count against the lobby as soon as they arrive.
    sockets: mpsc::UnboundedSender<(Head, TcpStream)>,
    pub queue: Arc<Queue>,
    /// Cancelled when the thread is gone, whatever ended it.
    gone: Shutdown,
}

impl Thread {
    /// Starts a thread; resolves when it can take connections.
    pub async fn start(number: usize, shared: Shared) -> std::io::Result<Self> {
        let (sockets, accepted) = mpsc::unbounded_channel();
        let (ready, is_ready) = oneshot::channel();
        let gone = Shutdown::new();
        let goes = gone.clone().drop_guard();
        let queue = Arc::<Queue>::default();
        let for_worker = queue.clone();
        std::thread::Builder::new().name(format!("gateway-{number}")).spawn(move || {
            let system = ntex::rt::System::build()
                .name("gateway")
                .disable_signals()
                .build(ntex::rt::DefaultRuntime);
            system.block_on(async move {
                let worker = Worker::start(shared.gateway.clone(), for_worker);
                // Nobody waits any more only if the process is ending.
                let _ = ready.send(());
                serve(shared, worker, accepted).await;
            });
            drop(goes);
        })?;
        is_ready
            .await
            .map_err(|_| std::io::Error::other("a connection thread died at its start"))?;
        Ok(Self { sockets, queue, gone })
    }

    /// Hands it an accepted socket. A thread that has died closes it, and ends the server.
    pub fn take(&self, head: Head, socket: TcpStream) {
        let _ = self.sockets.send((head, socket));
    }

    /// Resolves when the thread is gone, which before a shutdown means that it died.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Closes what is still connected and waits for the thread.
    pub async fn stop(self) {
        drop(self.sockets);
        self.gone.cancelled().await;
    }
}

async fn serve(
    shared: Shared,
    worker: std::rc::Rc<Worker>,
    mut accepted: mpsc::UnboundedReceiver<(Head, TcpStream)>,
) {
    let Shared { gateway, limits, timeouts, mqtt_tls, https_tls } = shared;
    let (mqtt_lobby, https_lobby) = (limits.mqtt_lobby(), limits.https_lobby());
    let config: SharedCfg = SharedCfg::new("gateway").into();
    while let Some((head, socket)) = accepted.recv().await {
        let io = match ntex::rt::from_tcp_stream(socket, config.clone()) {
            Ok(io) => io,
            Err(error) => {
                tracing::warn!(%error, "an accepted socket cannot be served");
                continue;
            }
        };
        match head {
            Head::Mqtt => {
                let (worker, lobby, tls) = (worker.clone(), mqtt_lobby.clone(), mqtt_tls.clone());
                ntex::rt::spawn(mqtt::serve(io, worker, lobby, tls, timeouts));
            }
            Head::Https => {
                let (gateway, lobby, tls) =
                    (gateway.clone(), https_lobby.clone(), https_tls.clone());
                ntex::rt::spawn(https::serve(io, gateway, lobby, tls, timeouts));
            }
        }
    }
}
