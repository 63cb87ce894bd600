//! What `dunlin device` and `dunlin module` share: whose identity it is, its keys, and what is
//! made of them.

use clap::{Args, ValueEnum};
use dunlin_auth::connection_string::Signer;
use dunlin_auth::{ConnectionString, Key, sas};
use dunlin_model::Identity;
use dunlin_runtime::clock::unix_seconds;
use serde_json::{Value, json};

use super::LoginArgs;
use super::failure::Failure;
use super::output::{self, line};
use crate::client::Client;

const PRIMARY: &str = "/authentication/symmetricKey/primaryKey";
const SECONDARY: &str = "/authentication/symmetricKey/secondaryKey";

#[derive(Args)]
pub(super) struct DeviceArgs {
    /// Id of the device.
    #[arg(long, short = 'd', value_name = "ID")]
    pub device_id: String,
    #[command(flatten)]
    pub login: LoginArgs,
}

/// A module that may be named beside a device.
#[derive(Args)]
pub(super) struct MaybeModuleArgs {
    /// Id of a module of the device, which is meant then.
    #[arg(long, short = 'm', value_name = "ID")]
    module_id: Option<String>,
}

#[derive(Args)]
pub(super) struct ModuleArgs {
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Id of the module.
    #[arg(long, short = 'm', value_name = "ID")]
    pub module_id: String,
}

/// How an identity proves who it is.
#[derive(Args)]
pub(super) struct AuthArgs {
    /// How it authenticates; a new one by shared_private_key, if nothing is said.
    #[arg(long, visible_alias = "am")]
    auth_method: Option<AuthMethod>,
    /// Primary key in base64, instead of one the hub makes.
    #[arg(long, visible_alias = "pk", requires = "secondary_key")]
    primary_key: Option<String>,
    /// Secondary key in base64.
    #[arg(long, visible_alias = "sk", requires = "primary_key")]
    secondary_key: Option<String>,
    /// SHA-1 or SHA-256 of its certificate in hex, for x509_thumbprint.
    #[arg(long, visible_alias = "ptp")]
    primary_thumbprint: Option<String>,
    /// The same of a second certificate.
    #[arg(long, visible_alias = "stp")]
    secondary_thumbprint: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum AuthMethod {
    SharedPrivateKey,
    #[value(name = "x509_thumbprint")]
    Thumbprint,
    #[value(name = "x509_ca")]
    Ca,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum KeyType {
    Primary,
    Secondary,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Renewal {
    Primary,
    Secondary,
    Both,
    /// The one becomes the other.
    Swap,
}

impl DeviceArgs {
    pub(super) fn id(&self) -> Result<Identity, Failure> {
        Identity::device(&self.device_id).map_err(|error| Failure::Usage(error.message))
    }

    pub(super) fn id_of(&self, module: &MaybeModuleArgs) -> Result<Identity, Failure> {
        match &module.module_id {
            Some(module) => self.module(module),
            None => self.id(),
        }
    }

    fn module(&self, module: &str) -> Result<Identity, Failure> {
        Identity::module(&self.device_id, module).map_err(|error| Failure::Usage(error.message))
    }
}

impl ModuleArgs {
    pub(super) fn id(&self) -> Result<Identity, Failure> {
        self.device.module(&self.module_id)
    }

    pub(super) fn client(&self) -> Result<Client, Failure> {
        self.device.login.client()
    }
}

impl AuthArgs {
    pub(super) fn is_empty(&self) -> bool {
        self.auth_method.is_none() && !self.keys() && !self.thumbprints()
    }

    fn keys(&self) -> bool {
        self.primary_key.is_some()
    }

    fn thumbprints(&self) -> bool {
        self.primary_thumbprint.is_some() || self.secondary_thumbprint.is_some()
    }

    /// The JSON of a new identity's authentication.
    pub(super) fn of_new(self) -> Result<Value, Failure> {
        let method = self.auth_method.unwrap_or(AuthMethod::SharedPrivateKey);
        self.body(method)
    }

    /// Puts what is given in the place of what was read of an identity: a second thumbprint stays,
    /// and so do keys if none are given.
    pub(super) fn change(mut self, read: &mut Value) -> Result<(), Failure> {
        if self.is_empty() {
            return Ok(());
        }
        let kind = text(read, "/authentication/type");
        let current = AuthMethod::value_variants().iter().find(|method| method.kind() == kind);
        let method = self.auth_method.or(current.copied()).unwrap_or(AuthMethod::SharedPrivateKey);
        if method == AuthMethod::Thumbprint {
            for (given, name) in [
                (&mut self.primary_thumbprint, "primaryThumbprint"),
                (&mut self.secondary_thumbprint, "secondaryThumbprint"),
            ] {
                let stored = read["authentication"]["x509Thumbprint"][name].as_str();
                *given = given.take().or(stored.map(str::to_owned));
            }
        }
        read["authentication"] = self.body(method)?;
        Ok(())
    }

    /// Empty keys are made by the hub, or stay if there are any.
    fn body(self, method: AuthMethod) -> Result<Value, Failure> {
        let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
        if self.keys() && method != AuthMethod::SharedPrivateKey {
            return usage("keys are for --auth-method shared_private_key");
        }
        if self.thumbprints() != (method == AuthMethod::Thumbprint) {
            return usage("--primary-thumbprint goes with --auth-method x509_thumbprint");
        }
        Ok(match method {
            AuthMethod::SharedPrivateKey => json!({
                "type": method.kind(),
                "symmetricKey": {
                    "primaryKey": self.primary_key.unwrap_or_default(),
                    "secondaryKey": self.secondary_key.unwrap_or_default(),
                },
            }),
            AuthMethod::Thumbprint => json!({
                "type": method.kind(),
                "x509Thumbprint": {
                    "primaryThumbprint": self.primary_thumbprint,
                    "secondaryThumbprint": self.secondary_thumbprint,
                },
            }),
            AuthMethod::Ca => json!({ "type": method.kind() }),
        })
    }
}

impl AuthMethod {
    /// `authentication.type` of the REST API.
    fn kind(self) -> &'static str {
        match self {
            Self::SharedPrivateKey => "sas",
            Self::Thumbprint => "selfSigned",
            Self::Ca => "certificateAuthority",
        }
    }
}

impl Renewal {
    fn said(self) -> &'static str {
        match self {
            Self::Primary => "the primary key is new",
            Self::Secondary => "the secondary key is new",
            Self::Both => "both keys are new",
            Self::Swap => "primary and secondary key have changed places",
        }
    }
}

/// Reads the identity, changes its keys and writes it back under the ETag that was read, as the
/// API has no smaller step.
pub(super) async fn renew_key(
    client: &Client,
    id: &Identity,
    which: Renewal,
) -> Result<Value, Failure> {
    let mut body = client.device_get(id.as_str()).await?;
    let (primary, secondary) = (key_in(&body, id, PRIMARY)?, key_in(&body, id, SECONDARY)?);
    let (primary, secondary) = match which {
        Renewal::Primary => (Key::generate(), secondary),
        Renewal::Secondary => (primary, Key::generate()),
        Renewal::Both => (Key::generate(), Key::generate()),
        Renewal::Swap => (secondary, primary),
    };
    body["authentication"]["symmetricKey"] =
        json!({ "primaryKey": primary.to_base64(), "secondaryKey": secondary.to_base64() });
    let etag = text(&body, "/etag").to_owned();
    Ok(client.device_put(id.as_str(), &body, Some(&etag)).await?)
}

pub(super) fn say_renewed(id: &Identity, which: Renewal) -> Result<(), Failure> {
    line(&format!("{id}: {}", which.said()))?;
    line(&format!("its connection string: {}", connection_string_command(id)))
}

/// Tells of a new identity, and how to get at its connection string if it has keys.
pub(super) fn created(id: &Identity, made: &Value, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(made);
    }
    line(&format!("created {id}"))?;
    if text(made, "/authentication/type") == "sas" {
        line(&format!("its connection string: {}", connection_string_command(id)))?;
    }
    Ok(())
}

/// What to type for it.
fn connection_string_command(id: &Identity) -> String {
    match id.module_id() {
        None => format!("dunlin device connection-string -d {id}"),
        Some(module) => {
            format!("dunlin module connection-string -d {} -m {module}", id.device_id())
        }
    }
}

pub(super) async fn connection_string(
    client: &Client,
    id: Identity,
    which: KeyType,
) -> Result<(), Failure> {
    let key = key(client, &id, which).await?;
    // Without the HTTPS port that the login may carry: a device's SDK takes a port for MQTT's, or
    // for a part of the name (docs/adr/0004-device-connection-strings.md).
    let host = client.login().hostname().to_owned();
    line(&ConnectionString { host, signer: Signer::Identity(id), key }.to_string())
}

pub(super) async fn sas_token(
    client: &Client,
    id: &Identity,
    which: KeyType,
    seconds: u64,
) -> Result<(), Failure> {
    let key = key(client, id, which).await?;
    line(&token(client.login().hostname(), id, &key, seconds))
}

/// A token of an identity's own. Raw ids, as the SDKs have them in `sr` and look for them there.
pub(super) fn token(host: &str, id: &Identity, key: &Key, seconds: u64) -> String {
    let resource = match id.module_id() {
        None => format!("{host}/devices/{}", id.device_id()),
        Some(module) => format!("{host}/devices/{}/modules/{module}", id.device_id()),
    };
    sas::sign(&resource, None, key, unix_seconds().saturating_add(seconds))
}

pub(super) async fn key(client: &Client, id: &Identity, which: KeyType) -> Result<Key, Failure> {
    let identity = client.device_get(id.as_str()).await?;
    let name = match which {
        KeyType::Primary => PRIMARY,
        KeyType::Secondary => SECONDARY,
    };
    key_in(&identity, id, name)
}

/// The primary key of an identity that was read.
pub(super) fn primary_key(identity: &Value, id: &Identity) -> Result<Key, Failure> {
    key_in(identity, id, PRIMARY)
}

fn key_in(identity: &Value, id: &Identity, name: &str) -> Result<Key, Failure> {
    Key::from_base64(text(identity, name)).map_err(|_| {
        let kind = text(identity, "/authentication/type");
        Failure::Usage(format!(
            "{id} has no symmetric key: its authentication is {kind}\nits certificate is what it \
             shows, and is kept where it was made"
        ))
    })
}

/// The text at a JSON pointer; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Rows of these fields, under a head.
pub(super) fn rows(values: &Value, columns: &[(&str, &str)]) -> Vec<Vec<String>> {
    let head = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let mut rows = vec![head];
    for value in values.as_array().into_iter().flatten() {
        rows.push(columns.iter().map(|(_, field)| text(value, field).to_owned()).collect());
    }
    rows
}
