//! The real binary as a child process: `dunlin up` on free ports, and commands against it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use dunlin::client::Client;
use dunlin_auth::ConnectionString;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::raw;

/// A running `dunlin up`; dropped, it is killed.
pub struct Hub {
    child: Child,
    data: PathBuf,
    info: Value,
}

impl Hub {
    /// Starts a hub on a data folder and waits until it is ready.
    pub async fn start(data: &Path) -> Self {
        Self::start_with(data, &[]).await
    }

    /// `settings`: environment variables.
    pub async fn start_with(data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut hub = Self { child: up(data, settings), data: data.to_owned(), info: Value::Null };
        hub.info = raw::within("the hub's start", hub.ready()).await;
        hub
    }

    /// SIGKILL some time into the start.
    pub async fn start_and_kill(data: &Path, settings: &[(&str, &str)], after: Duration) {
        let mut child = up(data, settings);
        // sleep: the moment of the kill is what is random here; nothing is waited for by it.
        tokio::time::sleep(after).await;
        child.kill().await.expect("killed");
    }

    /// `hub.json` of this very process: written when it is ready.
    async fn ready(&mut self) -> Value {
        loop {
            if let Ok(text) = std::fs::read(self.data.join("hub.json"))
                && let Ok(info) = serde_json::from_slice::<Value>(&text)
                && info["pid"].as_u64() == self.child.id().map(u64::from)
            {
                return info;
            }
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("dunlin up ended with {status}");
            }
            // sleep: a file is polled, there is nothing to wait on; the caller has a deadline.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn mqtt_address(&self) -> SocketAddr {
        let port = self.info["mqtt_port"].as_u64().expect("a port");
        SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).expect("a port")))
    }

    pub fn ca_pem(&self) -> String {
        let path = self.info["ca"].as_str().expect("a path");
        std::fs::read_to_string(path).expect("the CA")
    }

    /// With the owner's rights.
    pub fn client(&self) -> Client {
        let login = self.info["owner_connection_string"].as_str().expect("text");
        let login = ConnectionString::parse(login).expect("the owner's");
        let port = self.info["https_port"].as_u64().expect("a port");
        let address = (Ipv4Addr::LOCALHOST, u16::try_from(port).expect("a port")).into();
        Client::new(login, Some(self.ca_pem().as_bytes()), Some(address)).expect("a client")
    }

    /// Runs a command against this hub; it must succeed. Returns what it printed.
    pub async fn command(&self, args: &[&str]) -> String {
        let output =
            raw::within("a command", dunlin().args(args).arg("--data").arg(&self.data).output())
                .await
                .expect("dunlin runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "dunlin {args:?}: {errors}");
        String::from_utf8(output.stdout).expect("text")
    }

    pub async fn create_device(&self, id: &str) -> ConnectionString {
        self.command(&["device", "create", "-d", id]).await;
        let text = self.command(&["device", "connection-string", "-d", id]).await;
        ConnectionString::parse(&text).expect("a connection string")
    }

    /// SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }

    /// Has it stand still (`STOP`) or go on (`CONT`).
    pub async fn signal(&self, name: &str) {
        signal(&self.child, name).await;
    }

    /// SIGTERM, and a clean end.
    pub async fn stop(mut self) {
        let status = terminate(&mut self.child).await;
        assert!(status.success(), "dunlin up ended with {status}");
    }
}

fn up(data: &Path, settings: &[(&str, &str)]) -> Child {
    dunlin()
        .args(["up", "--mqtt-port", "0", "--https-port", "0", "--admin-port", "0", "--data"])
        .arg(data)
        .envs(settings.iter().copied())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("dunlin starts")
}

/// SIGTERM; what the hub ends with.
pub async fn terminate(child: &mut Child) -> ExitStatus {
    signal(child, "TERM").await;
    raw::within("the hub's end", child.wait()).await.expect("a status")
}

async fn signal(child: &Child, name: &str) {
    let (kill, pid) = (format!("kill -{name} $0"), child.id().expect("running").to_string());
    let sent = Command::new("sh").args(["-c", &kill, &pid]).status().await.expect("kill runs");
    assert!(sent.success());
}

/// The binary, with nothing of our environment to find a hub by.
pub fn dunlin() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
    for name in ["DUNLIN_LOGIN", "DUNLIN_CA"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}
