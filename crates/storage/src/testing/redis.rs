//! Redis, for who wants to kill or empty it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::{Process, free_port};

/// A redis-server of one test.
pub struct Server {
    process: Process,
    pub port: u16,
    folder: TempDir,
    arguments: Vec<String>,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(Vec::new()).await
    }

    /// The only node of a cluster: it refuses a command whose keys are of several slots.
    pub async fn start_cluster() -> Self {
        // Its second port would be the first and 10,000, which is anybody's.
        let port = free_port().to_string();
        let arguments = ["--cluster-enabled", "yes", "--cluster-port", &port];
        let server = Self::start_with(arguments.map(str::to_owned).to_vec()).await;
        server.tell(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await.expect("all slots");
        let mut look = tokio::time::interval(Duration::from_millis(20));
        loop {
            let info = server.tell(&["CLUSTER", "INFO"]).await.expect("an answer");
            let info: String = redis::from_redis_value(info).expect("a text");
            if info.contains("cluster_state:ok") {
                return server;
            }
            look.tick().await;
        }
    }

    async fn start_with(arguments: Vec<String>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let process = spawn(folder.path(), port, &arguments);
        let mut server = Self { process, port, folder, arguments };
        server.answers().await;
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// One command, by a connection of its own.
    pub async fn tell(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let (name, args) = words.split_first().expect("a command");
        redis::cmd(name).arg(args).query_async(&mut connection).await
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on what it left behind.
    pub async fn start_again(&mut self) {
        self.process = spawn(self.folder.path(), self.port, &self.arguments);
        self.answers().await;
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    async fn answers(&mut self) {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        while self.tell(&["PING"]).await.is_err() {
            assert!(!self.process.has_ended(), "redis-server has ended: is its port taken?");
            look.tick().await;
        }
    }
}

fn spawn(folder: &Path, port: u16, arguments: &[String]) -> Process {
    let mut command = Command::new("redis-server");
    command.args(arguments);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    Process::start(command.current_dir(folder))
}
