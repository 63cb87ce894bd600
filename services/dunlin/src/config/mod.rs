//! The configuration: one tree, nested by crate. File, then environment, then flags.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

#[cfg(test)]
mod tests;

/// The annotated reference, made from the doc comments below and of the other crates' `Config`s
/// (`config::tests` makes it and checks the committed copy).
pub const REFERENCE: &str = include_str!("../../../../docs/hub.toml");

/// A setting `[section] key` is read from `DUNLIN__SECTION__KEY` too.
const PREFIX: &str = "DUNLIN__";

/// As every program with OpenTelemetry has it.
const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The environment, passed in so that nothing reads it behind a test's back.
pub type Environment = BTreeMap<String, String>;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub hub: Hub,
    pub tls: Tls,
    pub gateway: dunlin_gateway::Config,
    pub twins: dunlin_model::twin::Limits,
    pub methods: dunlin_methods::Config,
    pub c2d: dunlin_c2d::Config,
    pub stores: Stores,
    pub mesh: dunlin_runtime::mesh::Config,
    pub admin: Admin,
    pub telemetry: dunlin_runtime::telemetry::TelemetryConfig,
}

/// What the whole hub shares.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hub {
    /// Names of this hub; connection strings carry the first. `localhost`, `hub.localhost` and the
    /// bind address are always among those that tokens and user names may use.
    pub hostnames: Vec<String>,
    /// Data folder: keys, certificates, hub.json, and the embedded stores.
    pub data: PathBuf,
}

/// The server certificate. Both empty: a development CA and a certificate of it are made in the
/// data folder.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file of the certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
}

/// Which side of each store is used, by URL.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stores {
    /// Devices, modules, policies and C2D messages: `embedded:` (in the data folder),
    /// `embedded:FOLDER`, or `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, over a network with
    /// `?sslmode=verify-full&sslrootcert=FILE`.
    pub devices: String,
    /// What devices send: `embedded:` (in the data folder), `embedded:FOLDER`, or
    /// `kafka://[USER:PASSWORD@]HOST:PORT[,HOST:PORT]?prefix=NAME&replication=N`, which also takes
    /// delivery_timeout (seconds), tls, sslrootcert and sasl.
    pub events: String,
    /// Which gateway holds which device: `memory:`, or `redis://:PASSWORD@HOST:PORT`, over a network
    /// `rediss://…?sslrootcert=FILE`; hubs that share a server have a `prefix=NAME` each.
    pub presence: String,
    /// Partitions of the event log. Fixed when the log is made.
    pub event_partitions: u32,
    /// Hours that the event log keeps what devices sent. Of a topic that is there, Kafka knows.
    pub event_retention_hours: u64,
}

/// `/livez`, `/readyz` and `/metrics`, over plain HTTP.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address it binds to.
    pub bind: IpAddr,
    /// Its port.
    pub port: u16,
}

impl Default for Hub {
    fn default() -> Self {
        Self { hostnames: vec!["localhost".to_owned()], data: "./dunlin-data".into() }
    }
}

impl Default for Stores {
    fn default() -> Self {
        Self {
            devices: "embedded:".to_owned(),
            events: "embedded:".to_owned(),
            presence: "memory:".to_owned(),
            event_partitions: 4,
            event_retention_hours: 24,
        }
    }
}

impl Stores {
    /// A store that is this process's alone: its setting and URL.
    pub fn own(&self) -> Option<(&'static str, &str)> {
        let urls =
            [("devices", &self.devices), ("events", &self.events), ("presence", &self.presence)];
        let own = |url: &str| url.starts_with("embedded:") || url.starts_with("memory:");
        urls.into_iter().find(|(_, url)| own(url)).map(|(setting, url)| (setting, url.as_str()))
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { bind: Ipv4Addr::LOCALHOST.into(), port: 9600 }
    }
}

impl Config {
    /// Every name of this hub, for tokens, user names and the certificate.
    pub fn names(&self) -> Vec<String> {
        let bind = self.gateway.bind;
        let address = if bind.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { bind };
        let mut names = self.hub.hostnames.clone();
        for name in ["localhost", "hub.localhost", &address.to_string()] {
            if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                names.push(name.to_owned());
            }
        }
        names
    }

    /// The name that connection strings carry.
    pub fn hostname(&self) -> &str {
        self.hub.hostnames.first().map_or("localhost", String::as_str)
    }
}

/// Where another port may be taken, unless this one was asked for by a flag.
const DEFAULT_HTTPS_PORT: i64 = 443;

/// A configuration, and what of it somebody asked for.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Whether the HTTPS port was asked for: then no other is taken instead.
    pub https_port_asked: bool,
}

/// Reads the file (if any), lays the environment over it, and the flags over both.
pub fn load(file: Option<&Path>, environment: &Environment, flags: Table) -> Result<Loaded> {
    let mut table = match file {
        Some(path) => {
            let name = path.display();
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the configuration {name}"))?;
            text.parse().with_context(|| format!("{name} is not TOML"))?
        }
        None => Table::new(),
    };
    overlay(&mut table, from_environment(environment));
    let https_port = |table: &Table| table.get("gateway")?.get("https_port")?.as_integer();
    // A printed configuration has every default in it: 443 there was not asked for, as a flag is.
    let by_file = https_port(&table).is_some_and(|port| port != DEFAULT_HTTPS_PORT);
    let https_port_asked = https_port(&flags).is_some() || by_file;
    overlay(&mut table, flags);
    let mut config: Config = table
        .try_into()
        .context("the configuration has a mistake (`dunlin config --print` shows every setting)")?;
    if config.telemetry.otlp_endpoint.is_empty()
        && let Some(endpoint) = environment.get(OTLP_ENDPOINT)
    {
        config.telemetry.otlp_endpoint.clone_from(endpoint);
    }
    Ok(Loaded { config, https_port_asked })
}

fn from_environment(environment: &Environment) -> Table {
    let mut table = Table::new();
    for (name, text) in environment {
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let path = path.to_ascii_lowercase();
        let mut value = read(text);
        let mut keys: Vec<_> = path.split("__").collect();
        while let Some(key) = keys.pop() {
            value = Value::Table(Table::from_iter([(key.to_owned(), value)]));
        }
        if let Value::Table(one) = value {
            overlay(&mut table, one);
        }
    }
    table
}

/// A number, list or quoted text as TOML has it; everything else is text as it stands.
fn read(text: &str) -> Value {
    format!("value = {text}")
        .parse::<Table>()
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| text.into())
}

fn overlay(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}
