//! Connection threads: an ntex runtime each, which is handed accepted sockets and keeps them for
//! life.

use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dunlin_runtime::Shutdown;
use ntex::SharedCfg;
use ntex::io::Io;
use rustls::ServerConfig;
use tokio::sync::{mpsc, oneshot};

use crate::gateway::Gateway;
use crate::lobby::{Limits, Lobby, Seat, Waiting};
use crate::worker::Worker;
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

/// Where MQTT connections of a thread go, whatever carries them.
#[derive(Clone)]
pub struct Devices {
    pub worker: Rc<Worker>,
    pub lobby: Rc<Lobby>,
}

/// Accepted sockets that may wait for their thread, of each head: they are descriptors that the
/// lobby does not count yet. The others wait in the kernel's queue.
const HANDED_OVER: usize = 16;
/// Sockets a thread takes before its connections have their turn.
const AT_ONCE: usize = 8;

/// How long a thread that is told to end waits for messages and requests in flight, once every
/// device was told to go: as long as the API may take over a request.
const DRAIN: Duration = Duration::from_secs(10);

impl Shared {
    /// How long a drain that begins now may take.
    pub fn patience(&self) -> Duration {
        let devices = u32::try_from(self.limits.devices()).unwrap_or(u32::MAX);
        self.gateway.pace.lasts(devices) + DRAIN
    }
}

/// A running connection thread. It drains and ends when this is dropped.
pub struct Thread {
    mqtt: mpsc::Sender<TcpStream>,
    https: mpsc::Sender<TcpStream>,
    /// Cancelled when the thread is gone, whatever ended it.
    gone: Shutdown,
}

impl Thread {
    /// Starts a thread; resolves when it can take connections.
    pub async fn start(number: usize, shared: Shared) -> std::io::Result<Self> {
        let (mqtt, mqtt_sockets) = mpsc::channel(HANDED_OVER);
        let (https, https_sockets) = mpsc::channel(HANDED_OVER);
        let (ready, is_ready) = oneshot::channel();
        let gone = Shutdown::new();
        let goes = gone.clone().drop_guard();
        std::thread::Builder::new().name(format!("gateway-{number}")).spawn(move || {
            let system = ntex::rt::System::build()
                .name("gateway")
                .disable_signals()
                .build(ntex::rt::DefaultRuntime);
            system.block_on(async move {
                let (worker, running) = Worker::start(shared.gateway.clone(), Arc::default());
                let devices = Devices { worker, lobby: shared.limits.mqtt_lobby() };
                let https = shared.limits.https_lobby();
                let serving = async {
                    tokio::join!(
                        serve_mqtt(&shared, &devices, mqtt_sockets),
                        serve_https(&shared, &https, &devices, https_sockets),
                    );
                    drain(&devices.worker, &devices.lobby, &https, shared.patience()).await;
                };
                // Nobody waits any more only if the process is ending.
                let _ = ready.send(());
                tokio::select! {
                    // It never ends by itself, and without it nothing is acknowledged here.
                    _ = running => tracing::error!("a connection worker died: please report this"),
                    () = serving => {}
                }
            });
            drop(goes);
        })?;
        is_ready
            .await
            .map_err(|_| std::io::Error::other("a connection thread died at its start"))?;
        Ok(Self { mqtt, https, gone })
    }

    fn sockets(&self, head: Head) -> &mpsc::Sender<TcpStream> {
        match head {
            Head::Mqtt => &self.mqtt,
            Head::Https => &self.https,
        }
    }

    /// Hands it an accepted socket, if it has room for one more to wait.
    pub fn try_take(&self, head: Head, socket: TcpStream) -> Result<(), TcpStream> {
        self.sockets(head).try_send(socket).map_err(mpsc::error::TrySendError::into_inner)
    }

    /// Hands it an accepted socket when it has room. A thread that has died closes it, and ends
    /// the server.
    pub async fn take(&self, head: Head, socket: TcpStream) {
        let _ = self.sockets(head).send(socket).await;
    }

    /// Resolves when the thread is gone, which before a shutdown means that it died.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Has it drain and end, and waits for that.
    pub async fn stop(self) {
        drop((self.mqtt, self.https));
        self.gone.cancelled().await;
    }
}

async fn serve_mqtt(shared: &Shared, devices: &Devices, mut sockets: mpsc::Receiver<TcpStream>) {
    take_turns(&devices.lobby, &mut sockets, |io, place| {
        let (worker, tls) = (devices.worker.clone(), shared.mqtt_tls.clone());
        ntex::rt::spawn(mqtt::serve(io, worker, place, tls, shared.timeouts));
    })
    .await;
}

async fn serve_https(
    shared: &Shared,
    lobby: &Rc<Lobby>,
    devices: &Devices,
    mut sockets: mpsc::Receiver<TcpStream>,
) {
    take_turns(lobby, &mut sockets, |io, place| {
        let (devices, tls) = (devices.clone(), shared.https_tls.clone());
        ntex::rt::spawn(https::serve(io, devices, place, tls, shared.timeouts));
    })
    .await;
}

/// Lets what is in flight come to its end: who is connected is closed when its messages are
/// acknowledged or its request is answered, who comes in is told to come back (CONNACK 3).
async fn drain(worker: &Worker, mqtt: &Lobby, https: &Lobby, patience: Duration) {
    let devices = worker.queue.drain();
    let all = async { tokio::join!(devices, mqtt.drain(), https.drain()) };
    if tokio::time::timeout(patience, all).await.is_err() {
        tracing::warn!("connections are cut off {patience:?} after the shutdown");
    }
}

/// Starts connections as the lobby has room, some at a time.
async fn take_turns(
    lobby: &Rc<Lobby>,
    sockets: &mut mpsc::Receiver<TcpStream>,
    start: impl Fn(Io, (Seat, Waiting)),
) {
    let config: SharedCfg = SharedCfg::new("gateway").into();
    for turn in 1.. {
        // Who was accepted before the end is still let in, and is not kept waiting.
        if !sockets.is_closed() {
            lobby.room().await;
        }
        let Some(socket) = sockets.recv().await else { return };
        match ntex::rt::from_tcp_stream(socket, config.clone()) {
            // Here and not in its task, so that it counts before the next one is let in. Where
            // there is no room at all the socket closes.
            Ok(io) => {
                if let Some(place) = lobby.enter(io.get_ref()) {
                    start(io, place);
                }
            }
            Err(error) => tracing::warn!(%error, "an accepted socket cannot be served"),
        }
        if turn % AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
    }
}
