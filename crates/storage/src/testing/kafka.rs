//! Kafka, for who wants to kill it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::process::{Process, free_port};
use super::variable;

pub(crate) fn under_a_prefix(server: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let end = if server.contains('?') { '&' } else { '?' };
    let (run, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    format!("{server}{end}prefix=test-{run}-{number}-{:x}", fastrand::u32(..))
}

/// A broker of one test, that is its own controller.
pub struct Broker {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl Broker {
    pub async fn start() -> Self {
        Self::with(|_, _| String::new()).await
    }

    /// With settings for its folder and port; they win over the usual ones.
    pub async fn with(settings: impl FnOnce(&Path, u16) -> String) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (port, controller) = (free_port(), free_port());
        let data = folder.path().join("data");
        let settings = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             log.dirs={}\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             broker.session.timeout.ms=2000\nbroker.heartbeat.interval.ms=500\n{}",
            data.display(),
            settings(folder.path(), port)
        );
        fs::write(folder.path().join("server.properties"), settings).expect("written");
        let mut format = java(folder.path());
        format.args(["kafka.tools.StorageTool", "format", "--standalone"]);
        // Any will do: sixteen bytes in base64.
        format.args(["-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", "server.properties"]);
        assert!(format.status().expect("java").success());
        let process = spawn(folder.path());
        let mut broker = Self { process, port, folder };
        broker.started().await;
        broker
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn url(&self) -> String {
        self.url_with("", "")
    }

    /// As a user, who stands before the host, and with options.
    pub fn url_with(&self, login: &str, options: &str) -> String {
        under_a_prefix(&format!("kafka://{login}localhost:{}?{options}", self.port))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on what it left behind.
    pub async fn start_again(&mut self) {
        self.process = spawn(self.folder.path());
        self.started().await;
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// It is asked of its log: whoever tries a port of its own machine may meet himself there.
    async fn started(&mut self) {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        loop {
            look.tick().await;
            let ended = self.process.has_ended();
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            if log.contains("Kafka Server started") {
                return;
            }
            assert!(!ended, "the broker has ended: {log}");
        }
    }
}

fn java(folder: &Path) -> Command {
    let libs = Path::new(&variable("DUNLIN_TEST_KAFKA_HOME")).join("libs/*");
    let mut java = Command::new("java");
    java.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]).arg(libs);
    java.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    java
}

fn spawn(folder: &Path) -> Process {
    let log = File::create(folder.join("log")).expect("a log");
    let mut java = java(folder);
    Process::start(java.args(["kafka.Kafka", "server.properties"]).stderr(log))
}
