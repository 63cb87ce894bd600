//! `<data>/hub.json`: how the other commands find a hub on this machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files;

const FILE: &str = "hub.json";

/// Written when the hub is ready and left behind when it ends: `pid` tells whether it still runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubFile {
    pub hostname: String,
    pub bind: IpAddr,
    pub mqtt_port: u16,
    pub https_port: u16,
    pub admin_port: u16,
    /// The development CA; none where the certificate was given.
    pub ca: Option<PathBuf>,
    pub owner_connection_string: String,
    pub pid: u32,
}

impl HubFile {
    pub fn path(data: &Path) -> PathBuf {
        data.join(FILE)
    }

    pub(crate) fn write(&self, data: &Path) -> std::io::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        files::replace(&Self::path(data), text.as_bytes())
    }

    pub fn read(data: &Path) -> std::io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(Self::path(data))?)?)
    }

    /// Where HTTPS is reached: the host name need not resolve on this machine.
    pub fn https_address(&self) -> SocketAddr {
        let address = match self.bind {
            any if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            one => one,
        };
        SocketAddr::new(address, self.https_port)
    }
}
