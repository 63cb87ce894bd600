//! `dunlin module …`

use clap::Subcommand;
use serde_json::json;

use super::failure::Failure;
use super::identity::{self, AuthArgs, DeviceArgs, KeyType, ModuleArgs, Renewal, text};
use super::output::{self, line, table};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Register a module of a device; its keys are made by the hub.
    #[command(after_help = "Example:\n  dunlin module create -d my-device -m my-module")]
    Create {
        #[command(flatten)]
        module: ModuleArgs,
        #[command(flatten)]
        auth: AuthArgs,
        /// Who looks after it, for example iotedge.
        #[arg(long)]
        managed_by: Option<String>,
        /// Print the identity as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a module as JSON, keys included.
    #[command(after_help = "Example:\n  dunlin module show -d my-device -m my-module")]
    Show {
        #[command(flatten)]
        module: ModuleArgs,
        /// Taken for the sake of scripts: it is JSON in any case.
        #[arg(long)]
        json: bool,
    },
    /// List the modules of a device.
    #[command(after_help = "Example:\n  dunlin module list -d my-device --json")]
    List {
        #[command(flatten)]
        device: DeviceArgs,
        /// Print whole identities as a JSON array, keys included.
        #[arg(long)]
        json: bool,
    },
    /// Change who looks after a module, or how it authenticates. What is not named stays.
    #[command(after_help = "\
Example: from keys to a certificate of its own
  dunlin module update -d my-device -m my-module --auth-method x509_thumbprint \
--primary-thumbprint A1B2…")]
    Update {
        #[command(flatten)]
        module: ModuleArgs,
        #[command(flatten)]
        auth: AuthArgs,
        /// Who looks after it; empty: nobody.
        #[arg(long)]
        managed_by: Option<String>,
        /// Only if this is the current ETag.
        #[arg(long)]
        etag: Option<String>,
        /// Print the identity as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove a module.
    #[command(after_help = "Example:\n  dunlin module delete -d my-device -m my-module")]
    Delete {
        #[command(flatten)]
        module: ModuleArgs,
        /// Only if this is the current ETag.
        #[arg(long)]
        etag: Option<String>,
    },
    /// Make new keys, or let the two change places. Tokens of a key that is gone are refused.
    #[command(
        after_help = "Example:\n  dunlin module renew-key -d my-device -m my-module --key both"
    )]
    RenewKey {
        #[command(flatten)]
        module: ModuleArgs,
        /// Which of its keys.
        #[arg(long, visible_aliases = ["key-type", "kt"])]
        key: Renewal,
        /// Print the identity as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the connection string a module SDK wants.
    #[command(after_help = "Example:\n  dunlin module connection-string -d my-device -m my-module")]
    ConnectionString {
        #[command(flatten)]
        module: ModuleArgs,
        /// Which of its keys.
        #[arg(long, visible_alias = "kt", default_value = "primary")]
        key_type: KeyType,
    },
    /// Print a SAS token, as an MQTT password or HTTPS Authorization.
    #[command(
        after_help = "Example:\n  dunlin module sas-token -d my-device -m my-module --duration 600"
    )]
    SasToken {
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

const COLUMNS: [(&str, &str); 4] = [
    ("MODULE ID", "/moduleId"),
    ("CONNECTION", "/connectionState"),
    ("AUTHENTICATION", "/authentication/type"),
    ("MANAGED BY", "/managedBy"),
];

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Create { module, auth, managed_by, json } => {
            let id = module.id()?;
            let body = json!({
                "deviceId": module.device.device_id,
                "moduleId": module.module_id,
                "managedBy": managed_by,
                "authentication": auth.of_new()?,
            });
            let made = module.client()?.device_put(id.as_str(), &body, None).await?;
            identity::created(&id, &made, json)
        }
        Command::Show { module, .. } => {
            output::json(&module.client()?.device_get(module.id()?.as_str()).await?)
        }
        Command::List { device, json } => {
            let modules = device.login.client()?.module_list(device.id()?.device_id()).await?;
            if json { output::json(&modules) } else { table(&identity::rows(&modules, &COLUMNS)) }
        }
        Command::Update { module, auth, managed_by, etag, json } => {
            if managed_by.is_none() && auth.is_empty() {
                let text =
                    "nothing to update: give --managed-by, --auth-method, keys or thumbprints";
                return Err(Failure::Usage(text.to_owned()));
            }
            let (client, id) = (module.client()?, module.id()?);
            let mut body = client.device_get(id.as_str()).await?;
            let etag = etag.unwrap_or_else(|| text(&body, "/etag").to_owned());
            // Not null, which the hub takes for left out: an empty one clears.
            if let Some(who) = managed_by {
                body["managedBy"] = who.into();
            }
            auth.change(&mut body)?;
            let updated = client.device_put(id.as_str(), &body, Some(&etag)).await?;
            if json {
                return output::json(&updated);
            }
            let kind = text(&updated, "/authentication/type");
            match text(&updated, "/managedBy") {
                "" => line(&format!("{id} authenticates by {kind} and is managed by nobody")),
                who => line(&format!("{id} authenticates by {kind} and is managed by {who}")),
            }
        }
        Command::Delete { module, etag } => {
            let id = module.id()?;
            let etag = etag.as_deref().unwrap_or("*");
            module.client()?.device_delete(id.as_str(), etag).await?;
            line(&format!("deleted {id}"))
        }
        Command::RenewKey { module, key, json } => {
            let id = module.id()?;
            let updated = identity::renew_key(&module.client()?, &id, key).await?;
            if json { output::json(&updated) } else { identity::say_renewed(&id, key) }
        }
        Command::ConnectionString { module, key_type } => {
            identity::connection_string(&module.client()?, module.id()?, key_type).await
        }
        Command::SasToken { module, key_type, duration } => {
            identity::sas_token(&module.client()?, &module.id()?, key_type, duration).await
        }
    }
}
