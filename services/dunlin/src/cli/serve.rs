//! `dunlin up` and `dunlin run`: a hub in this process, until it is told to stop.

use std::fs::DirBuilder;
use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use dunlin_gateway::{Addresses, TlsFiles};
use dunlin_runtime::{Clock, Role};
use tokio::signal::unix::{Signal, SignalKind, signal};
use toml::{Table, Value};
use tracing::info;
use tracing_subscriber::EnvFilter;

use super::default_data;
use super::failure::Failure;
use super::output::line;
use crate::config::{self, Config, Environment};
use crate::hub::{Hub, Settings, Stores};
use crate::hub_file::HubFile;
use crate::{master_key, tls};

#[derive(Args)]
pub(super) struct UpArgs {
    #[command(flatten)]
    hub: HubArgs,
}

#[derive(Args)]
pub(super) struct RunArgs {
    /// The roles this process runs: gateway, registry, api. All of them if not given.
    #[arg(long, value_delimiter = ',', value_name = "ROLE,…")]
    roles: Vec<Role>,
    #[command(flatten)]
    hub: HubArgs,
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
    serve(arguments.hub, Role::ALL.to_vec(), true, environment).await
}

pub(super) async fn run(arguments: RunArgs, environment: &Environment) -> Result<(), Failure> {
    let roles = if arguments.roles.is_empty() { Role::ALL.to_vec() } else { arguments.roles };
    serve(arguments.hub, roles, false, environment).await
}

async fn serve(
    arguments: HubArgs,
    mut roles: Vec<Role>,
    greet: bool,
    environment: &Environment,
) -> Result<(), Failure> {
    log(environment, arguments.log_json)?;
    roles.sort();
    roles.dedup();
    refuse_parts(&roles)?;
    let mut signals = Signals::listen().map_err(|error| anyhow!(error))?;
    let loaded = config::load(arguments.config.as_deref(), environment, arguments.table())?;
    let config = loaded.config;
    let data = data_folder(&config)?;
    // The stores first: they hold the folder's lock, and what else is in it is this process's.
    let stores = Stores::open(&config).await?;
    let (ca, tls) = certificate(&config, &data)?;
    let settings = Settings {
        master_key: master_key::load(&data, environment)?,
        https_port_asked: loaded.https_port_asked,
        roles,
        stores: stores.clone(),
        tls,
        config: config.clone(),
        clock: Clock::default(),
    };
    let mut hub = Hub::start(settings).await?;
    let outcome = tokio::select! {
        failure = watch(&mut hub, &config, &data, ca, greet) => Err(failure),
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
    greet: bool,
) -> Failure {
    let told = async {
        hub.ready().await?;
        match hub.gateway {
            Some(addresses) if greet => tell(hub, addresses, config, data, ca).await,
            _ => Ok(()),
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

async fn tell(
    hub: &Hub,
    addresses: Addresses,
    config: &Config,
    data: &Path,
    ca: Option<PathBuf>,
) -> Result<(), Failure> {
    let owner = hub.owner_connection_string(addresses.https.port()).await?;
    let file = HubFile {
        hostname: config.hostname().to_owned(),
        bind: config.gateway.bind,
        mqtt_port: addresses.mqtt.port(),
        https_port: addresses.https.port(),
        admin_port: hub.admin.port(),
        ca,
        owner_connection_string: owner.to_string(),
        pid: std::process::id(),
    };
    file.write(data).with_context(|| format!("cannot write {}", HubFile::path(data).display()))?;
    // Another port than the configuration's, which is not 0, was taken in its place.
    let asked = config.gateway.https_port;
    let instead = asked != 0 && asked != file.https_port;
    match line(&banner(&file, hub.admin, addresses, instead, data)) {
        // Nobody reads it, but there may be somebody who wants the hub.
        Err(Failure::BrokenPipe) => Ok(()),
        written => written,
    }
}

fn banner(
    file: &HubFile,
    admin: SocketAddr,
    addresses: Addresses,
    instead: bool,
    data: &Path,
) -> String {
    let ca = file
        .ca
        .as_ref()
        .map_or("(the certificate was given)".into(), |ca| ca.display().to_string());
    let https = if instead {
        format!("{} (443 is not permitted; SDKs that know no other need it)", addresses.https)
    } else {
        addresses.https.to_string()
    };
    // The folder only where the commands would not find it by themselves.
    let elsewhere = match std::path::absolute(default_data()) {
        Ok(default) if default == data => String::new(),
        _ => format!(" --data {}", data.display()),
    };
    format!(
        "dunlin {version} is ready

  host name          {host}
  MQTT over TLS      {mqtt}
  HTTPS              {https}
  health, metrics    http://{admin}
  CA certificate     {ca}
  connection string  {owner}

Next:
  {dunlin} device create -d my-device{elsewhere}
  {dunlin} device connection-string -d my-device{elsewhere}
  {dunlin} events monitor{elsewhere}
",
        dunlin = program(),
        version = env!("CARGO_PKG_VERSION"),
        host = file.hostname,
        mqtt = addresses.mqtt,
        owner = file.owner_connection_string,
    )
}

/// How to call this program from the current folder: by name where the shell finds it, else by path.
fn program() -> String {
    let Ok(exe) = std::env::current_exe().and_then(std::fs::canonicalize) else {
        return "dunlin".to_owned();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path);
    if folders.any(|folder| folder.join("dunlin").canonicalize().is_ok_and(|found| found == exe)) {
        return "dunlin".to_owned();
    }
    let here = std::env::current_dir().and_then(std::fs::canonicalize).unwrap_or_default();
    exe.strip_prefix(here).unwrap_or(&exe).display().to_string()
}

/// Embedded stores are this process's alone, so what has to share them must be in it: a gateway
/// apart would not hear of a revocation, an API apart would read an empty event log.
fn refuse_parts(roles: &[Role]) -> Result<()> {
    let missing: Vec<_> = Role::ALL.into_iter().filter(|role| !roles.contains(role)).collect();
    let [first, ..] = missing.as_slice() else { return Ok(()) };
    anyhow::bail!(
        "the role {first} is missing: with embedded stores all roles run in one process, since no \
         other can see them. Leave --roles out; roles are split once the stores are servers"
    )
}

/// The data folder, made if need be; absolute, for it is told to other processes.
fn data_folder(config: &Config) -> Result<PathBuf> {
    let data = std::path::absolute(&config.hub.data)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&data)
        .with_context(|| format!("cannot create the data folder {}", data.display()))?;
    Ok(data)
}

/// The given certificate, or a development one and the CA to trust for it.
fn certificate(config: &Config, data: &Path) -> Result<(Option<PathBuf>, TlsFiles)> {
    let config::Tls { certificate, key } = config.tls.clone();
    match (certificate.as_os_str().is_empty(), key.as_os_str().is_empty()) {
        (true, true) => {
            let made = tls::develop(data, &config.names())?;
            Ok((Some(made.ca), made.server))
        }
        (false, false) => Ok((None, TlsFiles { certificate, key })),
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
