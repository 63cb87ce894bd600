//! The gateway: the heads devices connect to, over one protocol-free session. It holds live
//! connections and nothing else.

mod background;
mod commands;
mod gateway;
mod https;
mod lease;
mod link;
mod lobby;
mod metrics;
mod mqtt;
mod pace;
mod queue;
mod reports;
mod server;
mod session;
mod sessions;
mod table;
mod threads;
pub mod tls;
mod twin;
mod worker;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::time::Duration;

use dunlin_runtime::mesh::MeshError;
use dunlin_runtime::{Component, DeviceLinks, Health, Mesh, Role, Turns};
use dunlin_storage::{EventLog, Presence};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use gateway::Gateway;
pub use tls::{CertificateError, TlsFiles};

/// What reads bytes of strangers, for `fuzz/`.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::mqtt::{bag, frame, topic, username};
}

/// The heads and their limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address all listeners bind to.
    pub bind: IpAddr,
    /// MQTT over TLS. Official SDKs know no other port than 8883.
    pub mqtt_port: u16,
    /// HTTPS. Official SDKs know no other port than 443; 8443 is taken where 443 is not permitted.
    pub https_port: u16,
    /// Whether other gateways of this user may listen on the same ports: the kernel hands each
    /// connection to one of them. Every one of them must say so.
    pub share_ports: bool,
    /// Connection threads; 0: as many as there are processors.
    pub workers: usize,
    /// Devices that may be authenticated at once, connecting or by HTTPS; the next are told to come
    /// back (CONNACK 3, 503).
    pub max_connecting: usize,
    /// Connections each head keeps that have not finished TLS or not said who they are, and HTTPS
    /// connections without a request: when one more comes, the oldest is closed. 0: an eighth of
    /// the process' descriptor limit, 2,048 at most.
    pub max_unfinished: usize,
    /// HTTPS connections at most, which devices leave room for; 0: an eighth of what the descriptor
    /// limit allows. Those that have become WebSockets count as devices.
    pub max_https: usize,
    /// Seconds a TLS handshake may take.
    pub tls_handshake_seconds: u64,
    /// Seconds from the end of the handshake in which a CONNECT must have arrived.
    pub mqtt_connect_seconds: u64,
    /// Seconds in which the head of an HTTP request must have arrived, from the end of the last one.
    pub http_head_seconds: u64,
    /// Seconds in which the body of an HTTP request must have arrived, and a client must have taken
    /// what it is sent.
    pub http_body_seconds: u64,
    /// Devices that are sent away a second when the hub stops, so that whoever takes them keeps up;
    /// 0: all at once. Give the process that long before it is killed (Kubernetes:
    /// `terminationGracePeriodSeconds`), and 20 seconds more.
    pub drain_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            mqtt_port: 8883,
            https_port: 443,
            share_ports: false,
            workers: 0,
            max_connecting: 10_000,
            max_unfinished: 0,
            max_https: 0,
            tls_handshake_seconds: 10,
            mqtt_connect_seconds: 60,
            http_head_seconds: 30,
            http_body_seconds: 60,
            drain_per_second: 500,
        }
    }
}

/// How long a connection may take over its first steps.
#[derive(Clone, Copy, Debug)]
struct Timeouts {
    tls_handshake: Duration,
    mqtt_connect: Duration,
    http_head: Duration,
    http_body: Duration,
}

/// What a gateway is built from.
pub struct Context {
    pub config: Config,
    /// All names of this hub, any of which a device may use.
    pub hostnames: Vec<String>,
    pub mesh: Mesh,
    pub events: Arc<dyn EventLog>,
    pub presence: Arc<dyn Presence>,
    pub tls: TlsFiles,
}

/// What the listeners are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub mqtt: SocketAddr,
    pub https: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot listen on {address} for {what}")]
    Bind { what: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("cannot use the server certificate")]
    Certificate(#[from] CertificateError),
    #[error("cannot configure TLS")]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Mesh(#[from] MeshError),
}

/// Binds the listeners; devices are let in once the component runs.
pub fn build(context: Context) -> Result<(Component, Addresses), BuildError> {
    let Context { config, hostnames, mesh, events, presence, tls } = context;
    let listeners = server::Listeners::bind(&config)?;
    let addresses = listeners.addresses;
    let tls = tls::TlsServer::new(tls)?;
    let metrics = metrics::Metrics::default();
    let registry = metrics.registry(events.clone());
    let gateway = Arc::new(Gateway {
        hostnames,
        // One life of this process: what is said of an earlier one is not said of this.
        node: format!("{}#{:08x}", mesh.node(), fastrand::u32(..)),
        registry: mesh.channel(Role::Registry)?.gathered(),
        api: mesh.channel(Role::Api)?,
        twins: mesh.channel(Role::Twins)?.gathered(),
        c2d: mesh.channel(Role::C2d)?.gathered(),
        telemetry: mesh.telemetry().clone(),
        metrics,
        links: DeviceLinks::new(mesh, presence.clone()),
        presence,
        events,
        table: table::Table::default(),
        claims: Turns::default(),
        reports: reports::Reports::default(),
        restored: AtomicU32::new(0),
        sessions: sessions::Sessions::default(),
        senders: https::Senders::default(),
        runtime: Handle::current(),
        serials: AtomicU32::new(0),
        opening: AtomicUsize::new(0),
        max_opening: config.max_connecting,
        pace: pace::Pace::new(config.drain_per_second),
    });
    let routes = link::routes(gateway.clone());
    let health = Health::new(Role::Gateway.name());
    let told = gateway.clone();
    let server = server::Server::new(config, listeners, gateway, tls, health.clone())?;
    let component = Component {
        role: Role::Gateway,
        routes,
        health,
        metrics: registry,
        run: Box::new(|shutdown| {
            Box::pin(async move {
                let keeper = sessions::start(told.clone());
                let lease = lease::start(told.clone());
                let reporter = reports::start(told);
                let ended = server.run(shutdown).await;
                lease.finish().await;
                keeper.finish().await;
                reports::finish(reporter).await;
                ended
            })
        }),
    };
    Ok((component, addresses))
}
