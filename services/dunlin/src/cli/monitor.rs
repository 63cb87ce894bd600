//! Watching events for as long as it takes: a hub that goes is waited for, and reading goes on
//! behind what was printed. A consumer group is moved on behind that, too, and no further.

use std::iter;
use std::time::Duration;

use anyhow::Context;
use backon::{BackoffBuilder, ExponentialBuilder};
use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::LoginArgs;
use super::failure::Failure;
use super::output::line;
use super::serve::Signals;
use crate::client::{ClientError, Event, EventStream, encoded};

/// Between two looks whether the hub is back; each a little by chance, lest all who wait come at
/// the same moment.
const RETRY: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(5))
    .without_max_times();
/// What a hub has at the least for opening the first stream, however short the time of silence is.
const OPENING: Duration = Duration::from_secs(5);
/// From the first event that is not committed to the commit.
const COMMIT: Duration = Duration::from_secs(1);
/// The last commit's, for which somebody waits who wants this to end.
const LAST_COMMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq)]
pub(super) enum From {
    Start,
    Time(Timestamp),
    /// What is sent from the opening of the stream on.
    End,
}

pub(super) struct Monitor<'a> {
    login: &'a LoginArgs,
    place: Place,
    /// End when nothing came for so long.
    idle: Option<Duration>,
    /// When the group is to be moved on behind what was printed, if it is not there.
    due: Option<Instant>,
}

/// What to ask for, and how far the reader has come.
#[derive(Debug, PartialEq)]
pub(super) struct Place {
    pub from: From,
    pub device: Option<String>,
    pub group: Option<String>,
    /// Only these partitions. None: all of them.
    pub partitions: Vec<u32>,
    /// Behind what was printed, as the ids of events have it. Before the first stream, of the
    /// partitions alone that were asked for.
    pub position: String,
}

impl Place {
    fn query(&self) -> String {
        let from = match &self.from {
            From::Start => "start".to_owned(),
            From::Time(time) => encoded(&time.to_string()),
            From::End => "end".to_owned(),
        };
        let mut query = format!("from={from}");
        for (name, value) in [("device", &self.device), ("group", &self.group)] {
            if let Some(value) = value {
                query.push_str(&format!("&{name}={}", encoded(value)));
            }
        }
        if !self.position.is_empty() {
            query.push_str(&format!("&last-event-id={}", self.position));
        }
        query
    }

    fn wants(&self, event: &Event) -> bool {
        let wanted = |partition: &u32| event.data["event"]["partition"] == *partition;
        self.partitions.is_empty() || self.partitions.iter().any(wanted)
    }
}

impl<'a> Monitor<'a> {
    pub(super) fn new(login: &'a LoginArgs, place: Place, idle: Option<Duration>) -> Self {
        Self { login, place, idle, due: None }
    }

    /// Prints each event as `show` says, until nothing comes any more, the hub refuses, or somebody
    /// asks for the end.
    pub(super) async fn run(&mut self, show: impl Fn(&Event) -> String) -> Result<(), Failure> {
        let mut signals = Signals::listen().context("cannot wait for signals")?;
        let done = tokio::select! {
            done = self.watch(&show) => done,
            () = signals.next() => Ok(()),
        };
        if self.due.is_none() {
            return done;
        }
        let last = timeout(LAST_COMMIT, self.commit()).await;
        last.unwrap_or_else(|_| {
            Err(Failure::Lost(
                "the hub is lost: it did not answer when the group was to be moved on\n\
                 what was printed last will be printed again when the group reads on"
                    .to_owned(),
            ))
        })
        .and(done)
    }

    async fn watch(&mut self, show: &impl Fn(&Event) -> String) -> Result<(), Failure> {
        // A hub that was never there is not waited for.
        let patience = self.idle.and_then(|idle| Instant::now().checked_add(idle.max(OPENING)));
        let opened = until(patience, self.open()).await;
        let mut stream = opened.unwrap_or_else(|| Err(lost("it did not answer in time")))?;
        let mut heard = Instant::now();
        while let Some(reason) = self.follow(&mut stream, &mut heard, show).await? {
            eprintln!("the hub has gone ({reason}); waiting for it");
            stream = self.reopen(heard).await?;
            heard = Instant::now();
            eprintln!("the hub is back; going on behind what was printed");
        }
        Ok(())
    }

    /// Until the hub goes, for the reason that is returned, or nothing comes any more.
    async fn follow(
        &mut self,
        stream: &mut EventStream,
        heard: &mut Instant,
        show: &impl Fn(&Event) -> String,
    ) -> Result<Option<String>, Failure> {
        loop {
            // All that came before was printed.
            stream.position().clone_into(&mut self.place.position);
            if self.due.is_some_and(|due| due <= Instant::now()) {
                match self.commit().await {
                    Ok(()) => {}
                    Err(failure) if comes_back(&failure) => {
                        return Ok(Some("it did not move the group on".to_owned()));
                    }
                    Err(failure) => return Err(failure),
                }
            }
            let end = self.deadline(*heard);
            let event = match until(end.into_iter().chain(self.due).min(), stream.next()).await {
                Some(Ok(Some(event))) => event,
                Some(Ok(None)) => return Ok(Some("it has ended the stream".to_owned())),
                Some(Err(error)) => return Ok(Some(error.to_string())),
                None if end.is_some_and(|end| end <= Instant::now()) => return Ok(None),
                None => continue,
            };
            let events = iter::once(event).chain(iter::from_fn(|| stream.buffered()));
            let wanted = events.filter(|event| self.place.wants(event));
            let lines: Vec<_> = wanted.map(|event| show(&event)).collect();
            if !lines.is_empty() {
                print(lines).await?;
                *heard = Instant::now();
            } else if end.is_some_and(|end| end <= Instant::now()) {
                // Others' events come all the time.
                return Ok(None);
            }
            if self.place.group.is_some() {
                self.due.get_or_insert_with(|| Instant::now() + COMMIT);
            }
        }
    }

    /// When nothing was printed for too long.
    fn deadline(&self, heard: Instant) -> Option<Instant> {
        heard.checked_add(self.idle?)
    }

    async fn open(&self) -> Result<EventStream, Failure> {
        // Anew each time: a hub that starts again may have taken other ports.
        Ok(self.login.client()?.events(&self.place.query()).await?)
    }

    /// Moves the group on behind what was printed.
    async fn commit(&mut self) -> Result<(), Failure> {
        if let Some(group) = &self.place.group {
            self.login.client()?.events_commit(group, &self.place.position).await?;
        }
        self.due = None;
        Ok(())
    }

    async fn reopen(&self, heard: Instant) -> Result<EventStream, Failure> {
        let mut last = None;
        let back = async {
            for wait in RETRY.build() {
                sleep(wait).await;
                match self.open().await {
                    Err(failure) if comes_back(&failure) => last = Some(failure),
                    opened => return Some(opened),
                }
            }
            None
        };
        // Nobody was heard, but nobody can say either that nothing was sent.
        let opened = until(self.deadline(heard), back).await.flatten();
        opened.unwrap_or_else(|| {
            Err(last.unwrap_or_else(|| lost("it has gone and did not come back in time")))
        })
    }
}

/// Away from the runtime: who reads our output may take his time, and signals are to be heard.
pub(super) async fn print(lines: Vec<String>) -> Result<(), Failure> {
    if lines.is_empty() {
        return Ok(());
    }
    let printed = tokio::task::spawn_blocking(move || line(&lines.join("\n"))).await;
    printed.context("cannot print")?
}

/// `None` when the time is over first.
async fn until<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

fn lost(what: &str) -> Failure {
    Failure::Lost(format!("the hub is lost: {what}\ngive it longer with --timeout"))
}

/// Whether it may be otherwise in a while.
pub(super) fn comes_back(failure: &Failure) -> bool {
    match failure {
        Failure::NoHub(_) => true,
        Failure::Client(ClientError::Refused { status, .. }) => *status == 429 || *status >= 500,
        Failure::Client(ClientError::Unreachable { reason, .. }) => !reason.contains("certificate"),
        Failure::Client(ClientError::NotAHub { .. }) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place(from: From, partitions: &[u32], position: &str) -> Place {
        let (partitions, position) = (partitions.to_vec(), position.to_owned());
        Place { from, device: None, group: None, partitions, position }
    }

    #[test]
    fn a_query_asks_for_what_was_not_printed() {
        #[track_caller]
        fn check(place: &Place, want: &str) {
            assert_eq!(place.query(), want);
        }
        check(&place(From::End, &[], ""), "from=end");
        check(&place(From::Start, &[], "0:7,3:0"), "from=start&last-event-id=0:7,3:0");
        let time = From::Time("2026-01-31T12:00:00Z".parse().expect("a time"));
        let mut named = place(time, &[], "");
        (named.device, named.group) = (Some("a#b".into()), Some("$Default".into()));
        let want = "from=2026%2D01%2D31T12%3A00%3A00Z&device=a%23b&group=%24Default";
        check(&named, want);
    }

    #[test]
    fn partitions_are_printed_alone() {
        let event = |partition: u32| Event {
            id: String::new(),
            data: json!({"event": {"partition": partition}}),
        };
        let all = place(From::Start, &[], "");
        assert!(all.wants(&event(0)) && all.wants(&event(1)));
        let one = place(From::Start, &[1], "1:5");
        assert!(!one.wants(&event(0)) && one.wants(&event(1)));
    }
}
