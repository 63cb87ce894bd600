//! Roles as processes of their own: the real binary on real servers, as a person starts it.

use std::fs::File;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use dunlin::client::Client;
use dunlin_auth::ConnectionString;
use dunlin_storage::testing::Place;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::{JoinHandle, JoinSet};

use crate::process::{dunlin, terminate};
use crate::raw::within;

const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const OTHER_KEY: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
/// Of every process, at an address of its own.
const MESH: u16 = 9700;
const ADMIN: u16 = 9600;

/// Where the processes of one hub are.
struct Site {
    folder: TempDir,
    place: Place,
    /// A network of loopback addresses that no other test has.
    network: String,
    /// Replaces the database of the place.
    postgres: Option<String>,
}

impl Site {
    async fn new() -> Self {
        Self {
            folder: TempDir::new().expect("a folder"),
            place: Place::create().await,
            network: format!("127.{}.{}", fastrand::u8(1..255), fastrand::u8(..)),
            postgres: None,
        }
    }

    fn address(&self, host: u8, port: u16) -> SocketAddr {
        format!("{}.{host}:{port}", self.network).parse().expect("an address")
    }

    /// `dunlin run --roles …`: the registry is at host 1, gateways at 3, all other roles at 2.
    fn run(&self, roles: &str) -> Command {
        let host = match roles {
            "registry" => 1,
            "gateway" => 3,
            _ => 2,
        };
        let mut run = dunlin();
        run.args(["run", "--roles", roles, "--mqtt-port", "8883", "--https-port", "8443"]);
        run.arg("--data").arg(self.folder.path().join(host.to_string()));
        let postgres = self.postgres.clone().unwrap_or_else(|| self.place.postgres());
        run.env("DUNLIN__STORES__DEVICES", postgres);
        run.env("DUNLIN__STORES__EVENTS", self.place.kafka());
        run.env("DUNLIN__STORES__PRESENCE", self.place.redis());
        let own = self.address(host, 0).ip().to_string();
        run.env("DUNLIN__ADMIN__BIND", &own).env("DUNLIN__GATEWAY__BIND", &own);
        run.env("DUNLIN__MESH__LISTEN", self.address(host, MESH).to_string());
        run.env("DUNLIN__MESH__REGISTRY", format!("http://{}", self.address(1, MESH)));
        for role in ["TWINS", "METHODS", "C2D", "API"] {
            let url = format!("http://{}", self.address(2, MESH));
            run.env(format!("DUNLIN__MESH__{role}"), url);
        }
        if roles == "registry" {
            run.env("DUNLIN_MASTER_KEY", KEY);
        }
        run.kill_on_drop(true);
        run
    }

    fn start(&self, mut run: Command, host: u8) -> Part {
        let log = File::create(self.folder.path().join(format!("{host}.log"))).expect("a log");
        let child = run.stdout(Stdio::null()).stderr(log).spawn().expect("dunlin starts");
        Part { child, admin: self.address(host, ADMIN) }
    }

    /// With the owner's rights, by the file that the gateway wrote.
    fn client(&self) -> Client {
        let file = std::fs::read(self.folder.path().join("3/hub.json")).expect("hub.json");
        let file: Value = serde_json::from_slice(&file).expect("JSON");
        let login = file["owner_connection_string"].as_str().expect("text");
        let login = ConnectionString::parse(login).expect("the owner's");
        let ca = std::fs::read(file["ca"].as_str().expect("a path")).expect("the CA");
        Client::new(login, Some(&ca), Some(self.address(3, 8443))).expect("a client")
    }
}

struct Part {
    child: Child,
    admin: SocketAddr,
}

impl Part {
    /// Waits until `/readyz` has this status, and says this.
    async fn until(&mut self, status: u16, says: &str) {
        let http = dunlin::client::http().build().expect("a client");
        let url = format!("http://{}/readyz", self.admin);
        let look = async {
            loop {
                if let Ok(answer) = http.get(&url).send().await
                    && answer.status() == status
                    && answer.text().await.is_ok_and(|text| text.contains(says))
                {
                    return;
                }
                if let Some(status) = self.child.try_wait().expect("a child") {
                    panic!("it ended with {status}");
                }
                // sleep: between two looks; the caller has a deadline.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(&format!("{status} {says:?} at {url}"), look).await;
    }

    async fn stop(mut self) {
        let status = terminate(&mut self.child).await;
        assert!(status.success(), "it ended with {status}");
    }
}

/// What a process that cannot start says.
async fn refused(mut run: Command) -> String {
    let output = within("a refusal", run.output()).await.expect("dunlin runs");
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).expect("text")
}

/// The way to a server, which can be cut.
struct Wire(JoinHandle<()>);

impl Wire {
    async fn lay(from: SocketAddr, to: String) -> Self {
        let listener = TcpListener::bind(from).await.expect("bound");
        Self(tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let to = to.clone();
                open.spawn(async move {
                    let mut far = TcpStream::connect(to).await.expect("the server");
                    // Either side may go.
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        }))
    }

    async fn cut(self) {
        self.0.abort();
        // Its listener and connections are closed then.
        let _ = self.0.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_went_and_comes_back_is_called_again() {
    let site = Site::new().await;
    // The gateway first: it waits for whom it asks for the owner's key.
    let mut run = site.run("gateway");
    run.args(["--announce", "file"]);
    let mut gateway = site.start(run, 3);
    gateway.until(503, "mesh.registry not ready").await;
    let mut others = site.start(site.run("twins,methods,c2d,api"), 2);
    let mut registry = site.start(site.run("registry"), 1);
    registry.until(200, "stores.devices ready").await;
    others.until(200, "mesh.registry ready").await;
    gateway.until(200, "hub ready").await;
    let client = site.client();
    client.device_put("d", &json!({}), None).await.expect("created");

    registry.child.kill().await.expect("killed");
    gateway.until(503, "mesh.registry not ready").await;
    client.device_get("d").await.expect_err("nobody knows");

    let mut registry = site.start(site.run("registry"), 1);
    registry.until(200, "registry ready").await;
    gateway.until(200, "mesh.registry ready").await;
    assert_eq!(client.device_get("d").await.expect("found")["deviceId"], "d");
    // By way of every server, too.
    let mut send = dunlin();
    send.args(["device", "simulate", "-d", "d", "--count", "1", "--data-folder"]);
    let sent = within("a message", send.arg(site.folder.path().join("3")).output()).await;
    let sent = sent.expect("dunlin runs");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));

    for part in [gateway, others, registry] {
        part.stop().await;
    }
    // Those have nothing to keep.
    assert!(!site.folder.path().join("1").exists() && !site.folder.path().join("2").exists());
    site.place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_whose_store_is_away_is_not_ready() {
    let mut site = Site::new().await;
    let url = site.place.postgres();
    let (user, rest) = url.split_once('@').expect("a user");
    let (server, rest) = rest.split_once('/').expect("a database");
    let address = site.address(4, 5432);
    site.postgres = Some(format!("{user}@{address}/{rest}"));
    let wire = Wire::lay(address, server.to_owned()).await;
    let mut twins = site.start(site.run("twins"), 2);
    twins.until(200, "stores.devices ready").await;
    wire.cut().await;
    twins.until(503, "stores.devices not ready").await;
    let wire = Wire::lay(address, server.to_owned()).await;
    twins.until(200, "stores.devices ready").await;
    twins.stop().await;
    wire.cut().await;
    site.place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_takes_the_key_of_its_hub_and_no_other() {
    let site = Site::new().await;
    let mut none = site.run("registry");
    none.env_remove("DUNLIN_MASTER_KEY");
    let said = refused(none).await;
    assert!(said.contains("openssl rand -base64 32"), "{said}");
    let mut registry = site.start(site.run("registry"), 1);
    registry.until(200, "registry ready").await;
    registry.stop().await;
    let mut other = site.run("registry");
    other.env("DUNLIN_MASTER_KEY", OTHER_KEY);
    let said = refused(other).await;
    assert!(said.contains("master key") && said.contains("DUNLIN_MASTER_KEY"), "{said}");
    assert!(!said.contains(OTHER_KEY), "{said}");
    site.place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_share_ports_if_each_says_so() {
    let site = Site::new().await;
    // On one address, but for what each has of its own.
    let second = |share: &str| {
        let mut run = site.run("gateway");
        run.env("DUNLIN__ADMIN__BIND", site.address(4, 0).ip().to_string());
        run.env("DUNLIN__MESH__LISTEN", site.address(4, MESH).to_string());
        run.env("DUNLIN__GATEWAY__SHARE_PORTS", share);
        run
    };
    let mut first = site.start(site.run("gateway"), 3);
    first.until(503, "gateway ready").await;
    for share in ["false", "true"] {
        let said = refused(second(share)).await;
        assert!(said.contains("cannot listen on") && said.contains("--mqtt-port"), "{said}");
    }
    first.stop().await;
    let mut sharing = site.run("gateway");
    sharing.env("DUNLIN__GATEWAY__SHARE_PORTS", "true");
    let mut first = site.start(sharing, 3);
    let mut beside = site.start(second("true"), 4);
    for gateway in [&mut first, &mut beside] {
        gateway.until(503, "gateway ready").await;
    }
    first.stop().await;
    beside.stop().await;
    site.place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_lacks_is_named() {
    let site = Site::new().await;
    for (roles, variable, value, says) in [
        ("gateway", "DUNLIN__MESH__REGISTRY", "", "mesh.registry"),
        ("api", "DUNLIN__MESH__TWINS", "", "mesh.twins"),
        ("methods", "DUNLIN__MESH__REGISTRY", "registry:9700", "http://host:port"),
        ("twins", "DUNLIN__MESH__LISTEN", "", "mesh.listen"),
        ("gateway", "DUNLIN__MESH__LISTEN", "0.0.0.0:0", "mesh.advertise"),
        ("twins", "DUNLIN__STORES__DEVICES", "embedded:", "stores.devices"),
        ("twins", "DUNLIN__STORES__EVENTS", "embedded:", "stores.events"),
        ("twins", "DUNLIN__STORES__PRESENCE", "memory:", "stores.presence"),
        ("gateway", "DUNLIN__TLS__KEY", "server.key", "tls.certificate"),
    ] {
        let mut run = site.run(roles);
        run.env(variable, value);
        let said = refused(run).await;
        assert!(said.contains(says), "{variable}={value}: {said}");
    }
    site.place.remove().await;
}
