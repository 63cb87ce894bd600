//! Postgres, of Debian's package. It refuses to run as root: started by root, it runs as the user
//! that the package made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{PASSWORD, POSTGRES, Started, bound};
use crate::Result;
use crate::process::{output, succeeds};
use crate::server::{Server, free_port, install};

const USER: &str = "dunlin";
/// Where Debian keeps them, a folder a version.
const VERSIONS: &str = "/usr/lib/postgresql";

pub fn prepare() -> Result<()> {
    install("a Postgres server", || binaries().is_ok(), "postgresql")
}

/// psql, pgbench and the like, of the same version.
pub fn program(name: &str) -> Result<PathBuf> {
    Ok(binaries()?.join(name))
}

/// The folder with the newest version's programs.
fn binaries() -> Result<PathBuf> {
    let entries = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let newest = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())))
        .map(|(version, path)| (version, path.join("bin")))
        .filter(|(_, path)| path.join("initdb").exists())
        .max();
    newest.map(|(_, path)| path).ok_or_else(|| {
        format!("no Postgres server in {VERSIONS}; run: sudo apt-get install postgresql, or set {POSTGRES}")
    })
}

pub fn start(folder: &Path) -> Result<Started> {
    let (binaries, port) = (binaries()?, free_port()?);
    let home = folder.join("postgres");
    let as_root = output(Command::new("id").arg("-u"))? == "0";
    // Its own copy of the key: it must belong to the user it runs as.
    let script = format!(
        "mkdir -m 700 postgres && cp server.pem server.key postgres && chmod 600 postgres/server.key
         echo {PASSWORD} > postgres/password{}",
        if as_root { "\nchown -R postgres: postgres" } else { "" }
    );
    output(Command::new("sh").args(["-ec", &script]).current_dir(folder))?;
    let program = |name: &str| {
        let path = binaries.join(name);
        let mut command = if as_root {
            let mut command = bound(Path::new("setpriv"));
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
            command.args(["--pdeathsig", "KILL", "--"]).arg(path);
            command
        } else {
            bound(&path)
        };
        command.current_dir(&home);
        command
    };
    let mut initdb = program("initdb");
    initdb.args(["--pgdata=data", "--username", USER, "--pwfile=password", "--auth=scram-sha-256"]);
    output(initdb.args(["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]))?;
    let mut command = program("postgres");
    command.args(["-D", "data", "-p", &port.to_string()]);
    for setting in [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "max_connections=300",
        "ssl=on",
        // From the data folder.
        "ssl_cert_file=../server.pem",
        "ssl_key_file=../server.key",
    ] {
        command.args(["-c", setting]);
    }
    let server = Server::start("postgres", &mut command, &folder.join("postgres.log"))?;
    let pg_isready = binaries.join("pg_isready");
    let ready = move || {
        let mut ask = Command::new(&pg_isready);
        succeeds(ask.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]))
    };
    let url = format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres");
    Ok(Started { server, ready: Box::new(ready), variables: vec![(POSTGRES, url)] })
}
