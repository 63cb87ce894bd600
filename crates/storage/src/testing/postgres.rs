//! Postgres, for who wants to crash it.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio_postgres::NoTls;

use super::process::{Process, free_port};

/// A Postgres server of one test. Started by root it runs as the user that Debian's package made,
/// since it refuses to run as root.
pub struct Server {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl Server {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (home, port) = (folder.path(), free_port());
        // For the user it runs as.
        fs::set_permissions(home, Permissions::from_mode(0o755)).expect("mode");
        fs::create_dir(home.join("data")).expect("a folder");
        if as_root() {
            let chown = Command::new("chown").arg("postgres:").arg(home.join("data")).status();
            assert!(chown.expect("chown").success());
        }
        let mut initdb = program("initdb", home);
        initdb.args(["--pgdata=data", "--username=dunlin", "--auth=trust", "--encoding=UTF8"]);
        let initdb = initdb.args(["--locale=C.UTF-8", "--no-sync"]).stdout(Stdio::null()).status();
        assert!(initdb.expect("initdb").success());
        let process = spawn(home, port);
        let mut server = Self { process, port, folder };
        server.answers().await;
        server
    }

    pub fn url(&self) -> String {
        format!("postgres://dunlin@127.0.0.1:{}/postgres", self.port)
    }

    /// All its processes end at once, without a checkpoint: the next start recovers from the log.
    pub fn crash(&mut self) {
        self.process.signal("QUIT");
        self.process.ends();
    }

    /// Starts it again on what it left behind.
    pub async fn start_again(&mut self) {
        self.process = spawn(self.folder.path(), self.port);
        self.answers().await;
    }

    async fn answers(&mut self) {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while tokio_postgres::connect(&self.url(), NoTls).await.is_err() {
            look.tick().await;
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(!self.process.has_ended(), "the server has ended: {log}");
        }
    }
}

fn spawn(home: &Path, port: u16) -> Process {
    let log = File::create(home.join("log")).expect("a log");
    let mut command = program("postgres", home);
    command.args(["-D", "data", "-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
    Process::start(command.args(["-c", "unix_socket_directories="]).stderr(log))
}

fn as_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id");
    id.stdout.trim_ascii() == b"0"
}

fn program(name: &str, home: &Path) -> Command {
    let path = newest().join(name);
    let mut command = Command::new(if as_root() { "setpriv".into() } else { path.clone() });
    if as_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(path);
    }
    command.current_dir(home);
    command
}

/// Where Debian keeps the programs, a folder a version.
fn newest() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("a Postgres server").flatten();
    let version = |path: PathBuf| Some((path.file_name()?.to_str()?.parse::<u32>().ok()?, path));
    let newest = versions.filter_map(|entry| version(entry.path())).max();
    newest.expect("a version of it").1.join("bin")
}
