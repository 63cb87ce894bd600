//! Which hub a command speaks to, and as whom.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use dunlin_auth::ConnectionString;

use super::default_data;
use super::failure::Failure;
use crate::client::Client;
use crate::hub_file::HubFile;

#[derive(Args)]
pub(super) struct LoginArgs {
    /// Connection string of a policy of the hub. Without it, the hub of this machine is asked.
    #[arg(long, short = 'l', env = "DUNLIN_LOGIN", hide_env_values = true, value_name = "CONNSTR")]
    login: Option<String>,
    /// CA file of the hub that --login names. Without it, the system's CAs are trusted.
    #[arg(long, env = "DUNLIN_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Data folder of the hub on this machine.
    #[arg(long, default_value_os_t = default_data(), value_name = "FOLDER")]
    data: PathBuf,
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
    fn local(&self) -> Result<Client, Failure> {
        let path = HubFile::path(&self.data);
        let file = HubFile::read(&self.data).map_err(|error| {
            Failure::NoHub(format!(
                "there is no hub at {} ({error})\nstart one with `dunlin up`, or name another \
                 with --data, --login or DUNLIN_LOGIN",
                path.display()
            ))
        })?;
        let login = parse(&file.owner_connection_string)?;
        let ca = self.ca.as_ref().or(file.ca.as_ref()).map(read).transpose()?;
        Ok(Client::new(login, ca.as_deref(), Some(file.https_address()))?)
    }
}

fn parse(text: &str) -> Result<ConnectionString, Failure> {
    ConnectionString::parse(text).map_err(|error| Failure::Usage(error.to_string()))
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    let read = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    read.map_err(|error| Failure::Usage(format!("{error:#}")))
}
