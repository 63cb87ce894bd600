//! Which hub a command speaks to, and as whom.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use dunlin_auth::connection_string::Signer;
use dunlin_auth::{ConnectionString, Key};

use super::default_data;
use super::failure::Failure;
use crate::client::Client;
use crate::hub_file::HubFile;

/// Where official SDKs expect it.
const MQTT_PORT: u16 = 8883;

#[derive(Args)]
pub(super) struct LoginArgs {
    /// Connection string of a policy of the hub. Without it, the hub of this machine is asked.
    #[arg(long, short = 'l', env = "DUNLIN_LOGIN", hide_env_values = true, value_name = "CONNSTR")]
    login: Option<String>,
    /// CA file of the hub that --login names. Without it, the system's CAs are trusted.
    #[arg(long, env = "DUNLIN_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Data folder of the hub on this machine.
    #[arg(
        long,
        visible_alias = "data-folder",
        default_value_os_t = default_data(),
        value_name = "FOLDER"
    )]
    data: PathBuf,
}

/// The same for a command whose `--data` is the body of a message, as `az iot` has it.
#[derive(Args)]
pub(super) struct SenderLoginArgs {
    /// Connection string of a policy of the hub. Without it, the hub of this machine is asked.
    #[arg(long, short = 'l', env = "DUNLIN_LOGIN", hide_env_values = true, value_name = "CONNSTR")]
    login: Option<String>,
    /// CA file of the hub that --login names. Without it, the system's CAs are trusted.
    #[arg(long, env = "DUNLIN_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Data folder of the hub on this machine.
    #[arg(long, default_value_os_t = default_data(), value_name = "FOLDER")]
    data_folder: PathBuf,
}

impl From<SenderLoginArgs> for LoginArgs {
    fn from(arguments: SenderLoginArgs) -> Self {
        let SenderLoginArgs { login, ca, data_folder: data } = arguments;
        Self { login, ca, data }
    }
}

impl LoginArgs {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        // An empty variable is one that was not meant.
        match self.login.as_ref().filter(|text| !text.is_empty()) {
            Some(text) => {
                let login = parse(text)?;
                let ca = self.ca.as_ref().map(read).transpose()?;
                Ok(Client::new(login, ca.as_deref(), None)?)
            }
            None => self.local(),
        }
    }

    /// By the file that a running hub leaves in its data folder.
    fn file(&self) -> Result<HubFile, Failure> {
        let path = HubFile::path(&self.data);
        HubFile::read(&self.data).map_err(|error| {
            Failure::NoHub(format!(
                "there is no hub at {} ({error})\nstart one with `dunlin up`, or name another \
                 with --data, --login or DUNLIN_LOGIN",
                path.display()
            ))
        })
    }

    /// After a key of the policy `name` was renewed: if it is the one by which the commands of this
    /// machine log in, its hub's file is given the primary key of now. Returns that file.
    pub(super) fn follow(&self, name: &str, primary: &str) -> Result<Option<PathBuf>, Failure> {
        if self.login.as_ref().is_some_and(|text| !text.is_empty()) {
            return Ok(None);
        }
        let mut file = self.file()?;
        let login = parse(&file.owner_connection_string)?;
        if !matches!(&login.signer, Signer::Policy(owner) if owner.eq_ignore_ascii_case(name)) {
            return Ok(None);
        }
        let key = Key::from_base64(primary).map_err(|error| Failure::Refused(error.message))?;
        file.owner_connection_string = ConnectionString { key, ..login }.to_string();
        let path = HubFile::path(&self.data);
        let written = file.write(&self.data).with_context(|| {
            format!(
                "the key is renewed, but {} still holds the old one: start the hub again, which \
                 writes it anew",
                path.display()
            )
        });
        written?;
        Ok(Some(path))
    }

    fn local(&self) -> Result<Client, Failure> {
        let file = self.file()?;
        let login = parse(&file.owner_connection_string)?;
        let ca = self.ca.as_ref().or(file.ca.as_ref()).map(read).transpose()?;
        Ok(Client::new(login, ca.as_deref(), Some(file.https_address()))?)
    }
}

/// Where devices connect to the same hub by MQTT.
pub(super) struct MqttTarget {
    /// To connect to; the certificate names it.
    pub address: String,
    pub port: u16,
    /// The name that user names and tokens carry.
    pub hostname: String,
    /// Trust this PEM certificate and no other.
    pub ca: Option<Vec<u8>>,
}

impl LoginArgs {
    /// `port`: whatever the hub's file says.
    pub(super) fn mqtt(&self, port: Option<u16>) -> Result<MqttTarget, Failure> {
        if let Some(text) = self.login.as_ref().filter(|text| !text.is_empty()) {
            let hostname = parse(text)?.hostname().to_owned();
            let ca = self.ca.as_ref().map(read).transpose()?;
            let port = port.unwrap_or(MQTT_PORT);
            return Ok(MqttTarget { address: hostname.clone(), port, hostname, ca });
        }
        let file = self.file()?;
        // A development certificate names the address, too, and the host name need not resolve.
        let address = match &file.ca {
            Some(_) => file.https_address().ip().to_string(),
            None => file.hostname.clone(),
        };
        let ca = self.ca.as_ref().or(file.ca.as_ref()).map(read).transpose()?;
        let port = port.unwrap_or(file.mqtt_port);
        Ok(MqttTarget { address, port, hostname: file.hostname, ca })
    }
}

fn parse(text: &str) -> Result<ConnectionString, Failure> {
    ConnectionString::parse(text).map_err(|error| Failure::Usage(error.to_string()))
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    let read = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    read.map_err(|error| Failure::Usage(format!("{error:#}")))
}
