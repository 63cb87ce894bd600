//! What the tests of hostile input share: the real binary with its log in a file, a client that
//! says what it likes to the HTTPS port, and devices that are not to be disturbed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use dunlin::client::Client;
use dunlin::test_hub::TestHub;
use dunlin_auth::connection_string::ConnectionString;
use dunlin_auth::sas;
use dunlin_runtime::clock;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio_rustls::TlsConnector;

use crate::process::{dunlin, terminate};
use crate::raw::{self, Connect, QOS1, Raw, connack, puback, publish, within};

/// `dunlin up` in a process of its own; dropped, it is killed.
pub struct Prey {
    child: Child,
    folder: TempDir,
    info: Value,
    tls: TlsConnector,
}

impl Prey {
    /// `settings`: environment variables.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_as(dunlin(), &[], settings).await
    }

    /// With a log in JSON.
    pub async fn start_json(settings: &[(&str, &str)]) -> Self {
        Self::start_as(dunlin(), &["--log-json"], settings).await
    }

    /// With that many descriptors at most.
    pub async fn start_limited(descriptors: u32) -> Self {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
        command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_dunlin")).stdin(Stdio::null());
        Self::start_as(command, &[], &[("DUNLIN__GATEWAY__WORKERS", "2")]).await
    }

    async fn start_as(mut command: Command, more: &[&str], settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| std::fs::File::create(folder.path().join(name)).expect("a file");
        let child = command
            .args(["up", "--mqtt-port", "0", "--https-port", "0", "--admin-port", "0", "--data"])
            .arg(folder.path().join("data"))
            .args(more)
            .envs(settings.iter().copied())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .kill_on_drop(true)
            .spawn()
            .expect("dunlin starts");
        let mut prey = Self { child, folder, info: Value::Null, tls: raw::connector("") };
        prey.info = within("the hub's start", prey.ready()).await;
        let ca = prey.info["ca"].as_str().expect("a path");
        prey.tls = raw::connector(&std::fs::read_to_string(ca).expect("the CA"));
        prey
    }

    async fn ready(&mut self) -> Value {
        loop {
            if let Ok(text) = std::fs::read(self.data().join("hub.json"))
                && let Ok(info) = serde_json::from_slice::<Value>(&text)
            {
                return info;
            }
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("dunlin up ended with {status}: {}", self.log());
            }
            // sleep: a file is polled, there is nothing to wait on; the caller has a deadline.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn info(&self) -> &Value {
        &self.info
    }

    pub fn tls(&self) -> &TlsConnector {
        &self.tls
    }

    pub fn place(&self) -> Place {
        let [mqtt, https] = ["mqtt_port", "https_port"].map(|port| self.address(port));
        Place { mqtt, https, tls: self.tls.clone() }
    }

    /// `mqtt_port` or `https_port`.
    pub fn address(&self, port: &str) -> SocketAddr {
        let port = self.info[port].as_u64().expect("a port");
        SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).expect("a port")))
    }

    /// All that it has written to stderr.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("stderr")).expect("the log");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stdout")).expect("what it printed")
    }

    /// Resident memory, in MiB.
    pub fn resident(&self) -> u64 {
        let pid = self.child.id().expect("running");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1_024
    }

    /// Sockets and files it has open.
    pub fn descriptors(&self) -> usize {
        let pid = self.child.id().expect("running");
        std::fs::read_dir(format!("/proc/{pid}/fd")).expect("Linux").count()
    }

    /// With the owner's rights.
    pub fn client(&self) -> Client {
        let text = |name: &str| self.info[name].as_str().expect("text");
        let login = ConnectionString::parse(text("owner_connection_string")).expect("the owner's");
        let ca = std::fs::read(text("ca")).expect("the CA");
        Client::new(login, Some(&ca), Some(self.address("https_port"))).expect("a client")
    }

    pub async fn run(&self, args: &[&str]) -> Output {
        within("a command", dunlin().args(args).arg("--data").arg(self.data()).output())
            .await
            .expect("dunlin runs")
    }

    pub async fn create_device(&self, id: &str) -> Victim {
        let made = self.run(&["device", "create", "-d", id]).await;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let text = self.run(&["device", "connection-string", "-d", id]).await.stdout;
        let text = String::from_utf8(text).expect("text");
        Victim {
            id: id.to_owned(),
            login: ConnectionString::parse(text.trim()).expect("a connection string"),
            address: self.address("mqtt_port"),
            tls: self.tls.clone(),
        }
    }

    /// SIGTERM, and a clean end without a panic on the way.
    pub async fn stop(mut self) -> TempDir {
        let status = terminate(&mut self.child).await;
        let log = self.log();
        assert!(status.success(), "dunlin up ended with {status}: {log}");
        assert!(!log.contains("panicked"), "{log}");
        self.folder
    }
}

/// Where a hub is, and what it takes to trust it.
pub struct Place {
    pub mqtt: SocketAddr,
    pub https: SocketAddr,
    pub tls: TlsConnector,
}

/// A device that has a right to be served whatever others do.
#[derive(Clone)]
pub struct Victim {
    pub id: String,
    pub login: ConnectionString,
    address: SocketAddr,
    tls: TlsConnector,
}

impl Victim {
    pub fn new(id: &str, login: ConnectionString, place: &Place) -> Self {
        Self { id: id.to_owned(), login, address: place.mqtt, tls: place.tls.clone() }
    }

    pub fn token(&self) -> String {
        let resource = format!("{}/devices/{}", self.login.hostname(), self.id);
        sas::sign(&resource, None, &self.login.key, clock::unix_seconds() + 3_600)
    }

    pub fn connect(&self) -> Connect {
        self.connect_with(&self.token())
    }

    pub fn connect_with(&self, token: &str) -> Connect {
        let username = format!("{}/{}/?api-version=2021-04-12", self.login.hostname(), self.id);
        Connect::new(&self.id, &username, token)
    }

    /// A connected device, and how long connecting took.
    pub async fn enter(&self) -> (Raw, Duration) {
        let began = Instant::now();
        let mut raw = Raw::open(self.address, &self.tls).await;
        raw.send(&self.connect().bytes()).await;
        raw.expect(&connack(0)).await;
        (raw, began.elapsed())
    }

    /// One message of QoS 1, and how long its acknowledgement took.
    pub async fn deliver(&self, raw: &mut Raw, body: &[u8]) -> Duration {
        let began = Instant::now();
        let topic = format!("devices/{}/messages/events/", self.id);
        raw.send(&publish(QOS1, &topic, 7, body)).await;
        raw.expect(&puback(7)).await;
        began.elapsed()
    }
}

/// The owner's token.
pub fn owner_token(hub: &TestHub) -> String {
    let login = hub.owner_connection_string();
    let expiry = clock::unix_seconds() + 3_600;
    sas::sign(hub.hostname(), Some("iothubowner"), &login.key, expiry)
}

/// An HTTP answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The next answer in what came, if it is whole.
    pub fn take(bytes: &mut Vec<u8>) -> Option<Self> {
        Self::take_of(bytes, "GET")
    }

    /// As `take`; to HEAD comes a length without a body.
    pub fn take_of(bytes: &mut Vec<u8>, method: &str) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = header(&head, "content-length").filter(|_| method != "HEAD");
        let length = length.and_then(|text| text.parse().ok()).unwrap_or(0);
        let body = bytes.get(end..end + length)?.to_vec();
        bytes.drain(..end + length);
        Some(Self { status, head, body })
    }

    /// As every refusal of the hub looks.
    #[track_caller]
    pub fn expect_refusal(&self, what: &str) -> String {
        assert!((400..500).contains(&self.status), "{what}: {self:?}");
        let code = header(&self.head, "iothub-errorcode").unwrap_or_default().to_owned();
        assert!(!code.is_empty(), "{what}: {self:?}");
        let body: Value = serde_json::from_slice(&self.body).expect("JSON");
        let message = body["Message"].as_str().expect("a message");
        assert!(message.starts_with(&format!("ErrorCode:{code};")), "{what}: {message}");
        code
    }
}

pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
