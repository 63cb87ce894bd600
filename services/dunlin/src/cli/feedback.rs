//! `dunlin feedback …`

use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::LoginArgs;
use super::failure::Failure;
use super::output::{line, printable};

/// Between two looks for feedback, which the hub hands out in batches of its own time.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print what became of messages that were sent with --ack.
    #[command(after_help = "\
What is printed is taken from the hub: of several monitors each record is shown by one. Records come
in batches, after 15 seconds or when there are 64 of them.

Example: for a minute after the last of it
  dunlin feedback monitor --timeout 60 --json")]
    Monitor(MonitorArgs),
}

#[derive(Args)]
pub(super) struct MonitorArgs {
    /// End after so many seconds without feedback.
    #[arg(long, short = 't', value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Print each record as one line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    login: LoginArgs,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    let Command::Monitor(MonitorArgs { timeout, json, login }) = command;
    let (client, idle) = (login.client()?, timeout.map(Duration::from_secs));
    let mut last = Instant::now();
    loop {
        let Some(batch) = client.feedback_receive().await? else {
            let left = idle.map(|idle| idle.saturating_sub(last.elapsed()));
            if left == Some(Duration::ZERO) {
                return Ok(());
            }
            sleep(left.unwrap_or(LOOK).min(LOOK)).await;
            continue;
        };
        let records: Vec<Value> =
            serde_json::from_slice(&batch.body).context("the feedback is not a JSON array")?;
        for record in &records {
            line(&if json { record.to_string() } else { shown(record) })?;
        }
        // Printed first: who is killed here is told again.
        client.feedback_complete(&batch.lock_token).await?;
        last = Instant::now();
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
