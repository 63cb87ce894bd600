//! `TestHub`: any split of roles in one test process, on ports of its own, over real sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use dunlin_auth::{ConnectionString, Key};
use dunlin_registry::MasterKey;
use dunlin_runtime::{Clock, Role};
use dunlin_storage::testing::Place;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Client, Event};
use crate::config::Config;
use crate::hub::{Hub, Settings, Stores};
use crate::tls;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What a hub is started from, again and again.
pub struct Setup {
    /// The roles of each node, in an order in which each is started after those it calls.
    pub nodes: &'static [&'static [Role]],
    /// What is otherwise than `dunlin up` has it.
    pub edit: Box<dyn Fn(&mut Config) + Send + Sync>,
    pub clock: Clock,
    /// What the roles are given for the stores that were opened.
    pub stores: Box<dyn Fn(Stores) -> Stores + Send + Sync>,
    /// Whether these are on Postgres, Redis and Kafka.
    pub on_servers: bool,
}

impl Setup {
    /// Every role in one node, as `dunlin up` has it.
    pub fn all_in_one() -> Self {
        Self::of(&[&Role::ALL])
    }

    /// A node for each role, which call one another over HTTP/2.
    pub fn split() -> Self {
        Self::of(&[
            &[Role::Registry],
            &[Role::Twins],
            &[Role::Methods],
            &[Role::C2d],
            &[Role::Api],
            &[Role::Gateway],
        ])
    }

    /// As [`split`](Self::split), with two gateways.
    pub fn two_gateways() -> Self {
        Self::of(&[
            &[Role::Registry, Role::Twins, Role::Methods, Role::C2d],
            &[Role::Api],
            &[Role::Gateway],
            &[Role::Gateway],
        ])
    }

    /// The same nodes, each with its own way to the servers.
    pub fn on_servers(self) -> Self {
        Self { on_servers: true, ..self }
    }

    fn of(nodes: &'static [&'static [Role]]) -> Self {
        Self {
            nodes,
            edit: Box::new(|_| {}),
            clock: Clock::default(),
            stores: Box::new(|stores| stores),
            on_servers: false,
        }
    }
}

/// A hub for one test. What it keeps is in a folder, or in a place on the servers, that goes with it.
pub struct TestHub {
    nodes: Vec<Hub>,
    /// On servers, those of each node.
    stores: Vec<Stores>,
    owner: ConnectionString,
    ca_pem: String,
    setup: Setup,
    site: Site,
}

/// What outlives a restart.
struct Site {
    folder: TempDir,
    place: Option<Place>,
}

impl TestHub {
    pub async fn all_in_one() -> Self {
        Self::start(Setup::all_in_one()).await
    }

    pub async fn split() -> Self {
        Self::start(Setup::split()).await
    }

    pub async fn two_gateways() -> Self {
        Self::start(Setup::two_gateways()).await
    }

    pub async fn start(setup: Setup) -> Self {
        let folder = TempDir::new().expect("a folder");
        let place = if setup.on_servers { Some(Place::create().await) } else { None };
        Self::start_on(Site { folder, place }, setup).await
    }

    /// The same hub as a new process would have it: of the one before there is only what it kept.
    pub async fn restart(self) -> Self {
        let Self { nodes, stores, setup, site, .. } = self;
        stop(nodes, stores).await;
        Self::start_on(site, setup).await
    }

    async fn start_on(site: Site, setup: Setup) -> Self {
        no_panic_goes_unseen();
        let mut config = Config::default();
        let folder = site.folder.path();
        config.hub.data = folder.to_owned();
        if let Some(place) = &site.place {
            config.stores.devices = place.postgres();
            config.stores.events = place.kafka();
            config.stores.presence = place.redis();
        }
        config.gateway.bind = HERE;
        config.gateway.mqtt_port = 0;
        config.gateway.https_port = 0;
        // Tests start many hubs at once, and no one test needs more threads.
        config.gateway.workers = 2;
        config.admin.port = 0;
        if setup.nodes.len() > 1 {
            config.mesh.listen = "127.0.0.1:0".to_owned();
        }
        (setup.edit)(&mut config);
        // What is embedded is opened once; of servers, each node makes its own use, as a process does.
        let apart = if site.place.is_some() { setup.nodes } else { &[] };
        // The last is the test's own.
        let openings = apart.iter().copied().chain([&Role::ALL[..]]);
        let opened = join_all(openings.map(|roles| Stores::open_for(&config, roles))).await;
        let stores: Vec<_> =
            opened.into_iter().map(|opened| (setup.stores)(opened.expect("stores"))).collect();
        let certificate = tls::develop(folder, &config.names()).expect("a certificate");
        let ca_pem = std::fs::read_to_string(&certificate.ca).expect("the CA");
        let mut started = Vec::new();
        for (roles, stores) in setup.nodes.iter().zip(stores.iter().cycle()) {
            let settings = Settings {
                config: config.clone(),
                https_port_asked: true,
                roles: roles.to_vec(),
                stores: stores.clone(),
                master_key: Some(MasterKey::new(&[7; MasterKey::BYTES])),
                tls: Some(certificate.server.clone()),
                clock: setup.clock.clone(),
            };
            let mut hub = Hub::start(settings).await.expect("a hub");
            hub.ready().await.expect("ready");
            hub.announce();
            for role in *roles {
                match role {
                    Role::Registry => config.mesh.registry = hub.node().to_owned(),
                    Role::Twins => config.mesh.twins = hub.node().to_owned(),
                    Role::Methods => config.mesh.methods = hub.node().to_owned(),
                    Role::C2d => config.mesh.c2d = hub.node().to_owned(),
                    Role::Api => config.mesh.api = hub.node().to_owned(),
                    Role::Gateway => {}
                }
            }
            started.push(hub);
        }
        let gateway = started.iter().find(|node| node.gateway.is_some()).expect("a gateway");
        let port = gateway.gateway.map_or(0, |addresses| addresses.https.port());
        let owner = gateway.owner_connection_string(port).await.expect("the owner's");
        Self { nodes: started, stores, owner, ca_pem, setup, site }
    }

    /// Where MQTT devices connect.
    pub fn mqtt_addr(&self) -> SocketAddr {
        self.mqtt_addrs()[0]
    }

    /// One address a gateway.
    pub fn mqtt_addrs(&self) -> Vec<SocketAddr> {
        let gateways = self.nodes.iter().filter_map(|node| node.gateway);
        gateways.map(|addresses| addresses.mqtt).collect()
    }

    pub fn https_addr(&self) -> SocketAddr {
        self.https_addrs()[0]
    }

    /// One address a gateway.
    pub fn https_addrs(&self) -> Vec<SocketAddr> {
        let gateways = self.nodes.iter().filter_map(|node| node.gateway);
        gateways.map(|addresses| addresses.https).collect()
    }

    /// One address a node.
    pub fn admin_addrs(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.admin).collect()
    }

    /// As devices and back ends name the hub.
    pub fn hostname(&self) -> &str {
        self.owner.hostname()
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub fn folder(&self) -> &Path {
        self.site.folder.path()
    }

    pub fn owner_connection_string(&self) -> &ConnectionString {
        &self.owner
    }

    /// The stores below the hub (on servers, of its first node), to look at or to fill.
    pub fn stores(&self) -> &Stores {
        &self.stores[self.stores.len() - 1]
    }

    /// A client with the owner's rights, by way of the first gateway.
    pub fn client(&self) -> Client {
        self.client_as(self.owner.clone())
    }

    pub fn client_as(&self, login: ConnectionString) -> Client {
        let ca = Some(self.ca_pem.as_bytes());
        Client::new(login, ca, Some(self.https_addr())).expect("a client")
    }

    /// Registers `d` or `d/m` and returns its primary key.
    pub async fn create_device(&self, id: &str) -> Key {
        let made = self.client().device_put(id, &json!({}), None).await.expect("created");
        let key = &made["authentication"]["symmetricKey"]["primaryKey"];
        Key::from_base64(key.as_str().expect("a key")).expect("a key")
    }

    /// The first `count` events of a device, as the event stream has them. It waits for them.
    pub async fn read_events(&self, device: &str, count: usize) -> Vec<Value> {
        let query = format!("from=start&device={}", crate::client::encoded(device));
        let mut stream = self.client().events(&query).await.expect("a stream");
        let mut events = Vec::new();
        while events.len() < count {
            let Event { mut data, .. } =
                stream.next().await.expect("a whole stream").expect("an open stream");
            events.push(data["event"].take());
        }
        events
    }

    pub async fn stop(self) {
        stop(self.nodes, self.stores).await;
        if let Some(place) = self.site.place {
            place.remove().await;
        }
    }
}

/// Stops the nodes in the reverse order of their start, then closes the stores.
async fn stop(nodes: Vec<Hub>, stores: Vec<Stores>) {
    for node in nodes.into_iter().rev() {
        node.stop().await;
    }
    join_all(stores.iter().map(Stores::close)).await;
}

/// From the first hub on, a panic on a connection thread of any hub in this process ends the
/// process: ntex would close that one connection and go on, and no test would see it. A panic
/// elsewhere in a hub is a 500, which tests do see.
fn no_panic_goes_unseen() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            if std::thread::current().name().is_some_and(|name| name.starts_with("gateway")) {
                std::process::abort();
            }
        }));
    });
}
