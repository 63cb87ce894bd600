//! `dunlin device …`

use clap::{Subcommand, ValueEnum};
use dunlin_model::limits::LIST_DEVICES;
use serde_json::{Value, json};

use super::LoginArgs;
use super::failure::Failure;
use super::identity::{self, AuthArgs, DeviceArgs, KeyType, MaybeModuleArgs, Renewal, text};
use super::output::{self, Array, Table, line};
use super::simulate::{self, SimulateArgs};
use crate::client::Client;

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
        #[arg(long, visible_alias = "ee", num_args = 0..=1, value_name = "true|false",
              default_value_t = false, default_missing_value = "true")]
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
        /// How many at most; -1: all.
        #[arg(long, default_value = "-1", allow_negative_numbers = true, value_parser = at_most,
              value_name = "N")]
        top: usize,
        /// Print whole identities as a JSON array, keys included.
        #[arg(long)]
        json: bool,
    },
    /// Change a device: its status, how it authenticates, whether it is an IoT Edge gateway.
    #[command(after_help = "\
Example: lock a device out
  dunlin device update -d my-device --status disabled --status-reason stolen
Example: from keys to a certificate of its own
  dunlin device update -d my-device --auth-method x509_thumbprint --primary-thumbprint A1B2…")]
    Update {
        #[command(flatten)]
        device: DeviceArgs,
        #[arg(long, visible_alias = "sta")]
        status: Option<Status>,
        /// Why it has this status; empty: no reason.
        #[arg(long, visible_alias = "star")]
        status_reason: Option<String>,
        #[command(flatten)]
        auth: AuthArgs,
        /// It is an IoT Edge gateway, or is none any more.
        #[arg(long, visible_alias = "ee", num_args = 0..=1, value_name = "true|false",
              default_missing_value = "true")]
        edge_enabled: Option<bool>,
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
                "authentication": auth.of_new()?,
                "capabilities": { "iotEdge": edge_enabled },
            });
            let made = device.login.client()?.device_put(id.as_str(), &body, None).await?;
            identity::created(&id, &made, json)
        }
        Command::Show { device, .. } => {
            output::json(&device.login.client()?.device_get(device.id()?.as_str()).await?)
        }
        Command::List { login, top, json } => list(&login.client()?, top, json).await,
        Command::Update { device, status, status_reason, auth, edge_enabled, etag, json } => {
            if status.is_none()
                && status_reason.is_none()
                && auth.is_empty()
                && edge_enabled.is_none()
            {
                let text = "nothing to update: give --status, --status-reason, --auth-method, keys \
                            or thumbprints, or --edge-enabled";
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
            auth.change(&mut body)?;
            if let Some(edge) = edge_enabled {
                body["capabilities"] = json!({ "iotEdge": edge });
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

/// Page by page: all the devices of a large hub are never held at once.
async fn list(client: &Client, top: usize, json: bool) -> Result<(), Failure> {
    let (mut array, mut table) = (Array::default(), Table::default());
    if !json {
        table.rows(&identity::rows(&Value::Null, &COLUMNS))?;
    }
    let (mut left, mut after) = (top, None);
    loop {
        let page = client.device_page(left.min(LIST_DEVICES), after.as_ref()).await?;
        left -= page.devices.as_array().map_or(0, Vec::len).min(left);
        if json {
            array.items(&page.devices)?;
        } else {
            table.rows(&identity::rows(&page.devices, &COLUMNS)[1..])?;
        }
        after = page.next;
        if after.is_none() || left == 0 {
            return if json { array.end() } else { Ok(()) };
        }
    }
}

fn at_most(text: &str) -> Result<usize, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(usize::MAX),
        Ok(count @ 1..) => usize::try_from(count).map_err(|error| error.to_string()),
        _ => Err("give a number above 0, or -1 for all".to_owned()),
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
