//! `dunlin policy …`: shared access policies of the hub.

use clap::{Args, Subcommand, ValueEnum};
use dunlin_auth::connection_string::Signer;
use dunlin_auth::{ConnectionString, Key, Permissions};
use serde_json::json;

use super::LoginArgs;
use super::failure::Failure;
use super::identity::{KeyType, rows, text};
use super::output::{self, line, table};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List the policies.
    #[command(after_help = "Example:\n  dunlin policy list --json")]
    List {
        #[command(flatten)]
        login: LoginArgs,
        /// Print whole policies as a JSON array, keys included.
        #[arg(long)]
        json: bool,
    },
    /// Show a policy as JSON, keys included.
    #[command(after_help = "Example:\n  dunlin policy show -n service")]
    Show {
        #[command(flatten)]
        policy: PolicyArgs,
        /// Taken for the sake of scripts: it is JSON in any case.
        #[arg(long)]
        json: bool,
    },
    /// Make a policy; its keys are made by the hub.
    #[command(after_help = "\
Example: a policy for a back end that reads events and looks devices up
  dunlin policy create -n backend --permissions RegistryRead ServiceConnect")]
    Create {
        #[command(flatten)]
        policy: PolicyArgs,
        /// What it permits: RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect.
        #[arg(long, required = true, num_args = 1.., value_delimiter = ',', value_name = "NAME")]
        permissions: Vec<String>,
        /// Primary key in base64, instead of one the hub makes.
        #[arg(long, visible_alias = "pk", requires = "secondary_key")]
        primary_key: Option<String>,
        /// Secondary key in base64.
        #[arg(long, visible_alias = "sk", requires = "primary_key")]
        secondary_key: Option<String>,
        /// Print the policy as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a key anew, or let the two change places. Tokens of a key that is gone are refused.
    #[command(after_help = "Example:\n  dunlin policy renew-key -n service --key secondary")]
    RenewKey {
        #[command(flatten)]
        policy: PolicyArgs,
        /// Which of its keys.
        #[arg(long, visible_aliases = ["renew-key", "rk"])]
        key: Renewal,
        /// Print the policy as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove a policy: who uses it is refused from then on.
    #[command(after_help = "Example:\n  dunlin policy delete -n backend")]
    Delete {
        #[command(flatten)]
        policy: PolicyArgs,
    },
    /// Print the connection string a service SDK wants.
    #[command(
        after_help = "Example:\n  export IOTHUB_CONNECTION_STRING=\"$(dunlin policy connection-string -n service)\""
    )]
    ConnectionString {
        #[command(flatten)]
        policy: PolicyArgs,
        /// Which of its keys.
        #[arg(long, visible_alias = "kt", default_value = "primary")]
        key_type: KeyType,
    },
}

#[derive(Args)]
pub(super) struct PolicyArgs {
    /// Name of the policy.
    #[arg(long, short = 'n', visible_alias = "policy-name", value_name = "NAME")]
    name: String,
    #[command(flatten)]
    login: LoginArgs,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Renewal {
    Primary,
    Secondary,
    /// The one becomes the other.
    Swap,
}

const COLUMNS: [(&str, &str); 2] = [("NAME", "/name"), ("PERMISSIONS", "/permissions")];

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::List { login, json } => {
            let policies = login.client()?.policy_list().await?;
            if json { output::json(&policies) } else { table(&rows(&policies, &COLUMNS)) }
        }
        Command::Show { policy, .. } => {
            output::json(&policy.login.client()?.policy_get(&policy.name).await?)
        }
        Command::Create { policy, permissions, primary_key, secondary_key, json } => {
            let asked = permissions.join(", ");
            let permissions = Permissions::parse(&asked).ok_or_else(|| {
                Failure::Usage(format!(
                    "--permissions takes RegistryRead, RegistryWrite, ServiceConnect and \
                     DeviceConnect, not {asked:?}"
                ))
            })?;
            let mut body = json!({ "name": policy.name, "permissions": permissions.to_string() });
            if let (Some(primary), Some(secondary)) = (primary_key, secondary_key) {
                body["primaryKey"] = primary.into();
                body["secondaryKey"] = secondary.into();
            }
            let made = policy.login.client()?.policy_create(&policy.name, &body).await?;
            if json {
                return output::json(&made);
            }
            line(&format!("created {}: {}", policy.name, text(&made, "/permissions")))?;
            said(&policy.name)
        }
        Command::RenewKey { policy, key, json } => {
            let (key, done) = match key {
                Renewal::Primary => ("primary", "the primary key is new"),
                Renewal::Secondary => ("secondary", "the secondary key is new"),
                Renewal::Swap => ("swap", "primary and secondary key have changed places"),
            };
            let renewed = policy.login.client()?.policy_renew_key(&policy.name, key).await?;
            // Before anything is printed: who reads it may have gone.
            let followed =
                policy.login.follow(text(&renewed, "/name"), text(&renewed, "/primaryKey"));
            if json {
                output::json(&renewed)?;
            } else {
                line(&format!("{}: {done}", policy.name))?;
                said(&policy.name)?;
            }
            match followed? {
                Some(file) if !json => {
                    line(&format!("{} holds its new primary key", file.display()))
                }
                _ => Ok(()),
            }
        }
        Command::Delete { policy } => {
            policy.login.client()?.policy_delete(&policy.name).await?;
            line(&format!("deleted {}", policy.name))
        }
        Command::ConnectionString { policy, key_type } => {
            let client = policy.login.client()?;
            let read = client.policy_get(&policy.name).await?;
            let key = text(
                &read,
                match key_type {
                    KeyType::Primary => "/primaryKey",
                    KeyType::Secondary => "/secondaryKey",
                },
            );
            let key = Key::from_base64(key).map_err(|error| Failure::Refused(error.message))?;
            let (host, signer) = (client.login().host.clone(), Signer::Policy(policy.name));
            line(&ConnectionString { host, signer, key }.to_string())
        }
    }
}

fn said(name: &str) -> Result<(), Failure> {
    line(&format!("its connection string: dunlin policy connection-string -n {name}"))
}
