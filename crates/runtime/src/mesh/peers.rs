//! The replicas behind one URL: looked up again and again, kept connected, called in turn.
//!
//! On hyper's connections, not on tonic's `Channel`: that tells neither which replica a call went to
//! nor whether it was sent, which decides whether another may be asked (docs/adr/0006-mesh-replicas.md).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::body::Body;

use super::chain;
use super::gathered::Gathered;
use super::tls::Tls;
use super::unsent::{Lent, Unsent};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long the resolver may take, and then a connection.
const LOOKUP: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(3);
/// The least time between two looks, however many calls ask for one.
const PAUSE: Duration = Duration::from_millis(100);
/// A peer that is silent for the first is asked whether it is there, and has the second to say so.
const SILENCE: Duration = Duration::from_secs(10);
const ALIVE: Duration = Duration::from_secs(5);

/// How many connections may turn out to be closed before a call is given up.
const TRIES: usize = 4;

const FLEETING: &str = "its connections end as soon as they begin";

/// How often a name in use is looked up, and how long after its last call it is in use.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub again: Duration,
    pub unused: Duration,
}

impl Default for Times {
    /// With `LOOKUP` and twice `CONNECT`, should the look before have met an address that does not
    /// answer, a new replica is called within ten seconds.
    fn default() -> Self {
        Self { again: Duration::from_secs(2), unused: Duration::from_secs(60) }
    }
}

type Addresses = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Finds the addresses a name has now, given as `host:port`.
pub(super) type Resolver = Arc<dyn Fn(String) -> Addresses + Send + Sync>;

/// What the system's resolver says: `/etc/hosts`, DNS. It has every address of a headless service.
pub(super) fn system_resolver() -> Resolver {
    Arc::new(|name| Box::pin(async { Ok(tokio::net::lookup_host(name).await?.collect()) }))
}

/// A URL, taken apart: whom to ask for.
pub(super) struct Place {
    authority: Authority,
    /// `host:port`
    name: String,
}

impl Place {
    /// `None`: that is no `scheme://host:port`.
    pub fn parse(url: &str, scheme: &Scheme) -> Option<Self> {
        let parts = url.parse::<Uri>().ok()?.into_parts();
        if parts.scheme? != *scheme || parts.path_and_query.is_some_and(|path| path != "/") {
            return None;
        }
        let authority = parts.authority?;
        let port = match authority.as_str().strip_prefix(authority.host())? {
            "" if *scheme == Scheme::HTTPS => 443,
            "" => 80,
            port => port.strip_prefix(':')?.parse::<u16>().ok()?,
        };
        Some(Self { name: format!("{}:{port}", authority.host()), authority })
    }
}

/// Whoever answers to a URL.
pub(super) struct Peers {
    shared: Arc<Shared>,
    gathered: Gathered,
    keeper: JoinHandle<()>,
}

pub(super) struct Shared {
    place: Place,
    tls: Option<Tls>,
    resolver: Resolver,
    times: Times,
    view: watch::Sender<View>,
    /// The name is to be looked up now.
    look: Notify,
    turn: AtomicUsize,
    used: Mutex<Instant>,
    /// Somebody has answered, so both sides speak the same.
    answered: AtomicBool,
}

/// What the last look found.
#[derive(Default)]
struct View {
    replicas: Vec<Replica>,
    looks: u64,
    /// What went wrong last, for the day when nobody is there.
    trouble: String,
}

struct Replica {
    address: SocketAddr,
    connection: SendRequest<Lent>,
}

impl Peers {
    pub fn new(
        place: Place,
        tls: Option<Tls>,
        resolver: Resolver,
        runtime: &Handle,
        times: Times,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared {
            place,
            tls,
            resolver,
            times,
            view: watch::Sender::default(),
            look: Notify::new(),
            turn: AtomicUsize::new(0),
            used: Mutex::new(Instant::now()),
            answered: AtomicBool::new(false),
        });
        // Connections must live on the main runtime, not on a connection worker.
        let keeper = runtime.spawn(keep(shared.clone()));
        let gathered = Gathered::new(shared.clone(), runtime);
        Arc::new(Self { shared, gathered, keeper })
    }

    /// Calls the replica whose turn it is.
    pub async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        self.shared.call(request).await
    }

    /// The same with a unary call that may go with others, and whose caller waits `until` then.
    pub async fn call_with_others(
        &self,
        request: Request<Body>,
        until: Instant,
    ) -> Result<Response<Body>, Status> {
        self.gathered.call(&self.shared, request, until).await
    }

    /// Whether a replica is connected.
    pub async fn reach(&self) -> Result<(), Status> {
        self.shared.use_now();
        self.shared.replica().await.map(drop)
    }

    /// Whether nobody has called for long.
    pub fn is_unused(&self) -> bool {
        self.shared.is_unused()
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Looks the name up while it is used: now and then, and whenever somebody is missing.
async fn keep(shared: Arc<Shared>) {
    let mut known = Vec::new();
    loop {
        shared.look(&mut known).await;
        tokio::time::sleep(PAUSE).await;
        if shared.is_unused() {
            shared.view.send_modify(|view| view.replicas.clear());
            // The connections that end now ask for a look too.
            while shared.is_unused() {
                shared.look.notified().await;
            }
        } else {
            // Either way it is time.
            let _ = timeout(shared.times.again.saturating_sub(PAUSE), shared.look.notified()).await;
        }
    }
}

impl Shared {
    /// Calls the replica whose turn it is. One that has gone before the call was on its way is
    /// passed over; a call that may have been carried out is not made again.
    pub async fn call(&self, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        self.use_now();
        self.address(&mut request);
        let unsent = Unsent::new(request);
        for _ in 0..TRIES {
            let mut connection = self.replica().await?;
            match connection.try_send_request(unsent.request()).await {
                Ok(response) => {
                    self.answered.store(true, Ordering::Relaxed);
                    return Ok(response.map(Body::new));
                }
                Err(failed) if unsent.is_whole_after(&failed) => {}
                Err(failed) => return Err(self.lost(&chain(failed.error()))),
            }
        }
        Err(self.lost(FLEETING))
    }

    fn use_now(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn is_unused(&self) -> bool {
        let used = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.elapsed() > self.times.unused
    }

    pub fn lost(&self, why: &str) -> Status {
        let name = &self.place.name;
        let hint = match self.answered.load(Ordering::Relaxed) {
            true => "",
            false => "; do both sides have mesh.tls_cert, of one CA, or neither?",
        };
        Status::unavailable(format!("lost {name} in a call: {why}{hint}"))
    }

    /// HTTP/2 wants the whole URL, callers know the path only.
    fn address(&self, request: &mut Request<Body>) {
        let path = request.uri().path_and_query().cloned();
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(scheme(self.tls.is_some()));
        parts.authority = Some(self.place.authority.clone());
        parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are a URL");
    }

    /// The replica whose turn it is; if there is none, whom the next look finds.
    async fn replica(&self) -> Result<SendRequest<Lent>, Status> {
        let mut views = self.view.subscribe();
        let before = views.borrow().looks;
        loop {
            {
                let view = views.borrow_and_update();
                let there = || view.replicas.iter().filter(|one| !one.connection.is_closed());
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                let turn = turn.checked_rem(there().count());
                if let Some(replica) = turn.and_then(|turn| there().nth(turn)) {
                    return Ok(replica.connection.clone());
                }
                if view.looks > before {
                    let (name, trouble) = (&self.place.name, &view.trouble);
                    if trouble.is_empty() {
                        // They were there, and let go of us.
                        return Err(self.lost(FLEETING));
                    }
                    return Err(Status::unavailable(format!("nobody is at {name}: {trouble}")));
                }
            }
            self.look.notify_one();
            // The sender is ours.
            let _ = views.changed().await;
        }
    }

    /// Looks the name up, lets go of who is no longer there, connects to who is new. If the
    /// resolver fails, who was `known` is still taken for it.
    async fn look(self: &Arc<Self>, known: &mut Vec<SocketAddr>) {
        let mut trouble = None;
        match timeout(LOOKUP, (self.resolver)(self.place.name.clone())).await {
            Ok(Ok(addresses)) => *known = addresses,
            Ok(Err(error)) => trouble = Some(format!("cannot look it up: {error}")),
            Err(_) => trouble = Some("cannot look it up: the resolver is silent".to_owned()),
        }
        if known.is_empty() {
            trouble.get_or_insert_with(|| "the name has no address".to_owned());
        }
        let mut missing = known.clone();
        self.view.send_modify(|view| {
            view.replicas.retain(|one| known.contains(&one.address) && !one.connection.is_closed());
            missing.retain(|address| view.replicas.iter().all(|one| one.address != *address));
        });
        missing.sort();
        missing.dedup();
        let mut connecting = JoinSet::new();
        for address in missing {
            let connected = connect(self.clone(), address);
            connecting.spawn(async move { (address, timeout(CONNECT, connected).await) });
        }
        while let Some(connected) = connecting.join_next().await {
            match connected {
                Ok((address, Ok(Ok(connection)))) => {
                    let replica = Replica { address, connection };
                    self.view.send_modify(|view| view.replicas.push(replica));
                }
                Ok((address, Ok(Err(error)))) => {
                    trouble = Some(format!("{address}: {}", chain(&*error)));
                }
                Ok((address, Err(_))) => {
                    trouble = Some(format!("{address}: no connection in {CONNECT:?}"));
                }
                Err(panic) => trouble = Some(panic.to_string()),
            }
        }
        let trouble = trouble.unwrap_or_default();
        self.view.send_modify(|view| {
            if !trouble.is_empty() && trouble != view.trouble {
                tracing::warn!(
                    peer = self.place.name,
                    trouble,
                    "a role's process is not to be had"
                );
            }
            view.looks += 1;
            view.trouble = trouble;
        });
    }
}

async fn connect(shared: Arc<Shared>, address: SocketAddr) -> Result<SendRequest<Lent>, BoxError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    match &shared.tls {
        None => handshake(shared, stream).await,
        Some(tls) => {
            let stream = tls.connect(stream).await.map_err(|error| {
                format!("no TLS: {error}; does it have mesh.tls_cert too, of the same CA?")
            })?;
            handshake(shared, stream).await
        }
    }
}

async fn handshake<S>(shared: Arc<Shared>, stream: S) -> Result<SendRequest<Lent>, BoxError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(SILENCE)
        .keep_alive_timeout(ALIVE)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(peer = shared.place.name, error = chain(&error), "a connection broke");
        }
        shared.look.notify_one();
    });
    Ok(sender)
}

/// Of the URLs of a mesh that has TLS, or has not.
pub(super) fn scheme(tls: bool) -> Scheme {
    if tls { Scheme::HTTPS } else { Scheme::HTTP }
}

#[cfg(test)]
mod tests;
