//! `dunlin up` and `dunlin run`: a hub in this process, until it is told to stop.

use std::fs::DirBuilder;
use std::io::IsTerminal;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use dunlin_gateway::TlsFiles;
use dunlin_runtime::{Clock, Role};
use tokio::signal::unix::{Signal, SignalKind, signal};
use toml::{Table, Value};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use super::announce::{Announce, announce};
use super::failure::Failure;
use crate::config::{self, Config, Environment};
use crate::hub::{Hub, Settings, Stores};
use crate::{master_key, tls};

#[derive(Args)]
pub(super) struct UpArgs {
    #[command(flatten)]
    hub: HubArgs,
}

#[derive(Args)]
pub(super) struct RunArgs {
    #[arg(long, value_delimiter = ',', value_name = "ROLE,…", help = roles_help())]
    roles: Vec<Role>,
    /// Once ready, tell where the hub is and how its owner logs in [default: nobody]
    #[arg(long, value_enum, value_name = "HOW")]
    announce: Option<Announce>,
    #[command(flatten)]
    hub: HubArgs,
}

fn roles_help() -> String {
    let names = Role::ALL.map(Role::name).join(", ");
    format!(
        "The roles this process runs, of {names}: all of them if not given, some of them where all \
         stores are servers and mesh.* says where the others are"
    )
}

#[derive(Args)]
struct HubArgs {
    /// Data folder [default: ./dunlin-data]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Configuration file (see `dunlin config --print`); flags come before it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A name of this hub; may be given several times, the first is the one clients are told
    /// [default: localhost]
    #[arg(long, value_name = "NAME")]
    hostname: Vec<String>,
    /// Address to listen on, the admin port included [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<IpAddr>,
    /// Port of MQTT over TLS [default: 8883]
    #[arg(long, value_name = "PORT")]
    mqtt_port: Option<u16>,
    /// Port of HTTPS [default: 443, or 8443 where that is not permitted]
    #[arg(long, value_name = "PORT")]
    https_port: Option<u16>,
    /// Port of health and metrics [default: 9600]
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,
    /// Server certificate chain (PEM) instead of a development certificate.
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Log in JSON, a line an event.
    #[arg(long)]
    log_json: bool,
}

impl HubArgs {
    /// The flags as a layer of configuration.
    fn table(&self) -> Table {
        let path = |path: &PathBuf| Value::from(path.display().to_string());
        let names = || self.hostname.iter().map(|name| Value::from(name.as_str())).collect();
        let port = |port: u16| Value::from(i64::from(port));
        let text = |address: IpAddr| Value::from(address.to_string());
        let settings = [
            ("hub", "data", self.data.as_ref().map(path)),
            ("hub", "hostnames", (!self.hostname.is_empty()).then(|| Value::Array(names()))),
            ("gateway", "bind", self.bind.map(text)),
            ("gateway", "mqtt_port", self.mqtt_port.map(port)),
            ("gateway", "https_port", self.https_port.map(port)),
            // With it, so that hubs on several loopback addresses need no ports of their own.
            ("admin", "bind", self.bind.map(text)),
            ("admin", "port", self.admin_port.map(port)),
            ("tls", "certificate", self.tls_cert.as_ref().map(path)),
            ("tls", "key", self.tls_key.as_ref().map(path)),
        ];
        let mut table = Table::new();
        for (section, key, value) in settings {
            if let Some(value) = value {
                let section = table.entry(section).or_insert_with(|| Table::new().into());
                if let Value::Table(section) = section {
                    section.insert(key.to_owned(), value);
                }
            }
        }
        table
    }
}

pub(super) async fn up(arguments: UpArgs, environment: &Environment) -> Result<(), Failure> {
    serve(arguments.hub, Role::ALL.to_vec(), Some(Announce::Print), environment).await
}

pub(super) async fn run(arguments: RunArgs, environment: &Environment) -> Result<(), Failure> {
    let roles = if arguments.roles.is_empty() { Role::ALL.to_vec() } else { arguments.roles };
    serve(arguments.hub, roles, arguments.announce, environment).await
}

async fn serve(
    arguments: HubArgs,
    mut roles: Vec<Role>,
    announced: Option<Announce>,
    environment: &Environment,
) -> Result<(), Failure> {
    log(environment, arguments.log_json)?;
    roles.sort();
    roles.dedup();
    let mut signals = Signals::listen().map_err(|error| anyhow!(error))?;
    let loaded = config::load(arguments.config.as_deref(), environment, arguments.table())?;
    let config = loaded.config;
    let gateway = roles.contains(&Role::Gateway);
    if announced.is_some() && !gateway {
        return Err(Failure::Usage("--announce needs the role gateway in this process".to_owned()));
    }
    refuse_parts(&roles, &config)?;
    let given = certificate(&config)?;
    // Absolute, for it is told to other processes. Not made where nothing is kept in it.
    let data = std::path::absolute(&config.hub.data).map_err(|error| anyhow!(error))?;
    let shared = config.stores.own().is_none();
    if !shared || announced.is_some() || (gateway && given.is_none()) {
        make_folder(&data)?;
    }
    // The stores first: embedded ones hold the folder's lock, and what else is in it is this
    // process's.
    let stores = Stores::open_for(&config, &roles).await?;
    let made = match (gateway, &given) {
        (true, None) => Some(tls::develop(&data, &config.names())?),
        _ => None,
    };
    if shared && gateway && config.mesh.listen.is_empty() {
        warn!(
            "mesh.listen is empty, so this process must be the only one on its stores: another one \
             could not end connections here; set mesh.listen and mesh.advertise"
        );
    }
    if shared && made.is_some() {
        warn!(
            folder = %data.display(),
            "the certificate is a development one of this data folder: gateways that have another \
             show another; set tls.certificate and tls.key"
        );
    }
    let master_key = match roles.contains(&Role::Registry) {
        true => Some(master_key::load(&data, environment, &config.stores.devices)?),
        false => None,
    };
    let settings = Settings {
        master_key,
        https_port_asked: loaded.https_port_asked,
        roles,
        stores: stores.clone(),
        tls: given.or_else(|| made.as_ref().map(|made| made.server.clone())),
        config: config.clone(),
        clock: Clock::default(),
    };
    let mut hub = Hub::start(settings).await?;
    // With its lock: what was made has been read.
    let ca = made.map(|made| made.ca);
    let outcome = tokio::select! {
        failure = watch(&mut hub, &config, &data, ca, announced) => Err(failure),
        () = signals.next() => Ok(()),
    };
    info!("stopping");
    // Who asks again does not want to wait.
    tokio::spawn(async move {
        signals.next().await;
        std::process::exit(130);
    });
    hub.stop().await;
    stores.close().await;
    outcome
}

/// Tells of the hub once it is ready, and returns what ends it.
async fn watch(
    hub: &mut Hub,
    config: &Config,
    data: &Path,
    ca: Option<PathBuf>,
    announced: Option<Announce>,
) -> Failure {
    let told = async {
        hub.ready().await?;
        match announced {
            Some(how) => announce(how, hub, config, data, ca).await,
            None => Ok(()),
        }
    };
    match told.await {
        Ok(()) => {
            hub.announce();
            info!("ready");
            Failure::Other(hub.failed().await)
        }
        Err(failure) => failure,
    }
}

/// A store of this process alone must have all roles in it: a gateway apart would not hear of a
/// revocation, an API apart would read an empty event log.
fn refuse_parts(roles: &[Role], config: &Config) -> Result<()> {
    let Some(role) = Role::ALL.into_iter().find(|role| !roles.contains(role)) else {
        return Ok(());
    };
    if let Some((setting, url)) = config.stores.own() {
        bail!(
            "the role {role} is missing: with stores.{setting} = {url:?} all roles run in one \
             process, since no other can see it. Leave --roles out, or set stores.devices, \
             stores.events and stores.presence to servers (postgres://, kafka://, redis://)"
        );
    }
    if config.mesh.listen.is_empty() {
        bail!(
            "mesh.listen is empty: the process that runs the role {role} could not reach the roles \
             of this one. Set it to an address of this machine, as 127.0.0.1:9700"
        );
    }
    Ok(())
}

fn make_folder(data: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)
        .with_context(|| format!("cannot create the data folder {}", data.display()))
}

/// The given certificate.
fn certificate(config: &Config) -> Result<Option<TlsFiles>> {
    let config::Tls { certificate, key } = config.tls.clone();
    match (certificate.as_os_str().is_empty(), key.as_os_str().is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(TlsFiles { certificate, key })),
        _ => bail!("set both tls.certificate and tls.key, or neither"),
    }
}

fn log(environment: &Environment, json: bool) -> Result<()> {
    // The server library tells of each of its steps at INFO.
    let wanted = environment.get("DUNLIN_LOG").map_or("info,ntex=warn", String::as_str);
    let filter = EnvFilter::try_new(wanted)
        .with_context(|| format!("DUNLIN_LOG={wanted:?}: write it as info or dunlin=debug"))?
        // Below that it writes all that is stored: sealed keys, what devices report and are sent.
        .add_directive("tokio_postgres=info".parse()?);
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let set = if json { subscriber.json().try_init() } else { subscriber.try_init() };
    set.map_err(|error| anyhow!("cannot start the log: {error}"))
}

/// What asks this process to stop.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
