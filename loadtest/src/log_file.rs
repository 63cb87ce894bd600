//! What is in the hub's log of a run's messages, written down beside the histories of its workers.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;

use crate::args::{Broker, Log};
use crate::feedback;
use crate::history::{LogReader, Recorder};
use crate::rest::Rest;
use crate::scenario::Scenario;
use crate::target::Target;

/// Nothing more comes if nothing has come for so long.
const IDLE: Duration = Duration::from_secs(10);

/// Reads the log while `run` goes on, and until all messages are there of which `run` says in the
/// end how many it has sent.
pub async fn beside<T>(
    path: &Path,
    target: &Arc<Target>,
    scenario: &Scenario,
    run: impl AsyncFnOnce(&watch::Sender<Option<u64>>) -> Result<T>,
) -> Result<T> {
    let rest = Rest::new(target)?;
    if scenario.reads_feedback() {
        feedback::forget(&rest).await.context("cannot read the feedback of earlier runs")?;
    }
    let recorder = Recorder::create(&file(path), "log")?;
    let prefix = common(scenario.groups.iter().map(|group| &*group.prefix));
    let open = async |path: &str| rest.stream(path).await;
    let reader = LogReader::open("end", prefix, recorder.pen(), open).await?;
    let (sent, told) = watch::channel(None);
    let (done, _) = tokio::try_join!(run(&sent), reader.read(told, IDLE))?;
    recorder.finish(false)?;
    Ok(done)
}

/// Reads it alone, until nothing more comes.
pub async fn read(log: &Log) -> Result<()> {
    let rest = Rest::new(&Arc::new(Target::of(&log.hub, &Broker::default())?))?;
    let recorder = Recorder::create(&log.history, "log")?;
    let open = async |path: &str| rest.stream(path).await;
    let reader = LogReader::open(&log.from, &log.prefix, recorder.pen(), open).await?;
    // How many there are is not known: it ends by being idle.
    let (_sent, sent) = watch::channel(Some(u64::MAX));
    let seen = reader.read(sent, Duration::from_secs(log.idle)).await?;
    recorder.finish(false)?;
    let (messages, others) = (seen.messages, seen.others);
    Ok(writeln!(io::stdout(), "messages={messages} others={others}")?)
}

fn file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".log");
    name.into()
}

/// What all of them begin with.
fn common<'a>(mut texts: impl Iterator<Item = &'a str>) -> &'a str {
    let first = texts.next().unwrap_or_default();
    texts.fold(first, |common, text| {
        let same = common.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        &common[..same]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_all_groups_are_looked_at() {
        assert_eq!(common(["load-a", "load-b", "loaded"].into_iter()), "load");
        assert_eq!(common(["a"].into_iter()), "a");
        assert_eq!(common(["a", "b"].into_iter()), "");
    }
}
