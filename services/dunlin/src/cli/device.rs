//! `dunlin device …`

use clap::{Args, Subcommand, ValueEnum};
use dunlin_auth::connection_string::Signer;
use dunlin_auth::{ConnectionString, Key, sas};
use dunlin_model::Identity;
use dunlin_runtime::clock::unix_seconds;
use serde_json::{Value, json};

use super::LoginArgs;
use super::failure::Failure;
use super::output::{self, line, table};
use crate::client::Client;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Register a device; its keys are made by the hub.
    #[command(after_help = "Example:\n  dunlin device create -d my-device")]
    Create {
        #[command(flatten)]
        device: DeviceArgs,
        /// Primary key in base64, instead of one the hub makes.
        #[arg(long, visible_alias = "pk", requires = "secondary_key")]
        primary_key: Option<String>,
        /// Secondary key in base64.
        #[arg(long, visible_alias = "sk", requires = "primary_key")]
        secondary_key: Option<String>,
        /// Print the identity as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a device as JSON, keys included.
    #[command(after_help = "Example:\n  dunlin device show -d my-device")]
    Show {
        #[command(flatten)]
        device: DeviceArgs,
        /// Taken for the sake of scripts: it is JSON in any case.
        #[arg(long)]
        json: bool,
    },
    /// List devices, ordered by id.
    #[command(after_help = "Example:\n  dunlin device list --top 10 --json")]
    List {
        #[command(flatten)]
        login: LoginArgs,
        /// How many, 1000 at most.
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        top: u32,
        /// Print whole identities as a JSON array, keys included.
        #[arg(long)]
        json: bool,
    },
    /// Enable or disable a device.
    #[command(
        after_help = "Example:\n  dunlin device update -d my-device --status disabled --status-reason stolen"
    )]
    Update {
        #[command(flatten)]
        device: DeviceArgs,
        #[arg(long)]
        status: Option<Status>,
        /// Why it has this status; empty: no reason.
        #[arg(long)]
        status_reason: Option<String>,
        /// Only if this is the current ETag.
        #[arg(long)]
        etag: Option<String>,
        /// Print the identity as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove a device and its modules.
    #[command(after_help = "Example:\n  dunlin device delete -d my-device")]
    Delete {
        #[command(flatten)]
        device: DeviceArgs,
        /// Only if this is the current ETag.
        #[arg(long)]
        etag: Option<String>,
    },
    /// Print the connection string a device SDK wants.
    #[command(
        after_help = "Example:\n  export IOTHUB_DEVICE_CONNECTION_STRING=\"$(dunlin device connection-string -d my-device)\""
    )]
    ConnectionString {
        #[command(flatten)]
        device: DeviceArgs,
        #[command(flatten)]
        module: ModuleArgs,
        /// Which of its keys.
        #[arg(long, visible_alias = "kt", default_value = "primary")]
        key_type: KeyType,
    },
    /// Print a SAS token, as an MQTT password or HTTPS Authorization.
    #[command(after_help = "Example:\n  dunlin device sas-token -d my-device --duration 600")]
    SasToken {
        #[command(flatten)]
        device: DeviceArgs,
        #[command(flatten)]
        module: ModuleArgs,
        /// Which of its keys.
        #[arg(long, visible_alias = "kt", default_value = "primary")]
        key_type: KeyType,
        /// Seconds it is valid for.
        #[arg(long, visible_alias = "du", default_value_t = 3_600)]
        duration: u64,
    },
}

#[derive(Args)]
pub(super) struct DeviceArgs {
    /// Id of the device.
    #[arg(long, short = 'd', value_name = "ID")]
    device_id: String,
    #[command(flatten)]
    login: LoginArgs,
}

#[derive(Args)]
pub(super) struct ModuleArgs {
    /// Id of a module of the device, whose key it is then.
    #[arg(long, short = 'm', value_name = "ID")]
    module_id: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Status {
    Enabled,
    Disabled,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum KeyType {
    Primary,
    Secondary,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Create { device, primary_key, secondary_key, json } => {
            let client = device.login.client()?;
            let id = device.id()?;
            let body = json!({
                "deviceId": device.device_id,
                "status": "enabled",
                "authentication": {
                    "type": "sas",
                    "symmetricKey": {
                        "primaryKey": primary_key.unwrap_or_default(),
                        "secondaryKey": secondary_key.unwrap_or_default(),
                    },
                },
            });
            let made = client.device_put(id.as_str(), &body, None).await?;
            if json {
                return output::json(&made);
            }
            line(&format!("created {id}"))?;
            line(&format!("its connection string: dunlin device connection-string -d {id}"))
        }
        Command::Show { device, .. } => {
            output::json(&device.login.client()?.device_get(device.id()?.as_str()).await?)
        }
        Command::List { login, top, json } => {
            let devices = login.client()?.device_list(top).await?;
            if json { output::json(&devices) } else { list(&devices) }
        }
        Command::Update { device, status, status_reason, etag, json } => {
            if status.is_none() && status_reason.is_none() {
                let text = "nothing to update: give --status or --status-reason";
                return Err(Failure::Usage(text.to_owned()));
            }
            let client = device.login.client()?;
            let id = device.id()?;
            // Read, change, write under the ETag that was read, as the API has no smaller step.
            let mut body = client.device_get(id.as_str()).await?;
            let read = text(&body, "/etag").to_owned();
            if let Some(status) = status {
                body["status"] = status.text().into();
            }
            if let Some(reason) = status_reason {
                body["statusReason"] = if reason.is_empty() { Value::Null } else { reason.into() };
            }
            let etag = etag.unwrap_or(read);
            let updated = client.device_put(id.as_str(), &body, Some(&etag)).await?;
            if json {
                return output::json(&updated);
            }
            line(&format!("{id} is {}", text(&updated, "/status")))
        }
        Command::Delete { device, etag } => {
            let client = device.login.client()?;
            let id = device.id()?;
            client.device_delete(id.as_str(), etag.as_deref().unwrap_or("*")).await?;
            line(&format!("deleted {id}"))
        }
        Command::ConnectionString { device, module, key_type } => {
            let client = device.login.client()?;
            let id = device.id_of(&module)?;
            let key = key(&client, &id, key_type).await?;
            let host = client.login().host.clone();
            line(&ConnectionString { host, signer: Signer::Identity(id), key }.to_string())
        }
        Command::SasToken { device, module, key_type, duration } => {
            let client = device.login.client()?;
            let id = device.id_of(&module)?;
            let key = key(&client, &id, key_type).await?;
            // Raw ids, as the SDKs have them in `sr` and look for them there.
            let host = client.login().hostname();
            let resource = match id.module_id() {
                None => format!("{host}/devices/{}", id.device_id()),
                Some(module) => format!("{host}/devices/{}/modules/{module}", id.device_id()),
            };
            line(&sas::sign(&resource, None, &key, unix_seconds().saturating_add(duration)))
        }
    }
}

impl DeviceArgs {
    fn id(&self) -> Result<Identity, Failure> {
        Identity::device(&self.device_id).map_err(|error| Failure::Usage(error.message))
    }

    fn id_of(&self, module: &ModuleArgs) -> Result<Identity, Failure> {
        match &module.module_id {
            Some(module) => Identity::module(&self.device_id, module)
                .map_err(|error| Failure::Usage(error.message)),
            None => self.id(),
        }
    }
}

impl Status {
    fn text(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
        }
    }
}

async fn key(client: &Client, id: &Identity, which: KeyType) -> Result<Key, Failure> {
    let identity = client.device_get(id.as_str()).await?;
    let name = match which {
        KeyType::Primary => "/authentication/symmetricKey/primaryKey",
        KeyType::Secondary => "/authentication/symmetricKey/secondaryKey",
    };
    Key::from_base64(text(&identity, name)).map_err(|_| {
        let kind = text(&identity, "/authentication/type");
        Failure::Usage(format!("{id} has no symmetric key: its authentication is {kind}"))
    })
}

fn list(devices: &Value) -> Result<(), Failure> {
    let mut rows =
        vec![["DEVICE ID", "STATUS", "AUTHENTICATION", "REASON"].map(str::to_owned).to_vec()];
    for device in devices.as_array().into_iter().flatten() {
        let fields = ["/deviceId", "/status", "/authentication/type", "/statusReason"];
        rows.push(fields.map(|field| text(device, field).to_owned()).to_vec());
    }
    table(&rows)
}

/// The text at a JSON pointer; empty where there is none.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
