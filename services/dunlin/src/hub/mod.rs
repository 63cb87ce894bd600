//! A hub in this process: the roles it runs, put together. `dunlin up`, `dunlin run` and tests
//! start the same.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use axum::Router;
use dunlin_auth::ConnectionString;
use dunlin_auth::Key;
use dunlin_auth::connection_string::Signer;
use dunlin_auth::policy::OWNER;
use dunlin_gateway::{Addresses, TlsFiles};
use dunlin_proto::v1::GetPolicyRequest;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_registry::MasterKey;
use dunlin_runtime::metrics::Registry;
use dunlin_runtime::stores::StoreObserver;
use dunlin_runtime::{
    Clock, Component, DeviceLinks, Health, Mesh, Role, Shutdown, Telemetry, memory,
};
use dunlin_storage::EventLog;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tonic::Code;
use tracing::{info, warn};

use crate::config::Config;

mod admin;
mod needs;
mod process;
mod stores;

use needs::Needs;
pub use stores::Stores;

/// What takes the place of an HTTPS port 443 that is not permitted.
const HTTPS_INSTEAD: u16 = 8443;
/// How long open calls of other processes are waited for at the end.
const CALLS_END: Duration = Duration::from_secs(5);
/// Between two calls of a registry that is not there yet.
const AGAIN: Duration = Duration::from_millis(200);

/// What a hub is started from.
pub struct Settings {
    pub config: Config,
    /// Whether the HTTPS port was asked for: then no other is taken instead.
    pub https_port_asked: bool,
    pub roles: Vec<Role>,
    pub stores: Stores,
    /// The registry's.
    pub master_key: Option<MasterKey>,
    /// A gateway's.
    pub tls: Option<TlsFiles>,
    /// By which C2D messages expire and their locks end.
    pub clock: Clock,
}

/// A hub that runs. Its stores stay open until whoever opened them closes them.
pub struct Hub {
    hostname: String,
    mesh: Mesh,
    /// Of the gateway, if it runs here.
    pub gateway: Option<Addresses>,
    pub admin: SocketAddr,
    health: Vec<Health>,
    needs: Needs,
    /// Whether clients know where to find it: `/readyz` tells of that too.
    announced: Health,
    roles: JoinSet<Result<()>>,
    servers: JoinSet<Result<()>>,
    stop_roles: Shutdown,
    stop_servers: Shutdown,
}

impl Hub {
    /// Builds and starts the roles. They answer when this returns, though one may still be getting
    /// ready.
    pub async fn start(settings: Settings) -> Result<Self> {
        let Settings { mut config, https_port_asked, roles, stores, master_key, tls, clock } =
            settings;
        let mesh_listener = match config.mesh.listen.as_str() {
            "" => None,
            address => {
                let listener = listen(address, "other processes (mesh.listen)").await?;
                // Port 0 has become a number that others can be told.
                config.mesh.listen = listener.local_addr()?.to_string();
                Some(listener)
            }
        };
        let admin_address = SocketAddr::new(config.admin.bind, config.admin.port);
        let admin_listener = listen(admin_address, "health and metrics (--admin-port)").await?;
        let admin = admin_listener.local_addr()?;

        let telemetry = Telemetry::open(&config.telemetry, instance(&config), &roles)?;
        let observer = StoreObserver::new(telemetry.clone());
        let log = stores.events.clone();
        let stores = stores.observed(&config.stores, &observer);
        let mesh = Mesh::open(config.mesh.clone(), &roles, Handle::current(), telemetry)?;
        let mut metrics = Registry::default();
        mesh.register(&mut metrics);
        observer.register(&mut metrics);
        if let Some(listener) = &mesh_listener
            && !mesh.has_tls()
            && !listener.local_addr()?.ip().is_loopback()
        {
            let address = &config.mesh.listen;
            warn!(address, "other processes are served unauthenticated: keep others out");
        }
        let (mut components, mut gateway) = (Vec::new(), None);
        for role in &roles {
            components.push(match role {
                Role::Registry => {
                    let registry = dunlin_registry::Context {
                        config: dunlin_registry::Config {
                            hostnames: config.names(),
                            twins: config.twins.clone(),
                        },
                        store: stores.devices.clone(),
                        links: DeviceLinks::new(mesh.clone(), stores.presence.clone()),
                        presence: stores.presence.clone(),
                        master_key: master_key.clone().context("the registry has no master key")?,
                    };
                    dunlin_registry::build(registry).await?
                }
                Role::Twins => dunlin_twins::build(dunlin_twins::Context {
                    limits: config.twins.clone(),
                    store: stores.twins.clone(),
                    links: DeviceLinks::new(mesh.clone(), stores.presence.clone()),
                }),
                Role::Methods => dunlin_methods::build(dunlin_methods::Context {
                    config: config.methods.clone(),
                    mesh: mesh.clone(),
                    links: DeviceLinks::new(mesh.clone(), stores.presence.clone()),
                })?,
                Role::C2d => dunlin_c2d::build(dunlin_c2d::Context {
                    config: config.c2d.clone(),
                    store: stores.commands.clone(),
                    links: DeviceLinks::new(mesh.clone(), stores.presence.clone()),
                    clock: clock.clone(),
                })?,
                Role::Api => dunlin_api::build(dunlin_api::Context {
                    mesh: mesh.clone(),
                    events: stores.events.clone(),
                })?,
                Role::Gateway => {
                    let tls = tls.clone().context("the gateway has no certificate")?;
                    let (component, addresses) =
                        build_gateway(&config, https_port_asked, &mesh, &stores, &log, &tls)?;
                    gateway = Some(addresses);
                    component
                }
            });
        }

        let mut hub = Self {
            hostname: config.hostname().to_owned(),
            needs: Needs::new(&roles, &mesh, &stores),
            mesh,
            gateway,
            admin,
            health: components.iter().map(|component| component.health.clone()).collect(),
            announced: Health::new("hub"),
            roles: JoinSet::new(),
            servers: JoinSet::new(),
            stop_roles: Shutdown::new(),
            stop_servers: Shutdown::new(),
        };
        hub.run(components, metrics, mesh_listener, admin_listener);
        Ok(hub)
    }

    /// Attaches all routes first: a role may call any other from its first moment on.
    fn run(
        &mut self,
        components: Vec<Component>,
        metrics: Registry,
        mesh_listener: Option<TcpListener>,
        admin_listener: TcpListener,
    ) {
        let mut routes = Router::new();
        let (mut starts, mut metrics) = (Vec::new(), vec![metrics]);
        for component in components {
            routes = routes.merge(component.routes);
            metrics.push(component.metrics);
            starts.push((component.role, component.run));
        }
        self.mesh.attach(routes);
        if let Some(listener) = mesh_listener {
            let (mesh, stop) = (self.mesh.clone(), self.stop_servers.clone());
            self.servers.spawn(async move { Ok(mesh.serve(listener, stop).await?) });
        }
        let health = self.health.iter().chain([&self.announced]).cloned().collect();
        // Not one of those whose end is the hub's: it is a comfort.
        tokio::spawn(memory::keep_trimmed(self.stop_servers.clone()));
        let admin = admin::router(health, self.needs.clone(), metrics);
        let stop = self.stop_servers.clone();
        self.servers.spawn(async move {
            let served = axum::serve(admin_listener, admin);
            Ok(served.with_graceful_shutdown(stop.cancelled_owned()).await?)
        });
        for (role, start) in starts {
            let running = start(self.stop_roles.clone());
            self.roles.spawn(async move {
                running.await.map_err(|error| anyhow!(error).context(format!("{role} failed")))
            });
        }
    }

    /// Returns when every role is ready, or with the failure of one that cannot be.
    pub async fn ready(&mut self) -> Result<()> {
        // Readiness is a flag for /readyz, without notice to anybody: it is looked at.
        let mut look = tokio::time::interval(Duration::from_millis(2));
        while !self.health.iter().all(Health::is_ready) {
            tokio::select! {
                _ = look.tick() => {}
                failure = self.failed() => return Err(failure),
            }
        }
        Ok(())
    }

    /// From now on `/readyz` says so. For who started the hub, when he has told where it is: who
    /// waits for `/readyz` finds hub.json in place.
    pub fn announce(&self) {
        self.announced.set_ready(true);
    }

    /// The failure that ends the hub. Pending as long as all is well.
    pub async fn failed(&mut self) -> anyhow::Error {
        let (what, ended) = tokio::select! {
            Some(ended) = self.roles.join_next() => ("a role", ended),
            Some(ended) = self.servers.join_next() => ("a listener", ended),
            else => return anyhow!("nothing is left of the hub"),
        };
        match ended {
            Ok(Ok(())) => anyhow!("{what} ended without being asked to"),
            Ok(Err(error)) => error,
            Err(panic) => anyhow!(panic).context(format!("{what} panicked")),
        }
    }

    /// Ends the roles, each in its own time, and then what they were reached by.
    pub async fn stop(mut self) {
        self.announced.set_ready(false);
        self.stop_roles.cancel();
        while let Some(ended) = self.roles.join_next().await {
            if let Ok(Err(error)) = ended {
                warn!(error = format!("{error:#}"), "a role ended badly");
            }
        }
        self.stop_servers.cancel();
        let calls = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(CALLS_END, calls).await.is_err() {
            warn!("calls of other processes are cut off");
        }
        self.mesh.detach();
        self.mesh.telemetry().close().await;
        info!("stopped");
    }

    /// The name other processes reach this one by.
    pub fn node(&self) -> &str {
        self.mesh.node()
    }

    /// The connection string of the policy that may do everything. The host name carries the
    /// HTTPS port unless that is the usual one. Waits for the registry, which may still be starting
    /// somewhere else.
    pub fn owner_connection_string(
        &self,
        https_port: u16,
    ) -> impl Future<Output = Result<ConnectionString>> + use<> {
        let channel = self.mesh.channel(Role::Registry);
        let host = match https_port {
            443 => self.hostname.clone(),
            port => format!("{}:{port}", self.hostname),
        };
        async move {
            let mut registry = RegistryClient::new(channel?);
            let mut told = false;
            let policy = loop {
                let request = GetPolicyRequest { name: OWNER.to_owned() };
                match registry.get_policy(request).await {
                    Ok(policy) => break policy.into_inner(),
                    Err(error) if error.code() == Code::Unavailable => {
                        if !std::mem::replace(&mut told, true) {
                            warn!(error = error.message(), "waiting for the registry");
                        }
                        tokio::time::sleep(AGAIN).await;
                    }
                    Err(error) => return Err(error).context("cannot read the owner policy"),
                }
            };
            let key = Key::from_base64(&policy.primary_key)?;
            Ok(ConnectionString { host, signer: Signer::Policy(policy.name), key })
        }
    }
}

/// This process, as traces name it.
fn instance(config: &Config) -> &str {
    let names = [&config.mesh.advertise, &config.mesh.listen];
    names.into_iter().find(|name| !name.is_empty()).map_or(config.hostname(), String::as_str)
}

fn build_gateway(
    config: &Config,
    https_port_asked: bool,
    mesh: &Mesh,
    stores: &Stores,
    log: &Arc<dyn EventLog>,
    tls: &TlsFiles,
) -> Result<(Component, Addresses)> {
    let build = |config: &Config| {
        dunlin_gateway::build(dunlin_gateway::Context {
            hostnames: config.names(),
            config: config.gateway.clone(),
            mesh: mesh.clone(),
            // The log itself: appending is the hot path.
            events: log.clone(),
            presence: stores.presence.clone(),
            tls: tls.clone(),
        })
    };
    let built = match build(config) {
        Err(dunlin_gateway::BuildError::Bind { address, source, .. })
            if source.kind() == ErrorKind::PermissionDenied
                && address.port() == config.gateway.https_port
                && !https_port_asked =>
        {
            warn!(port = HTTPS_INSTEAD, "port {} is not permitted: another one", address.port());
            let mut config = config.clone();
            config.gateway.https_port = HTTPS_INSTEAD;
            build(&config)
        }
        built => built,
    };
    built.map_err(|error| match error {
        dunlin_gateway::BuildError::Bind { .. } => {
            let why = anyhow!(error);
            anyhow!("{why:#}; choose another port (--mqtt-port, --https-port) or address (--bind)")
        }
        other => anyhow!(other),
    })
}

async fn listen(
    address: impl tokio::net::ToSocketAddrs + std::fmt::Display,
    what: &str,
) -> Result<TcpListener> {
    let text = address.to_string();
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {text} for {what}"))
}
