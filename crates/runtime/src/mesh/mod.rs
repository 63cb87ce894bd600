//! `Mesh`: who serves what. A call goes to the in-process routes or to a remote process over
//! HTTP/2; the caller cannot tell (docs/adr/0001-mesh.md).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::middleware::{Next, from_fn_with_state};
use http::uri::Scheme;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::metrics::Registry;
use crate::{Role, Shutdown, Telemetry};

mod channel;
mod gathered;
mod observed;
mod peers;
mod tls;
mod unsent;

pub use channel::MeshChannel;
use channel::{Local, Target};
use observed::Observer;
use peers::{Peers, Place, Times, scheme, system_resolver};
use tls::Tls;
pub use tls::TlsError;

/// How long a call may take to its response head, unless its channel says otherwise.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// Where the roles are. A name may have several addresses, one a replica: they are called in turn,
/// and the name is looked up again while it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address this process serves its roles on, for others: `host:port`. Empty: for nobody. Without
    /// TLS, whoever reaches it may do everything and read every key: keep it on a network of the
    /// hub's own.
    pub listen: String,
    /// How other processes reach this one: `http://host:port`. Empty: made from `listen`.
    pub advertise: String,
    /// URL of the role `registry`, where another process runs it: `http://host:port`.
    pub registry: String,
    /// URL of the role `twins`, where another process runs it.
    pub twins: String,
    /// URL of the role `methods`, where another process runs it.
    pub methods: String,
    /// URL of the role `c2d`, where another process runs it.
    pub c2d: String,
    /// URL of the role `api`, where another process runs it.
    pub api: String,
    /// PEM file of this process's certificate chain, for TLS between the processes. The certificate
    /// names `dunlin`, is good for both sides of a connection, and is of the CA in `tls_ca`. URLs
    /// above begin with `https://` then. The files may be replaced while the hub runs. Empty: in the
    /// clear.
    pub tls_cert: PathBuf,
    /// PEM file of its private key.
    pub tls_key: PathBuf,
    /// PEM file of the CA of the mesh, and of nothing else: whoever has a certificate of it may do
    /// everything.
    pub tls_ca: PathBuf,
    /// Calls of other processes that may wait for this one's answer; the next are told at once to
    /// come back (503). A direct method waits for its device.
    pub max_calls: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: String::new(),
            advertise: String::new(),
            registry: String::new(),
            twins: String::new(),
            methods: String::new(),
            c2d: String::new(),
            api: String::new(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            tls_ca: PathBuf::new(),
            max_calls: const { NonZeroU32::new(10_000).expect("more than none") },
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    #[error("mesh.{setting} is not a URL of this mesh: {url:?}; write it as {scheme}://host:port")]
    BadUrl { setting: &'static str, url: String, scheme: Scheme },
    #[error(
        "mesh.listen is {listen}, which is no address that others can call this gateway by: set \
         mesh.advertise to one, as {scheme}://host:port"
    )]
    NoName { listen: String, scheme: Scheme },
    #[error("cannot use TLS between processes")]
    Tls(#[from] TlsError),
    #[error(
        "the role {role} runs neither here nor elsewhere: add it to --roles or set mesh.{role}"
    )]
    NoSuchRole { role: &'static str },
}

/// Knows, for each role, the way to it.
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

struct Inner {
    node: String,
    local_roles: Vec<Role>,
    config: Config,
    local: Arc<Local>,
    runtime: Handle,
    tls: Option<Tls>,
    observer: Observer,
    nodes: Mutex<HashMap<String, Arc<Peers>>>,
}

impl Mesh {
    /// A mesh of a process that runs `local_roles`. Calls are made on `runtime`, whatever thread
    /// they come from.
    pub fn open(
        config: Config,
        local_roles: &[Role],
        runtime: Handle,
        telemetry: Telemetry,
    ) -> Result<Self, MeshError> {
        let tls = Tls::new(&config)?;
        let scheme = scheme(tls.is_some());
        let url = &config.advertise;
        if !url.is_empty() && Place::parse(url, &scheme).is_none() {
            return Err(MeshError::BadUrl { setting: "advertise", url: url.clone(), scheme });
        }
        // Gateways are called by name; of any other role mesh.* of the others says where it is.
        let listens_anywhere = || {
            let address = config.listen.parse::<SocketAddr>();
            address.is_ok_and(|address| address.ip().is_unspecified())
        };
        if url.is_empty() && local_roles.contains(&Role::Gateway) && listens_anywhere() {
            return Err(MeshError::NoName { listen: config.listen, scheme });
        }
        Ok(Self::with_tls(config, local_roles, runtime, tls, telemetry))
    }

    /// The same in the clear and without traces, for who sets no files.
    pub fn new(config: Config, local_roles: &[Role], runtime: Handle) -> Self {
        Self::with_tls(config, local_roles, runtime, None, Telemetry::default())
    }

    fn with_tls(
        config: Config,
        local_roles: &[Role],
        runtime: Handle,
        tls: Option<Tls>,
        telemetry: Telemetry,
    ) -> Self {
        let scheme = scheme(tls.is_some());
        let node = match (config.advertise.as_str(), config.listen.as_str()) {
            ("", "") => "local".to_owned(),
            ("", listen) => format!("{scheme}://{listen}"),
            (advertise, _) => advertise.to_owned(),
        };
        Self {
            inner: Arc::new(Inner {
                node,
                local_roles: local_roles.to_vec(),
                config,
                local: Arc::default(),
                runtime,
                tls,
                observer: Observer::new(telemetry),
                nodes: Mutex::default(),
            }),
        }
    }

    /// This process's name, under which others reach it.
    pub fn node(&self) -> &str {
        &self.inner.node
    }

    /// The way to a role: in-process if it runs here.
    pub fn channel(&self, role: Role) -> Result<MeshChannel, MeshError> {
        if self.inner.local_roles.contains(&role) {
            return Ok(self.wrap(self.local()));
        }
        let url = match role {
            Role::Registry => &self.inner.config.registry,
            Role::Twins => &self.inner.config.twins,
            Role::Methods => &self.inner.config.methods,
            Role::C2d => &self.inner.config.c2d,
            Role::Api => &self.inner.config.api,
            // Gateways are reached by node, never as a role.
            Role::Gateway => "",
        };
        if url.is_empty() {
            return Err(MeshError::NoSuchRole { role: role.name() });
        }
        self.remote(url).map(|peers| self.wrap(Target::Remote(peers))).ok_or_else(|| {
            MeshError::BadUrl {
                setting: role.name(),
                url: url.to_owned(),
                scheme: scheme(self.inner.tls.is_some()),
            }
        })
    }

    /// The way to one process, by the name `node` of its mesh; what follows a `#` says which of its
    /// lives is meant, which is for the process to know. `None` for a name that is no URL.
    pub fn node_channel(&self, node: &str) -> Option<MeshChannel> {
        let node = node.split_once('#').map_or(node, |(url, _)| url);
        if node == self.inner.node {
            return Some(self.wrap(self.local()));
        }
        let mut nodes = self.inner.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peers) = nodes.get(node) {
            return Some(self.wrap(Target::Remote(peers.clone())));
        }
        // Processes come and go under ever new names.
        nodes.retain(|_, peers| !peers.is_unused());
        let peers = self.remote(node)?;
        nodes.insert(node.to_owned(), peers.clone());
        Some(self.wrap(Target::Remote(peers)))
    }

    /// Puts the routes of this process's roles in place. Called once, last: until then calls wait
    /// for nothing and are answered `Unavailable`, so roles may hold channels to one another.
    pub fn attach(&self, routes: axum::Router) {
        let telemetry = self.telemetry().clone();
        let routes = match telemetry.is_on() {
            true => routes.layer(from_fn_with_state(telemetry, observed::serve)),
            false => routes,
        };
        let before = self.inner.local.set(Some(Routes::from(routes).prepare()));
        assert!(before.is_none(), "routes are attached once");
    }

    /// Takes the routes away again, for the process's end: what serves them holds channels to them,
    /// and nobody would ever let go of the stores.
    pub fn detach(&self) {
        self.inner.local.set(None);
    }

    /// Serves the attached routes to other processes until shutdown.
    pub async fn serve(
        &self,
        listener: tokio::net::TcpListener,
        shutdown: Shutdown,
    ) -> Result<(), tonic::transport::Error> {
        let Some(routes) = self.routes() else { return Ok(()) };
        let server = Server::builder().add_routes(routes.prepare());
        let shutdown = shutdown.cancelled_owned();
        match &self.inner.tls {
            None => {
                // Small answers must not wait for the acknowledgement of those before them.
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                server.serve_with_incoming_shutdown(incoming, shutdown).await
            }
            Some(tls) => {
                let incoming = ReceiverStream::new(tls.accept(listener));
                server.serve_with_incoming_shutdown(incoming, shutdown).await
            }
        }
    }

    /// What others reach of the attached routes.
    fn routes(&self) -> Option<Routes> {
        let places = Arc::new(Semaphore::new(self.inner.config.max_calls.get() as usize));
        let bounded = from_fn_with_state(places, shed);
        let routes = Routes::from(self.inner.local.get()?.into_axum_router().layer(bounded));
        Some(routes.clone().add_service(gathered::server(routes.prepare())))
    }

    /// By which this process makes spans.
    pub fn telemetry(&self) -> &Telemetry {
        &self.inner.observer.telemetry
    }

    /// What is measured of calls.
    pub fn register(&self, registry: &mut Registry) {
        self.inner.observer.register(registry);
    }

    /// Whether other processes have to show who they are.
    pub fn has_tls(&self) -> bool {
        self.inner.tls.is_some()
    }

    fn local(&self) -> Target {
        Target::Local(self.inner.local.clone())
    }

    fn remote(&self, url: &str) -> Option<Arc<Peers>> {
        let Inner { tls, runtime, .. } = &*self.inner;
        let place = Place::parse(url, &scheme(tls.is_some()))?;
        Some(Peers::new(place, tls.clone(), system_resolver(), runtime, Times::default()))
    }

    fn wrap(&self, target: Target) -> MeshChannel {
        let Inner { runtime, observer, .. } = &*self.inner;
        MeshChannel::new(target, runtime.clone(), DEFAULT_DEADLINE, observer.clone())
    }
}

/// Answers at once who finds no place. A place is held to the response head: what streams after it
/// has bounds of its own.
async fn shed(
    State(places): State<Arc<Semaphore>>,
    request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    match places.try_acquire() {
        Ok(_place) => next.run(request).await,
        Err(_) => Status::unavailable("the process has as many calls as it takes").into_http(),
    }
}

/// An error with its causes, which say what happened.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests;
