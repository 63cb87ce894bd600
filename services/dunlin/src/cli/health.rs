//! `dunlin health`: whether a hub is ready, for containers, which have no `curl`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use toml::Table;

use super::failure::Failure;
use super::output::line;
use crate::client;
use crate::config::{self, Environment};

/// A hub that is alive answers at once.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(super) struct HealthArgs {
    /// Where its admin port is [default: 127.0.0.1:9600, or as DUNLIN__ADMIN__BIND and
    /// DUNLIN__ADMIN__PORT have it]
    #[arg(long, value_name = "IP:PORT")]
    address: Option<SocketAddr>,
}

pub(super) async fn run(arguments: HealthArgs, environment: &Environment) -> Result<(), Failure> {
    let address = match arguments.address {
        Some(address) => address,
        None => {
            let admin = config::load(None, environment, Table::new())?.config.admin;
            let here = admin.bind.is_unspecified().then_some(Ipv4Addr::LOCALHOST.into());
            SocketAddr::new(here.unwrap_or(admin.bind), admin.port)
        }
    };
    let away = |error| {
        let why = anyhow::Error::from(error);
        Failure::NoHub(format!(
            "nothing answers at {address}: {why:#}\n--address says where a hub's admin port is"
        ))
    };
    // No TLS, so no certificates: a machine may have none.
    let http = client::http().tls_certs_only([]).timeout(TIMEOUT).build().map_err(away)?;
    let answer = http.get(format!("http://{address}/readyz")).send().await.map_err(away)?;
    let ready = answer.status().is_success();
    let roles = answer.text().await.map_err(away)?;
    if !ready {
        return Err(Failure::Refused(format!("it is not ready; its log says why\n{roles}")));
    }
    line(roles.trim_end())
}
