//! The servers that are measured: started here, waited for, and ended here.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Bench, on_processor, text};
use crate::process::{output, run_shown, succeeds};
use crate::{Result, process};

/// How long a server may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it is ready.
const LOOK: Duration = Duration::from_micros(500);

/// A server process; killed when dropped.
pub struct Server {
    name: &'static str,
    child: Child,
    /// When it was started.
    pub since: Instant,
}

impl Server {
    fn start(name: &'static str, command: &mut Command, log: &Path) -> Result<Self> {
        let log = fs::File::create(log).map_err(|error| format!("cannot write a log: {error}"))?;
        let copy = log.try_clone().map_err(|error| format!("cannot write a log: {error}"))?;
        command.stdin(Stdio::null()).stdout(log).stderr(copy);
        let since = Instant::now();
        let child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        Ok(Self { name, child, since })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` says so; how long that took from the start of the process.
    fn ready(&mut self, mut ready: impl FnMut() -> bool) -> Result<Duration> {
        while !ready() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended: {status}; see its log", self.name));
            }
            if self.since.elapsed() > PATIENCE {
                return Err(format!("{} is not ready after {PATIENCE:?}; see its log", self.name));
            }
            thread::sleep(LOOK);
        }
        Ok(self.since.elapsed())
    }

    /// Asks it to end and waits for that.
    pub fn stop(mut self) -> Result<()> {
        succeeds(Command::new("sh").args(["-c", "kill $0", &self.pid().to_string()]));
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(LOOK),
                Ok(Some(_)) => return Ok(()),
                Err(error) => return Err(format!("cannot wait for {}: {error}", self.name)),
            }
        }
        Err(format!("{} does not end when asked to", self.name))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended, and been waited for, long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A hub's server certificate and its CA, by OpenSSL: the same for the hub and its peers.
pub struct Certificate {
    pub ca: PathBuf,
    chain: PathBuf,
    key: PathBuf,
    /// What devices show, and its key; none: they send tokens.
    device: Option<[PathBuf; 2]>,
}

impl Certificate {
    pub fn create(folder: &Path) -> Result<Self> {
        let script = "set -e
            openssl ecparam -name prime256v1 -genkey -noout -out ca.key
            openssl req -x509 -new -key ca.key -days 30 -subj '/CN=bench CA' -out ca.pem
            openssl ecparam -name prime256v1 -genkey -noout |
                openssl pkcs8 -topk8 -nocrypt -out server.key
            openssl req -new -key server.key -subj /CN=localhost -out server.csr
            printf 'subjectAltName=DNS:localhost\\nextendedKeyUsage=serverAuth\\n' > server.ext
            openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \\
                -extfile server.ext -out server.pem
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \\
                -subj /CN=device -keyout device.key -out device.pem";
        output(Command::new("sh").args(["-c", script]).current_dir(folder))?;
        let at = |name| folder.join(name);
        let (chain, key) = (at("server.pem"), at("server.key"));
        Ok(Self { ca: at("ca.pem"), chain, key, device: None })
    }

    /// Has the load test's devices show a certificate.
    pub fn shown_by_devices(mut self, folder: &Path) -> Self {
        self.device = Some(["device.pem", "device.key"].map(|name| folder.join(name)));
        self
    }

    /// For a command of the load test.
    pub fn show(&self, client: &mut Command) {
        if let Some([certificate, key]) = &self.device {
            client.arg("--x509").arg(certificate).arg("--x509-key").arg(key);
        }
    }
}

/// A running `dunlin up`.
pub struct Hub {
    pub server: Server,
    pub ready_after: Duration,
    pub login: String,
    pub mqtt_port: u16,
}

/// Starts the hub on `data`; without a certificate it makes its own.
pub fn hub(bench: &Bench, data: &Path, certificate: Option<&Certificate>) -> Result<Hub> {
    let ports = [free_port()?, free_port()?, free_port()?];
    let [mqtt, https, admin] = ports.map(|port| port.to_string());
    let mut up = on_processor(bench.server_processor(), &bench.hub_binary());
    up.args(["up", "--bind", "127.0.0.1", "--hostname", "localhost", "--data"]).arg(data);
    up.args(["--mqtt-port", &mqtt, "--https-port", &https, "--admin-port", &admin]);
    if let Some(certificate) = certificate {
        up.arg("--tls-cert").arg(&certificate.chain).arg("--tls-key").arg(&certificate.key);
    }
    // What a run left behind names a hub that is gone.
    let file = data.join("hub.json");
    let _ = fs::remove_file(&file);
    let mut server = Server::start("dunlin up", &mut up, &bench.folder.join("hub.log"))?;
    let ready_after = server.ready(|| file.exists() && is_ready(ports[2]))?;
    let json =
        fs::read_to_string(&file).map_err(|error| format!("cannot read hub.json: {error}"))?;
    let login = text(&json, "owner_connection_string")?;
    Ok(Hub { server, ready_after, login, mqtt_port: ports[0] })
}

/// Whether `/readyz` answers 200.
fn is_ready(port: u16) -> bool {
    ask(port, b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .is_some_and(|answer| answer.starts_with(b"HTTP/1.1 200 "))
}

/// The beginning of what a local port answers.
fn ask(port: u16, question: &[u8]) -> Option<Vec<u8>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(question).ok()?;
    let mut answer = vec![0; 64];
    let read = stream.read(&mut answer).ok()?;
    answer.truncate(read);
    Some(answer)
}

/// Mosquitto with a TLS listener; its port. Nothing is stored, and nothing that would cost it
/// something against the hub is left on.
pub fn mosquitto(bench: &Bench, certificate: &Certificate) -> Result<(Server, u16)> {
    install("mosquitto", &["mosquitto", "-h"], "mosquitto")?;
    let port = free_port()?;
    let config = format!(
        "listener {port} 127.0.0.1\ncertfile {}\nkeyfile {}\nallow_anonymous true\nuser root\n\
         persistence false\nlog_dest none\nsys_interval 0\nset_tcp_nodelay true\n\
         max_queued_messages 0\n",
        certificate.chain.display(),
        certificate.key.display()
    );
    let file = bench.folder.join("mosquitto.conf");
    fs::write(&file, config)
        .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    let mut command = on_processor(bench.server_processor(), Path::new("mosquitto"));
    let log = bench.folder.join("mosquitto.log");
    let mut server = Server::start("mosquitto", command.arg("-c").arg(&file), &log)?;
    server.ready(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())?;
    Ok((server, port))
}

/// redis-server in `folder`, and how long it took to its first PONG.
pub fn redis(bench: &Bench) -> Result<(Server, Duration)> {
    install("redis-server", &["redis-server", "--version"], "redis-server")?;
    let port = free_port()?;
    let mut command = Command::new("redis-server");
    command.arg("--port").arg(port.to_string()).arg("--dir").arg(&bench.folder);
    let mut server = Server::start("redis-server", &mut command, &bench.folder.join("redis.log"))?;
    let took = server.ready(|| ask(port, b"PING\r\n").is_some_and(|pong| pong == b"+PONG\r\n"))?;
    Ok((server, took))
}

/// Installs a Debian package if its program is missing; its service is not started.
pub fn install(what: &str, probe: &[&str], package: &str) -> Result<()> {
    let (program, args) = probe.split_first().ok_or("nothing to probe")?;
    // Not `succeeds`: `mosquitto -h` ends with 3.
    let here = || {
        let probe =
            Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
        probe.is_ok()
    };
    if here() {
        return Ok(());
    }
    if process::output(Command::new("id").arg("-u"))? != "0" {
        return Err(format!("{what} is missing; run: sudo apt-get install {package}"));
    }
    // Runlevel 1 keeps the package from starting a service that nobody asked for.
    let script = format!(
        "apt-get -q update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
         apt-get -q install -y --no-install-recommends {package}"
    );
    run_shown(Command::new("sh").args(["-c", &script]))?;
    if here() { Ok(()) } else { Err(format!("{what} cannot be run after installing {package}")) }
}

/// A port of 127.0.0.1 that is free now and is not handed out twice. Below the ephemeral ports: a
/// client that polls one of those may be given the very same as its own, and so take it.
fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    // Two runs at the same time start looking at different places.
    let salt = (std::process::id() % u32::from(COUNT)) as u16;
    let turns = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed)).take(1_000);
    turns
        .map(|turn| FIRST + (salt + turn) % COUNT)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| "no port of 127.0.0.1 is free".into())
}
