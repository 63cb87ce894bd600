//! `dunlin events …`

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::LoginArgs;
use super::failure::Failure;
use super::monitor::{From, Monitor, Place};
use super::output::printable;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print what devices send, as it comes. A hub that goes is waited for.
    #[command(after_help = "\
What was printed is not printed again when the hub comes back. A consumer group is moved on once a \
second behind what was printed, and at the end: whoever reads on as that group, also after a \
monitor was killed, is shown everything, some of it perhaps twice.

Example: what one device has sent so far, then stop
  dunlin events monitor -d my-device --from-start --timeout 2 --json
Example: a back end that goes on where it stopped, whenever it is started
  dunlin events monitor --group my-group --json")]
    Monitor(MonitorArgs),
}

#[derive(Args)]
pub(super) struct MonitorArgs {
    /// Only this device's events (and its modules').
    #[arg(long, short = 'd', value_name = "ID")]
    device_id: Option<String>,
    /// Begin where this consumer group stopped, and move it on behind what is printed. A new group
    /// begins as --from and --from-start say, or with what is sent from now on. With --device-id it
    /// is moved on behind what other devices have sent, too: then it should be that device's own.
    #[arg(long, visible_alias = "cg", value_name = "NAME")]
    group: Option<String>,
    /// Begin with the oldest event that is kept.
    #[arg(long, conflicts_with = "from")]
    from_start: bool,
    /// Begin with events from this time on, as 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    from: Option<jiff::Timestamp>,
    /// Read this partition alone, and from this offset on; may be given for several.
    #[arg(
        long,
        value_name = "PARTITION:OFFSET",
        value_delimiter = ',',
        value_parser = offset,
        conflicts_with_all = ["from", "from_start", "group"]
    )]
    from_offset: Vec<(u32, u64)>,
    /// End after so many seconds in which nothing was printed.
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
    let json = arguments.json;
    let idle = arguments.timeout.map(Duration::from_secs);
    Monitor::new(&arguments.login, arguments.place(), idle)
        .run(|event| if json { event.data.to_string() } else { shown(&event.data["event"]) })
        .await
}

impl MonitorArgs {
    fn place(&self) -> Place {
        let from = match (self.from_start, self.from) {
            (true, _) => From::Start,
            (false, Some(time)) => From::Time(time),
            (false, None) => From::End,
        };
        let position =
            self.from_offset.iter().map(|(partition, offset)| format!("{partition}:{offset}"));
        Place {
            from,
            device: self.device_id.clone(),
            group: self.group.clone(),
            partitions: self.from_offset.iter().map(|(partition, _)| *partition).collect(),
            position: position.collect::<Vec<_>>().join(","),
        }
    }
}

fn offset(text: &str) -> Result<(u32, u64), String> {
    let pair = text.split_once(':');
    pair.and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)))
        .ok_or_else(|| "write it as PARTITION:OFFSET, for example 0:1200".to_owned())
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
