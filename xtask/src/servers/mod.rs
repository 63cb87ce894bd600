//! The servers a cluster stands on: Postgres, Redis and Kafka, on free ports of 127.0.0.1, with
//! their data in one temporary folder. All of it is gone when [`Servers`] is dropped, and the
//! processes end with this program however that ends.
//!
//! Each is told to the tests by a variable of the environment. One that is set already names a
//! server of somebody else's, which is used in place of ours.

mod kafka;
mod postgres;
mod redis;

pub use postgres::program as postgres_program;

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::process::output;
use crate::server::Server;

/// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, of a user who may create databases.
pub const POSTGRES: &str = "DUNLIN_TEST_POSTGRES";
/// `redis://:PASSWORD@HOST:PORT`.
pub const REDIS: &str = "DUNLIN_TEST_REDIS";
/// The same server by TLS: `rediss://…`.
pub const REDIS_TLS: &str = "DUNLIN_TEST_REDIS_TLS";
/// `kafka://HOST:PORT`.
pub const KAFKA: &str = "DUNLIN_TEST_KAFKA";
/// Folder with Kafka's jars in `libs`, for tests that start a broker of their own.
pub const KAFKA_HOME: &str = "DUNLIN_TEST_KAFKA_HOME";
/// PEM file with the certificate to trust of Postgres and Redis.
pub const CA: &str = "DUNLIN_TEST_CA";

/// All of them.
pub const VARIABLES: [&str; 6] = [POSTGRES, REDIS, REDIS_TLS, KAFKA, KAFKA_HOME, CA];

/// It guards nothing: the servers listen on loopback only and hold what a test made up.
const PASSWORD: &str = "loopback";

/// Installs what is missing, of all of them: clusters have servers of their own, whatever the
/// environment names.
pub fn prepare() -> Result<()> {
    postgres::prepare()?;
    redis::prepare()?;
    kafka::prepare()
}

/// Installs what is missing of those that the environment does not name.
fn prepare_needed() -> Result<()> {
    if needed(POSTGRES) {
        postgres::prepare()?;
    }
    if needed(REDIS) {
        redis::prepare()?;
    }
    if needed(KAFKA) || needed(KAFKA_HOME) {
        kafka::prepare()?;
    }
    Ok(())
}

/// A server of somebody else's is named whole: what tests ask of it they find by several variables.
fn whole() -> Result<()> {
    for (server, more) in [(POSTGRES, CA), (REDIS, REDIS_TLS), (REDIS, CA)] {
        if !needed(server) && needed(more) {
            return Err(format!("{server} is set, so set {more}, too (docs/testing.md)"));
        }
    }
    Ok(())
}

fn needed(variable: &str) -> bool {
    env::var_os(variable).is_none()
}

/// Running servers.
pub struct Servers {
    /// Ended before the folder they work in is removed.
    pub running: Vec<Server>,
    folder: PathBuf,
    /// What to set for whoever uses them.
    variables: Vec<(&'static str, String)>,
}

impl Servers {
    /// Starts those that the environment does not name, and waits for them.
    pub fn start() -> Result<Self> {
        whole()?;
        prepare_needed()?;
        let folder = new_folder()?;
        let mut servers = Self { running: Vec::new(), folder, variables: Vec::new() };
        let folder = servers.folder.clone();
        certificate(&folder)?;
        // Postgres and Redis know nobody's CA but ours: with a server of somebody else's the
        // variable is theirs to set.
        if needed(CA) {
            servers.variables.push((CA, folder.join("server.pem").display().to_string()));
        }
        if needed(KAFKA_HOME) {
            servers.variables.push((KAFKA_HOME, kafka::folder()?.display().to_string()));
        }
        // The slowest first; each is waited for once all are on their way.
        let kafka = needed(KAFKA).then(|| kafka::start(&folder)).transpose()?;
        let postgres = needed(POSTGRES).then(|| postgres::start(&folder)).transpose()?;
        let redis = needed(REDIS).then(|| redis::start(&folder)).transpose()?;
        for started in [redis, postgres, kafka].into_iter().flatten() {
            let Started { mut server, mut ready, variables } = started;
            server.ready(&mut *ready)?;
            servers.running.push(server);
            servers.variables.extend(variables);
        }
        Ok(servers)
    }

    /// Where one of them is.
    pub fn variable(&self, name: &'static str) -> Result<String> {
        let ours = self.variables.iter().find(|(known, _)| *known == name);
        let url = ours.map(|(_, url)| url.clone()).or_else(|| env::var(name).ok());
        url.ok_or_else(|| format!("{name} is not set"))
    }

    /// Tells `command` where they are.
    pub fn show(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }
}

/// A new one: another process namespace may have programs under our id.
fn new_folder() -> Result<PathBuf> {
    for turn in 0_u32.. {
        let name = format!("dunlin-servers-{}-{turn}", std::process::id());
        let folder = env::temp_dir().join(name);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(format!("cannot create {}: {error}", folder.display())),
            Ok(()) => return Ok(folder),
        }
    }
    Err("no folder is free".into())
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.running.clear();
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("xtask: cannot remove {}: {error}", self.folder.display());
        }
    }
}

/// A server on its way.
struct Started {
    server: Server,
    ready: Box<dyn FnMut() -> bool>,
    variables: Vec<(&'static str, String)>,
}

/// `program`, to be ended with this program. The signal is of the thread that starts it: the main
/// one. What a terminal sends to this program's group does not reach it.
pub fn bound(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).process_group(0);
    command
}

/// `server.pem` and `server.key`, for localhost, trusted by itself.
fn certificate(folder: &Path) -> Result<()> {
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
        -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
        -addext basicConstraints=critical,CA:FALSE -keyout server.key -out server.pem";
    output(Command::new("sh").args(["-c", script]).current_dir(folder)).map(drop)
}
