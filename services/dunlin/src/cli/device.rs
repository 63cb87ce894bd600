//! `dunlin device …`

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::LoginArgs;
use super::failure::Failure;
use super::identity::{self, AuthArgs, DeviceArgs, KeyType, MaybeModuleArgs, Renewal, text};
use super::output::{self, line, table};
use super::simulate::{self, SimulateArgs};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Register a device; its keys are made by the hub.
    #[command(after_help = "Example:\n  dunlin device create -d my-device")]
    Create {
        #[command(flatten)]
        device: DeviceArgs,
        #[command(flatten)]
        auth: AuthArgs,
        /// It is an IoT Edge gateway.
        #[arg(long, visible_alias = "ee")]
        edge_enabled: bool,
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
    /// Make new keys, or let the two change places. Tokens of a key that is gone are refused.
    #[command(after_help = "\
Example: rotate without a moment in which no key is valid: the device takes the secondary key,
then the primary one is made anew
  dunlin device connection-string -d my-device --key-type secondary
  dunlin device renew-key -d my-device --key primary")]
    RenewKey {
        #[command(flatten)]
        device: DeviceArgs,
        #[command(flatten)]
        module: MaybeModuleArgs,
        /// Which of its keys.
        #[arg(long, visible_aliases = ["key-type", "kt"])]
        key: Renewal,
        /// Print the identity as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the connection string a device SDK wants.
    #[command(
        after_help = "Example:\n  export IOTHUB_DEVICE_CONNECTION_STRING=\"$(dunlin device connection-string -d my-device)\""
    )]
    ConnectionString {
        #[command(flatten)]
        device: DeviceArgs,
        #[command(flatten)]
        module: MaybeModuleArgs,
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
        module: MaybeModuleArgs,
        /// Which of its keys.
        #[arg(long, visible_alias = "kt", default_value = "primary")]
        key_type: KeyType,
        /// Seconds it is valid for.
        #[arg(long, visible_alias = "du", default_value_t = 3_600)]
        duration: u64,
    },
    /// Send telemetry as a device, over MQTT.
    #[command(after_help = "\
Example: 1000 messages of 512 bytes, 50 a second, from ten devices (made if they are not there)
  dunlin device simulate -d sim --devices 10 --count 1000 --rate 50 --size 512")]
    Simulate(SimulateArgs),
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Status {
    Enabled,
    Disabled,
}

const COLUMNS: [(&str, &str); 5] = [
    ("DEVICE ID", "/deviceId"),
    ("STATUS", "/status"),
    ("CONNECTION", "/connectionState"),
    ("AUTHENTICATION", "/authentication/type"),
    ("REASON", "/statusReason"),
];

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Create { device, auth, edge_enabled, json } => {
            let id = device.id()?;
            let body = json!({
                "deviceId": device.device_id,
                "status": "enabled",
                "authentication": auth.body()?,
                "capabilities": { "iotEdge": edge_enabled },
            });
            let made = device.login.client()?.device_put(id.as_str(), &body, None).await?;
            identity::created(&id, &made, json)
        }
        Command::Show { device, .. } => {
            output::json(&device.login.client()?.device_get(device.id()?.as_str()).await?)
        }
        Command::List { login, top, json } => {
            let devices = login.client()?.device_list(top).await?;
            if json { output::json(&devices) } else { table(&identity::rows(&devices, &COLUMNS)) }
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
        Command::RenewKey { device, module, key, json } => {
            let id = device.id_of(&module)?;
            let updated = identity::renew_key(&device.login.client()?, &id, key).await?;
            if json { output::json(&updated) } else { identity::say_renewed(&id, key) }
        }
        Command::ConnectionString { device, module, key_type } => {
            let id = device.id_of(&module)?;
            identity::connection_string(&device.login.client()?, id, key_type).await
        }
        Command::SasToken { device, module, key_type, duration } => {
            let id = device.id_of(&module)?;
            identity::sas_token(&device.login.client()?, &id, key_type, duration).await
        }
        Command::Simulate(arguments) => simulate::run(arguments).await,
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
