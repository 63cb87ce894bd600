//! What a hub that is ready tells: where it is, and how its owner logs in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::ValueEnum;

use super::default_data;
use super::failure::Failure;
use super::output::line;
use crate::config::Config;
use crate::hub::Hub;
use crate::hub_file::HubFile;

/// Whom a hub tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Announce {
    /// The commands on this machine, by hub.json in the data folder.
    File,
    /// Who reads standard output, too, as `dunlin up` does.
    Print,
}

/// Asks the registry, wherever it runs, for the owner's key: so this waits for it.
pub(super) async fn announce(
    how: Announce,
    hub: &mut Hub,
    config: &Config,
    data: &Path,
    ca: Option<PathBuf>,
) -> Result<(), Failure> {
    let Some(addresses) = hub.gateway else {
        return Err(anyhow!("--announce: this process has no gateway to tell of").into());
    };
    let owner = hub.owner_connection_string(addresses.https.port());
    let owner = tokio::select! {
        owner = owner => owner?,
        failure = hub.failed() => return Err(failure.into()),
    };
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
    if how == Announce::File {
        return Ok(());
    }
    // Another port than the configuration's, which is not 0, was taken in its place.
    let asked = config.gateway.https_port;
    let instead = asked != 0 && asked != file.https_port;
    match line(&banner(&file, hub.admin, instead, data)) {
        // Nobody reads it, but there may be somebody who wants the hub.
        Err(Failure::BrokenPipe) => Ok(()),
        written => written,
    }
}

fn banner(file: &HubFile, admin: SocketAddr, instead: bool, data: &Path) -> String {
    let address = |port| SocketAddr::new(file.bind, port);
    let ca = file
        .ca
        .as_ref()
        .map_or("(the certificate was given)".into(), |ca| ca.display().to_string());
    let https = address(file.https_port);
    let https = if instead {
        format!("{https} (443 is not permitted; SDKs that know no other need it)")
    } else {
        https.to_string()
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
        mqtt = address(file.mqtt_port),
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
