//! The servers that are measured.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Bench, on_processor, text};
use crate::Result;
use crate::process::output;
use crate::server::{Server, ask, free_port, install, is_ready, runs};

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

/// Mosquitto with a TLS listener; its port. Nothing is stored, and nothing that would cost it
/// something against the hub is left on.
pub fn mosquitto(bench: &Bench, certificate: &Certificate) -> Result<(Server, u16)> {
    install("mosquitto", || runs("mosquitto", "-h"), "mosquitto")?;
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
    install("redis-server", || runs("redis-server", "--version"), "redis-server")?;
    let port = free_port()?;
    let mut command = Command::new("redis-server");
    command.arg("--port").arg(port.to_string()).arg("--dir").arg(&bench.folder);
    let mut server = Server::start("redis-server", &mut command, &bench.folder.join("redis.log"))?;
    let took = server.ready(|| ask(port, b"PING\r\n").is_some_and(|pong| pong == b"+PONG\r\n"))?;
    Ok((server, took))
}
