//! `cargo xtask cluster up`: a cluster on this machine. Postgres, Redis and Kafka, one process a
//! role, gateways that share their ports; all of it ends with this program, and the servers' data
//! with it.
//!
//! [`Cluster::start`] is for benchmarks and fault tests as well. What it starts are children of this
//! program (their process ids: [`Cluster::processes`]); clients find the hub by `hub.json` in the
//! data folder, as the hub's own command line does. Dropped, it is killed, the servers last;
//! [`Cluster::stop`] lets it drain.

use std::env;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::process::{output, run_shown};
use crate::server::{Server, free_port, is_ready};
use crate::servers::{KAFKA, POSTGRES, REDIS, Servers, bound};
use crate::suite::cargo;
use crate::{Result, sdk, workspace};

/// The roles that run in a process each. `mesh.ROLE` says to the others where.
const ROLES: [&str; 5] = ["registry", "twins", "methods", "c2d", "api"];
/// Between two looks whether a process has ended.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub gateways: u16,
    /// hub.json, the development CA, and the processes' logs.
    pub data: PathBuf,
    pub config: Option<PathBuf>,
    pub hostnames: Vec<String>,
    pub bind: IpAddr,
    pub mqtt_port: u16,
    /// Not given: what gateways take of themselves.
    pub https_port: Option<u16>,
    /// Of the first process; each of the others has the next one. 0: any that are free.
    pub admin_port: u16,
    pub debug: bool,
    /// Whether standard output is told what `dunlin up` tells.
    pub print: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            gateways: 2,
            data: "dunlin-cluster".into(),
            config: None,
            hostnames: Vec::new(),
            bind: Ipv4Addr::LOCALHOST.into(),
            mqtt_port: 8883,
            https_port: None,
            admin_port: 9600,
            debug: false,
            print: true,
        }
    }
}

impl Options {
    pub fn parse(args: &[String]) -> Result<Self> {
        let Some(("up", flags)) = args.split_first().map(|(what, rest)| (what.as_str(), rest))
        else {
            return Err("cluster takes `up`".into());
        };
        let mut options = Self::default();
        let mut flags = flags.iter();
        while let Some(flag) = flags.next() {
            if flag == "--debug" {
                options.debug = true;
                continue;
            }
            let value =
                flags.next().ok_or_else(|| format!("cluster up takes no `{flag}` alone"))?;
            let number = || value.parse::<u16>().map_err(|_| format!("{flag} takes a number"));
            match flag.as_str() {
                "--gateways" => options.gateways = number()?,
                "--data" => options.data = value.into(),
                "--config" => options.config = Some(value.into()),
                "--hostname" => options.hostnames.push(value.clone()),
                "--bind" => {
                    options.bind = value.parse().map_err(|_| "--bind takes an address")?;
                }
                "--mqtt-port" => options.mqtt_port = number()?,
                "--https-port" => options.https_port = Some(number()?),
                "--admin-port" => options.admin_port = number()?,
                other => return Err(format!("cluster up takes no `{other}`")),
            }
        }
        if options.gateways == 0 {
            return Err("--gateways takes a number above 0".into());
        }
        Ok(options)
    }
}

/// Runs a cluster until it is told to end, or one of its processes ends.
pub fn run(options: &Options) -> Result<bool> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Who asks twice does not want to wait.
        flag::register_conditional_shutdown(signal, 130, asked.clone())
            .and_then(|_| flag::register(signal, asked.clone()))
            .map_err(|error| format!("cannot listen to signals: {error}"))?;
    }
    let mut cluster = Cluster::start(options, &asked)?;
    let names = cluster.processes.iter().map(|one| format!("{} {}", one.name, one.server.pid()));
    println!(
        "Processes: {}\nLogs: {}\nCtrl-C ends them; what Postgres, Redis and Kafka hold is gone then.",
        names.collect::<Vec<_>>().join(", "),
        cluster.data.join("logs").display()
    );
    let mut ended = None;
    while ended.is_none() && !asked.load(Ordering::Relaxed) {
        // sleep: between two looks; the end of processes and signals are what is waited for.
        thread::sleep(LOOK);
        ended = cluster.ended();
    }
    let stopped = cluster.stop();
    match ended {
        Some(ended) => Err(ended),
        None => stopped.map(|()| true),
    }
}

/// A process of the hub.
pub struct Process {
    /// The role's; gateways are numbered.
    pub name: String,
    pub admin_port: u16,
    pub server: Server,
}

/// A cluster that is ready.
pub struct Cluster {
    /// Gateways first, and of them the one that has written hub.json.
    pub processes: Vec<Process>,
    /// Where hub.json is.
    pub data: PathBuf,
    /// Ended behind all who use them.
    pub servers: Servers,
}

impl Cluster {
    /// Builds the hub, starts everything and waits until it is ready. Fails when `stop` is set.
    pub fn start(options: &Options, stop: &AtomicBool) -> Result<Self> {
        let binary = binary(options.debug)?;
        let data = std::path::absolute(&options.data)
            .map_err(|error| format!("cannot find {}: {error}", options.data.display()))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data.join("logs"))
            .map_err(|error| format!("cannot create {}: {error}", data.display()))?;
        free(options.bind, options.mqtt_port)?;
        if !free(options.bind, options.https_port.unwrap_or(443))? && options.https_port.is_none() {
            // What gateways take in its place.
            free(options.bind, 8443)?;
        }
        // It would work on somebody's tables and topics with a master key that is gone in the end.
        if let Some(name) = [POSTGRES, REDIS, KAFKA].iter().find(|name| env::var_os(name).is_some())
        {
            return Err(format!(
                "{name} is set, but a cluster has servers of its own; to run on others, start `dunlin run`"
            ));
        }
        let servers = Servers::start()?;
        let mut variables = vec![
            ("DUNLIN__STORES__DEVICES".to_owned(), servers.variable(POSTGRES)?),
            ("DUNLIN__STORES__PRESENCE".to_owned(), servers.variable(REDIS)?),
            ("DUNLIN__STORES__EVENTS".to_owned(), servers.variable(KAFKA)?),
            ("DUNLIN__GATEWAY__SHARE_PORTS".to_owned(), "true".to_owned()),
            ("DUNLIN__GATEWAY__BIND".to_owned(), options.bind.to_string()),
        ];
        let mut listens = Vec::new();
        for role in ROLES {
            let listen = format!("127.0.0.1:{}", free_port()?);
            let variable = format!("DUNLIN__MESH__{}", role.to_uppercase());
            variables.push((variable, format!("http://{listen}")));
            listens.push(listen);
        }
        let plan = Plan { options, binary, data: data.clone(), variables };
        let mut cluster = Self { processes: Vec::new(), data: data.clone(), servers };
        for (turn, (role, listen)) in (options.gateways..).zip(ROLES.into_iter().zip(listens)) {
            cluster.processes.push(plan.start(role, role, &listen, turn, None)?);
        }
        // The first gateway tells of all: last, so that it finds them ready.
        for number in (1..=options.gateways).rev() {
            let announce = match (number, options.print) {
                (1, true) => Some("print"),
                (1, false) => Some("file"),
                _ => None,
            };
            if number == 1 {
                cluster.wait(stop)?;
            }
            let (name, listen) =
                (format!("gateway-{number}"), format!("127.0.0.1:{}", free_port()?));
            cluster.processes.push(plan.start(&name, "gateway", &listen, number - 1, announce)?);
        }
        cluster.wait(stop)?;
        cluster.processes.reverse();
        Ok(cluster)
    }

    fn wait(&mut self, stop: &AtomicBool) -> Result<()> {
        for one in &mut self.processes {
            one.server.ready(|| stop.load(Ordering::Relaxed) || is_ready(one.admin_port))?;
        }
        if stop.load(Ordering::Relaxed) { Err("told to end".into()) } else { Ok(()) }
    }

    /// What to say of a process that has ended, the servers' included.
    fn ended(&mut self) -> Option<String> {
        let ours = self.processes.iter_mut().map(|one| &mut one.server);
        ours.chain(&mut self.servers.running).find_map(Server::ended)
    }

    /// Lets the gateways drain, then ends the other roles, then the servers.
    pub fn stop(self) -> Result<()> {
        let gateway = |one: &Process| one.name.starts_with("gateway-");
        let (gateways, others): (Vec<_>, Vec<_>) = self.processes.into_iter().partition(gateway);
        let mut outcome = Ok(());
        for group in [gateways, others] {
            // All at once: each takes its time.
            group.iter().for_each(|one| one.server.ask_to_end());
            for one in group {
                outcome = outcome.and(one.server.wait());
            }
        }
        drop(self.servers);
        outcome
    }
}

/// What the processes of a cluster have in common.
struct Plan<'a> {
    options: &'a Options,
    binary: PathBuf,
    data: PathBuf,
    variables: Vec<(String, String)>,
}

impl Plan<'_> {
    /// `turn`: which admin port is its own. `announce`: as `dunlin run` has it.
    fn start(
        &self,
        name: &str,
        role: &str,
        listen: &str,
        turn: u16,
        announce: Option<&str>,
    ) -> Result<Process> {
        let Self { options, .. } = self;
        let mut command = bound(&self.binary);
        let admin_port = match options.admin_port {
            0 => free_port()?,
            first => {
                first.checked_add(turn).ok_or("--admin-port leaves no room for the next ones")?
            }
        };
        command.args(["run", "--roles", role, "--data"]).arg(&self.data);
        command.args(["--admin-port", &admin_port.to_string()]);
        command.args(["--mqtt-port", &options.mqtt_port.to_string()]);
        if let Some(port) = options.https_port {
            command.args(["--https-port", &port.to_string()]);
        }
        if let Some(config) = &options.config {
            command.arg("--config").arg(config);
        }
        for hostname in &options.hostnames {
            command.args(["--hostname", hostname]);
        }
        command.envs(self.variables.iter().cloned()).env("DUNLIN__MESH__LISTEN", listen);
        if role == "registry" {
            // The devices whose keys it seals go with the servers, and so may it.
            let key = output(Command::new("openssl").args(["rand", "-base64", "32"]))?;
            command.env("DUNLIN_MASTER_KEY", key);
        }
        if let Some(announce) = announce {
            command.args(["--announce", announce]);
        }
        let log = self.data.join(format!("logs/{name}.log"));
        let server = match announce {
            Some("print") => Server::start_printing(name, &mut command, &log),
            _ => Server::start(name, &mut command, &log),
        };
        Ok(Process { name: name.to_owned(), admin_port, server: server? })
    }
}

/// DUNLIN_BIN, or a build of this workspace.
fn binary(debug: bool) -> Result<PathBuf> {
    if debug || std::env::var_os("DUNLIN_BIN").is_some() {
        return sdk::binary(false);
    }
    // As `cargo xtask bench` builds it.
    let mut build = cargo(&["build", "--release", "-p", "dunlin", "-p", "dunlin-loadtest"])?;
    if !run_shown(&mut build)? {
        return Err("the hub does not build".into());
    }
    Ok(workspace::target()?.join("release/dunlin"))
}

/// Gateways share ports with whoever does, so they would not say that another cluster has them.
/// `false`: it may not be bound.
fn free(bind: IpAddr, port: u16) -> Result<bool> {
    match TcpListener::bind((bind, port)) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(format!(
            "{bind}:{port} is taken; choose another port (--mqtt-port, --https-port) or address (--bind)"
        )),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(false),
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args)
    }

    #[test]
    fn options_are_read() {
        assert_eq!(parsed("up"), Ok(Options::default()));
        let want = Options {
            gateways: 3,
            data: "d".into(),
            hostnames: vec!["a".into(), "b".into()],
            bind: Ipv4Addr::UNSPECIFIED.into(),
            https_port: Some(8443),
            debug: true,
            ..Options::default()
        };
        let line = "up --gateways 3 --data d --hostname a --hostname b --bind 0.0.0.0 \
                    --https-port 8443 --debug";
        assert_eq!(parsed(line), Ok(want));
        for line in
            ["", "down", "up --gateways 0", "up --gateways", "up --bind here", "up --fast 1"]
        {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_port_that_somebody_has_is_refused() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = taken.local_addr().expect("an address").port();
        assert!(free(Ipv4Addr::LOCALHOST.into(), port).is_err());
        drop(taken);
        assert_eq!(free(Ipv4Addr::LOCALHOST.into(), port), Ok(true));
    }
}
