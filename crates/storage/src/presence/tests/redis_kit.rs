//! Redis servers for tests: the one of the run, shared under prefixes, and ones of a test's own.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::device_store::SqliteDeviceStore;
use crate::presence::RedisPresence;
use crate::sqlite::DataFolder;
pub use crate::testing::variable;
use crate::{DeviceStore, StoreError};

/// The URL of the run's server.
pub fn of_the_run() -> String {
    variable("DUNLIN_TEST_REDIS")
}

/// A place in a server that no other test has, and where its generations come from.
pub struct Redis {
    url: String,
    devices: Arc<dyn DeviceStore>,
    _folder: TempDir,
}

impl Redis {
    pub fn new(server: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::tempdir().expect("a folder");
        let data = DataFolder::open(folder.path()).expect("a data folder");
        let devices = Arc::new(SqliteDeviceStore::new(data.sqlite()));
        let end = if server.contains('?') { '&' } else { '?' };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let url = format!("{server}{end}prefix=test-{}-{number}", std::process::id());
        Self { url, devices, _folder: folder }
    }

    /// As another process of the same hub opens it.
    pub async fn open(&self) -> Result<RedisPresence, StoreError> {
        RedisPresence::open(&self.url, self.devices.clone()).await
    }

    pub async fn presence(&self) -> RedisPresence {
        self.open().await.expect("presence")
    }
}

/// A redis-server of one test.
pub struct Server {
    child: Child,
    pub port: u16,
    folder: TempDir,
}

impl Server {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let child = spawn(folder.path(), port);
        let server = Self { child, port, folder };
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
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }

    /// Starts it again on what it left behind.
    pub async fn start_again(&mut self) {
        self.child = spawn(self.folder.path(), self.port);
        self.answers().await;
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("kill");
        assert!(sent.success());
    }

    async fn answers(&self) {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        while self.tell(&["PING"]).await.is_err() {
            look.tick().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &Path, port: u16) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.current_dir(folder).stdout(Stdio::null()).stdin(Stdio::null());
    command.spawn().expect("redis-server starts")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}
