//! `dunlin c2d …`

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand, ValueEnum};
use dunlin_model::Identity;
use dunlin_model::command::Disposition;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::feedback::{Monitor, Wanted};
use super::identity::{self, DeviceArgs, KeyType};
use super::input;
use super::login::{LoginArgs, SenderLoginArgs};
use super::output::{self, line};
use crate::client::{Client, CommandMessage, Received};

/// A device's token for one command.
const TOKEN_SECONDS: u64 = 300;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Queue a message for a device, and print its id.
    #[command(after_help = "\
Example: a message with properties, of whose end there is feedback
  dunlin c2d send -d my-device --data '{\"to\": 21}' --content-type application/json \\
    --props 'kind=target;unit=C' --ack full
Example: send a message and wait for its end
  dunlin c2d send -d my-device --data hello --ack full --wait")]
    Send(Box<SendArgs>),
    /// Take the next message of a device, as the device, and print it as JSON. Nothing is printed
    /// where there is none.
    #[command(after_help = "\
Example: take a message and settle it later, by the ETag that is printed
  dunlin c2d receive -d my-device
  dunlin c2d complete -d my-device --etag ETAG")]
    Receive {
        #[command(flatten)]
        device: DeviceArgs,
        /// Complete it at once.
        #[arg(long, conflicts_with_all = ["abandon", "reject"])]
        complete: bool,
        /// Put it back at once.
        #[arg(long, conflicts_with = "reject")]
        abandon: bool,
        /// Dead-letter it at once.
        #[arg(long)]
        reject: bool,
        /// Taken for the sake of scripts: it is JSON in any case.
        #[arg(long)]
        json: bool,
    },
    /// Say that a message is done with.
    #[command(after_help = "Example:\n  dunlin c2d complete -d my-device --etag ETAG")]
    Complete(SettleArgs),
    /// Put a message back where it was in the queue.
    #[command(after_help = "Example:\n  dunlin c2d abandon -d my-device --etag ETAG")]
    Abandon(SettleArgs),
    /// Dead-letter a message.
    #[command(after_help = "Example:\n  dunlin c2d reject -d my-device --etag ETAG")]
    Reject(SettleArgs),
    /// Remove all messages of a device.
    #[command(after_help = "Example:\n  dunlin c2d purge -d my-device")]
    Purge {
        #[command(flatten)]
        device: DeviceArgs,
        /// Print the answer as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub(super) struct SendArgs {
    /// Id of the device.
    #[arg(long, short = 'd', value_name = "ID")]
    device_id: String,
    #[command(flatten)]
    login: SenderLoginArgs,
    /// The body.
    #[arg(
        long,
        visible_alias = "da",
        value_name = "TEXT",
        required_unless_present = "data_file_path"
    )]
    data: Option<String>,
    /// A file that holds the body.
    #[arg(long, visible_alias = "dfp", value_name = "FILE", conflicts_with = "data")]
    data_file_path: Option<std::path::PathBuf>,
    /// Of which ends to hear by `dunlin feedback monitor`.
    #[arg(long, default_value = "none")]
    ack: Ack,
    /// Print feedback as `dunlin feedback monitor` does, until that on this message has come: with
    /// --ack full it comes whatever its end.
    #[arg(long, short = 'w')]
    wait: bool,
    /// Application properties, as 'k=v;k=v'.
    #[arg(long, short = 'p', visible_alias = "properties", value_name = "PROPS")]
    props: Option<String>,
    /// Id of the message; without it the hub makes one.
    #[arg(long, visible_alias = "mid")]
    message_id: Option<String>,
    /// Id of what it belongs to, for the device to read.
    #[arg(long, visible_alias = "cid")]
    correlation_id: Option<String>,
    /// Who sends it, for the device to read.
    #[arg(long, visible_alias = "uid")]
    user_id: Option<String>,
    /// For example application/json.
    #[arg(long, visible_alias = "ct")]
    content_type: Option<String>,
    /// For example utf-8.
    #[arg(long, visible_alias = "ce")]
    content_encoding: Option<String>,
    /// When it expires, in milliseconds since 1970.
    #[arg(long, visible_alias = "expiry", value_name = "MILLISECONDS")]
    expiry_time_utc: Option<i64>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct SettleArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// The message's lock, as `receive` printed it.
    #[arg(long, short = 'e')]
    etag: String,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Ack {
    None,
    Positive,
    Negative,
    Full,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Send(arguments) => send(*arguments).await,
        Command::Receive { device, complete, abandon, reject, .. } => {
            let (client, id, token) = as_device(&device).await?;
            let Some(received) = client.c2d_receive(id.as_str(), &token).await? else {
                return Ok(());
            };
            output::json(&shown(&received))?;
            let disposition = match (complete, abandon, reject) {
                (true, ..) => Disposition::Complete,
                (_, true, _) => Disposition::Abandon,
                (.., true) => Disposition::Reject,
                _ => return Ok(()),
            };
            let lock = &received.lock_token;
            Ok(client.c2d_settle(id.as_str(), &token, lock, disposition).await?)
        }
        Command::Complete(arguments) => settle(arguments, Disposition::Complete).await,
        Command::Abandon(arguments) => settle(arguments, Disposition::Abandon).await,
        Command::Reject(arguments) => settle(arguments, Disposition::Reject).await,
        Command::Purge { device, json } => {
            let id = device.id()?;
            let purged = device.login.client()?.c2d_purge(id.as_str()).await?;
            if json {
                return output::json(&purged);
            }
            line(&format!("{id}: {} messages removed", purged["totalMessagesPurged"]))
        }
    }
}

async fn settle(arguments: SettleArgs, disposition: Disposition) -> Result<(), Failure> {
    let SettleArgs { device, etag } = arguments;
    let (client, id, token) = as_device(&device).await?;
    // It may be pasted with its quotes.
    let lock = etag.trim_matches('"');
    client.c2d_settle(id.as_str(), &token, lock, disposition).await?;
    line(match disposition {
        Disposition::Complete => "completed",
        Disposition::Abandon => "abandoned",
        Disposition::Reject => "rejected",
    })
}

async fn send(arguments: SendArgs) -> Result<(), Failure> {
    let id = Identity::device(&arguments.device_id);
    let id = id.map_err(|error| Failure::Usage(error.message))?;
    if arguments.wait && arguments.ack == Ack::None {
        let text = "--wait: of what there is feedback on, --ack says: full, negative or positive";
        return Err(Failure::Usage(text.to_owned()));
    }
    let message = CommandMessage { headers: arguments.headers()?, body: arguments.body()? };
    let login = LoginArgs::from(arguments.login);
    let sent = login.client()?.c2d_send(id.as_str(), message).await?;
    let message_id = sent["messageId"].as_str().unwrap_or_default().to_owned();
    match arguments.json {
        true => output::json(&sent)?,
        false => line(&message_id)?,
    }
    if !arguments.wait {
        return Ok(());
    }
    let wanted = Some(Wanted { device: Some(id.device_id().to_owned()), message_id });
    Monitor { login, json: arguments.json, idle: None, wanted }.run().await
}

impl SendArgs {
    fn headers(&self) -> Result<HeaderMap, Failure> {
        let ack = self.ack.to_possible_value().map(|value| value.get_name().to_owned());
        let expiry = self.expiry_time_utc.map(|millis| {
            let time = jiff::Timestamp::from_millisecond(millis);
            time.map(|time| time.to_string())
                .map_err(|error| Failure::Usage(format!("--expiry-time-utc: {error}")))
        });
        let properties = self.props.as_deref().map(input::properties).transpose()?;
        let mut headers = HeaderMap::new();
        for (name, flag, value) in [
            ("iothub-ack", "--ack", ack),
            ("iothub-expiry", "--expiry-time-utc", expiry.transpose()?),
            ("iothub-messageid", "--message-id", self.message_id.clone()),
            ("iothub-correlationid", "--correlation-id", self.correlation_id.clone()),
            ("iothub-userid", "--user-id", self.user_id.clone()),
            ("iothub-contenttype", "--content-type", self.content_type.clone()),
            ("iothub-contentencoding", "--content-encoding", self.content_encoding.clone()),
            ("dunlin-properties", "--props", properties),
        ] {
            let Some(value) = value else { continue };
            let value = HeaderValue::try_from(value)
                .map_err(|_| Failure::Usage(format!("{flag} may not hold control characters")))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(headers)
    }

    fn body(&self) -> Result<Vec<u8>, Failure> {
        match &self.data_file_path {
            None => Ok(self.data.clone().unwrap_or_default().into_bytes()),
            Some(path) => std::fs::read(path).map_err(|error| {
                Failure::Usage(format!("--data-file-path: cannot read {}: {error}", path.display()))
            }),
        }
    }
}

/// The hub's client, the device, and a token that is made with its key.
async fn as_device(device: &DeviceArgs) -> Result<(Client, Identity, String), Failure> {
    let (client, id) = (device.login.client()?, device.id()?);
    let key = identity::key(&client, &id, KeyType::Primary).await?;
    let token = identity::token(client.login().hostname(), &id, &key, TOKEN_SECONDS);
    Ok((client, id, token))
}

/// Body and properties as JSON, under the names that `az iot` has for them. The body as text, where
/// it is text.
fn shown(received: &Received) -> Value {
    let (mut system, mut app) = (Map::new(), Map::new());
    for (name, value) in &received.headers {
        let text = Value::from(String::from_utf8_lossy(value.as_bytes()));
        match (name.as_str(), name.as_str().strip_prefix("iothub-app-")) {
            (_, Some(name)) => app.insert(name.to_owned(), text),
            ("iothub-contenttype", _) => system.insert("ContentType".to_owned(), text),
            ("iothub-contentencoding", _) => system.insert("ContentEncoding".to_owned(), text),
            (name, _) if name.starts_with("iothub-") => system.insert(name.to_owned(), text),
            _ => None,
        };
    }
    let mut shown = json!({
        "etag": received.lock_token,
        "properties": { "system": system, "app": app },
    });
    match std::str::from_utf8(&received.body) {
        Ok(text) => shown["data"] = text.into(),
        Err(_) => shown["data_base64"] = STANDARD.encode(&received.body).into(),
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_shown_with_what_came_beside_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("iothub-messageid", &b"m"[..]),
            ("contenttype", b"text/plain"),
            ("iothub-contenttype", b"text/plain"),
            ("iothub-app-colour", "grün".as_bytes()),
            ("content-length", b"2"),
            ("etag", b"\"t\""),
        ] {
            headers.insert(name, HeaderValue::from_bytes(value).expect("a value"));
        }
        let message = |body: &[u8]| Received {
            lock_token: "t".into(),
            headers: headers.clone(),
            body: body.to_vec(),
        };
        let properties = json!({
            "system": {"iothub-messageid": "m", "ContentType": "text/plain"},
            "app": {"colour": "grün"},
        });
        assert_eq!(
            shown(&message(b"hi")),
            json!({"etag": "t", "properties": properties, "data": "hi"})
        );
        assert_eq!(shown(&message(b"\xff"))["data_base64"], "/w==");
    }
}
