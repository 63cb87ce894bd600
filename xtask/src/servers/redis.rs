//! Redis, of Debian's package, with a plain and a TLS port and nothing on disk.

use std::path::Path;

use super::{PASSWORD, REDIS, REDIS_TLS, Started, bound};
use crate::Result;
use crate::server::{Server, ask, free_port, install, runs};

pub fn prepare() -> Result<()> {
    install("redis-server", || runs("redis-server", "--version"), "redis-server")
}

pub fn start(folder: &Path) -> Result<Started> {
    let (port, tls_port) = (free_port()?, free_port()?);
    let mut command = bound(Path::new("redis-server"));
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--tls-port", &tls_port.to_string(), "--tls-auth-clients", "no"]);
    command.args(["--tls-cert-file", "server.pem", "--tls-key-file", "server.key"]);
    command.args(["--tls-ca-cert-file", "server.pem", "--requirepass", PASSWORD]);
    command.args(["--save", "", "--appendonly", "no"]).current_dir(folder);
    let server = Server::start("redis-server", &mut command, &folder.join("redis.log"))?;
    let question = format!("AUTH {PASSWORD}\r\n");
    let ready = move || ask(port, question.as_bytes()).is_some_and(|answer| answer == b"+OK\r\n");
    let variables = vec![
        (REDIS, format!("redis://:{PASSWORD}@127.0.0.1:{port}")),
        (REDIS_TLS, format!("rediss://:{PASSWORD}@localhost:{tls_port}")),
    ];
    Ok(Started { server, ready: Box::new(ready), variables })
}
