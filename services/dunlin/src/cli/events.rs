//! `dunlin events …`

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::LoginArgs;
use super::failure::Failure;
use super::output::{line, printable};
use crate::client::{ClientError, encoded};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print what devices send, as it comes.
    #[command(after_help = "\
Example: what one device has sent so far, then stop
  dunlin events monitor -d my-device --from-start --timeout 2 --json")]
    Monitor(MonitorArgs),
}

#[derive(Args)]
pub(super) struct MonitorArgs {
    /// Only this device's events (and its modules').
    #[arg(long, short = 'd', value_name = "ID")]
    device_id: Option<String>,
    /// Begin where this consumer group stopped, and move it on.
    #[arg(long, visible_alias = "cg", value_name = "NAME")]
    group: Option<String>,
    /// Begin with the oldest event that is kept.
    #[arg(long, conflicts_with = "from")]
    from_start: bool,
    /// Begin with events from this time on, as 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    from: Option<jiff::Timestamp>,
    /// End after so many seconds without an event.
    #[arg(long, short = 't', value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Print each event as one line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    login: LoginArgs,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    let Command::Monitor(arguments) = command;
    let client = arguments.login.client()?;
    let mut stream = client.events(&arguments.query()).await?;
    loop {
        let next = stream.next();
        let event = match arguments.timeout {
            Some(seconds) => {
                match tokio::time::timeout(Duration::from_secs(seconds), next).await {
                    Ok(event) => event?,
                    // Quiet for so long as was asked for.
                    Err(_) => return Ok(()),
                }
            }
            None => next.await?,
        };
        let Some(event) = event else {
            return Err(Failure::Client(ClientError::Unreachable {
                base: client.login().host.clone(),
                reason: "it has ended the stream".to_owned(),
            }));
        };
        line(&if arguments.json { event.data.to_string() } else { shown(&event.data["event"]) })?;
    }
}

impl MonitorArgs {
    fn query(&self) -> String {
        let from = match (self.from_start, self.from) {
            (true, _) => "start".to_owned(),
            (false, Some(time)) => encoded(&time.to_string()),
            (false, None) => "end".to_owned(),
        };
        let mut query = format!("from={from}");
        for (name, value) in [("device", &self.device_id), ("group", &self.group)] {
            if let Some(value) = value {
                query.push_str(&format!("&{name}={}", encoded(value)));
            }
        }
        query
    }
}

/// One line for people: when, who, what.
fn shown(event: &Value) -> String {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let mut who = text("origin").to_owned();
    if !text("module").is_empty() {
        who = format!("{who}/{}", text("module"));
    }
    let what = match &event["payload"] {
        Value::String(text) => text.clone(),
        Value::Null if event.get("payload").is_none() => {
            format!("(base64) {}", text("payload_base64"))
        }
        value => value.to_string(),
    };
    let properties = match &event["properties"]["application"] {
        Value::Object(map) if !map.is_empty() => format!("  {}", Value::Object(map.clone())),
        _ => String::new(),
    };
    printable(&format!("{}  {who}  {what}{properties}", text("enqueued")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_one_line() {
        #[track_caller]
        fn check(event: Value, want: &str) {
            assert_eq!(shown(&event), want);
        }
        check(
            json!({"enqueued": "T", "origin": "d", "module": "", "payload": {"a": 1},
                   "properties": {"application": {}}}),
            r#"T  d  {"a":1}"#,
        );
        check(
            json!({"enqueued": "T", "origin": "d", "module": "m", "payload": "hi",
                   "properties": {"application": {"k": "v"}}}),
            r#"T  d/m  hi  {"k":"v"}"#,
        );
        check(json!({"origin": "d", "payload_base64": "/w=="}), "  d  (base64) /w==");
        check(json!({"origin": "d", "payload": null}), "  d  null");
        check(json!({"origin": "d", "payload": "ä\u{1b}[2J\n"}), r"  d  ä\u{1b}[2J\n");
    }
}
