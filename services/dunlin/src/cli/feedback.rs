//! `dunlin feedback …`

use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::LoginArgs;
use super::failure::Failure;
use super::monitor::{comes_back, print};
use super::output::printable;
use super::serve::Signals;
use crate::client::{Client, ClientError};

/// Between two looks for feedback, which the hub hands out in batches of its own time.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print what became of messages that were sent with --ack. A hub that goes is waited for.
    #[command(after_help = "\
What is printed is taken from the hub: of several monitors each record is shown by one. Records come
in batches, after 15 seconds or when there are 64 of them.

Example: for a minute after the last of it
  dunlin feedback monitor --timeout 60 --json
Example: until a message has come to its end
  dunlin feedback monitor --wait-on-msg MESSAGE_ID")]
    Monitor(MonitorArgs),
}

#[derive(Args)]
pub(super) struct MonitorArgs {
    /// End after so many seconds without feedback.
    #[arg(long, short = 't', value_name = "SECONDS")]
    timeout: Option<u64>,
    /// End when the record of this message was printed. If --timeout is over first, it is a failure.
    #[arg(long, short = 'w', value_name = "MESSAGE_ID")]
    wait_on_msg: Option<String>,
    /// Print each record as one line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    login: LoginArgs,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    let Command::Monitor(MonitorArgs { timeout, wait_on_msg, json, login }) = command;
    let wanted = wait_on_msg.map(|message_id| Wanted { device: None, message_id });
    let monitor = Monitor { login, json, idle: timeout.map(Duration::from_secs), wanted };
    let mut signals = Signals::listen().context("cannot wait for signals")?;
    tokio::select! {
        done = monitor.run() => done,
        () = signals.next() => Ok(()),
    }
}

/// Prints feedback as it comes.
pub(super) struct Monitor {
    pub login: LoginArgs,
    pub json: bool,
    /// End when nothing came for so long.
    pub idle: Option<Duration>,
    /// End with this record.
    pub wanted: Option<Wanted>,
}

/// Of which message.
pub(super) struct Wanted {
    /// None: of whichever.
    pub device: Option<String>,
    pub message_id: String,
}

impl Monitor {
    /// Until nothing comes any more, or what is wanted has come.
    pub(super) async fn run(&self) -> Result<(), Failure> {
        let (mut client, mut heard) = (None, Instant::now());
        // A hub that was never there is not waited for.
        let mut is_there = None;
        loop {
            match self.again(&mut client).await {
                Err(failure) if is_there.is_some() && comes_back(&failure) => {
                    client = None;
                    if is_there.replace(false) == Some(true) {
                        eprintln!("the hub has gone; waiting for it");
                    }
                }
                taken => {
                    let taken = taken?;
                    if is_there.replace(true) == Some(false) {
                        eprintln!("the hub is back");
                    }
                    if taken.iter().any(|record| self.is_wanted(record)) {
                        return Ok(());
                    }
                    if !taken.is_empty() {
                        heard = Instant::now();
                        continue;
                    }
                }
            }
            let left = self.idle.map(|idle| idle.saturating_sub(heard.elapsed()));
            if left == Some(Duration::ZERO) {
                return self.nothing_more(is_there == Some(true));
            }
            sleep(left.unwrap_or(LOOK).min(LOOK)).await;
        }
    }

    /// As `take`, of a hub that may have started again and taken other ports.
    async fn again(&self, client: &mut Option<Client>) -> Result<Vec<Value>, Failure> {
        let client = match client {
            Some(client) => client,
            None => client.insert(self.login.client()?),
        };
        self.take(client).await
    }

    /// Prints the next batch, if there is one, and has done with it.
    async fn take(&self, client: &Client) -> Result<Vec<Value>, Failure> {
        let Some(batch) = client.feedback_receive().await? else { return Ok(Vec::new()) };
        let records: Vec<Value> =
            serde_json::from_slice(&batch.body).context("the feedback is not a JSON array")?;
        let show = |record: &Value| if self.json { record.to_string() } else { shown(record) };
        print(records.iter().map(show).collect()).await?;
        // Printed first: who is killed here is told again.
        match client.feedback_complete(&batch.lock_token).await {
            Err(ClientError::Refused { code, .. }) if code == "DeviceMessageLockLost" => {
                eprintln!("printing took longer than the hub waits: these records come again");
            }
            done => done?,
        }
        Ok(records)
    }

    fn is_wanted(&self, record: &Value) -> bool {
        self.wanted.as_ref().is_some_and(|Wanted { device, message_id }| {
            record["originalMessageId"] == **message_id
                && device.as_ref().is_none_or(|device| record["deviceId"] == **device)
        })
    }

    fn nothing_more(&self, is_there: bool) -> Result<(), Failure> {
        match &self.wanted {
            _ if !is_there => Err(Failure::Lost("the hub has gone and is not back".to_owned())),
            Some(Wanted { message_id, .. }) => Err(Failure::Refused(format!(
                "there was no feedback on {message_id}: give it longer with --timeout"
            ))),
            None => Ok(()),
        }
    }
}

/// One line for people: when, who, which, how.
fn shown(record: &Value) -> String {
    let text = |name: &str| record[name].as_str().unwrap_or_default();
    printable(&format!(
        "{}  {}  {}  {}",
        text("enqueuedTimeUtc"),
        text("deviceId"),
        text("originalMessageId"),
        text("statusCode")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_one_line() {
        let record = json!({
            "originalMessageId": "m\n", "enqueuedTimeUtc": "T", "statusCode": "Success",
            "deviceId": "d", "deviceGenerationId": "1",
        });
        assert_eq!(shown(&record), r"T  d  m\n  Success");
    }
}
