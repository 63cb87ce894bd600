//! Watching events for as long as it takes: a hub that goes is waited for, and reading goes on
//! behind what was printed.

use std::collections::BTreeMap;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use jiff::Timestamp;
use tokio::time::Instant;

use super::LoginArgs;
use super::failure::Failure;
use crate::client::{ClientError, Event, EventStream, encoded};

/// Between two looks whether the hub is back; each a little by chance, lest all who wait come at
/// the same moment.
const RETRY: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(5))
    .without_max_times();

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
}

/// What to ask for, and how far the reader has come.
#[derive(Debug, PartialEq)]
pub(super) struct Place {
    pub from: From,
    pub device: Option<String>,
    pub group: Option<String>,
    /// Only these partitions, each from that offset on. None: all of them.
    pub offsets: BTreeMap<u32, u64>,
    /// The last offset that was printed, by partition.
    pub printed: BTreeMap<u32, u64>,
}

impl Place {
    fn query(&self) -> String {
        let from = match &self.from {
            // Before the first record no offset stands to be named.
            _ if self.offsets.values().any(|offset| *offset == 0) => "start".to_owned(),
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
        let before = |(partition, offset): (&u32, &u64)| Some((*partition, offset.checked_sub(1)?));
        let mut after: BTreeMap<u32, u64> = self.offsets.iter().filter_map(before).collect();
        after.extend(&self.printed);
        if !after.is_empty() {
            let after: Vec<_> = after.iter().map(|(p, offset)| format!("{p}:{offset}")).collect();
            query.push_str(&format!("&after={}", after.join(",")));
        }
        query
    }

    /// Whether the event is to be printed; from then on it counts as printed.
    fn take(&mut self, event: &Event) -> bool {
        let id = event.id.split_once(':');
        let Some((partition, offset)) = id
            .and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)))
        else {
            return true;
        };
        if !self.offsets.is_empty() && !self.offsets.contains_key(&partition) {
            return false;
        }
        // A hub that starts anew with nothing counts from 0 again: less than was printed is new.
        self.printed.insert(partition, offset) != Some(offset)
    }
}

impl<'a> Monitor<'a> {
    pub(super) fn new(login: &'a LoginArgs, place: Place, idle: Option<Duration>) -> Self {
        Self { login, place, idle }
    }

    /// Hands each event to `print`, until nothing comes any more or the hub refuses.
    pub(super) async fn run(
        &mut self,
        mut print: impl FnMut(&Event) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        // A hub that was never there is not waited for.
        let mut stream = self.open().await?;
        let mut heard = Instant::now();
        loop {
            let reason = loop {
                let next = match self.idle {
                    None => stream.next().await,
                    Some(idle) => {
                        match tokio::time::timeout_at(heard + idle, stream.next()).await {
                            Ok(next) => next,
                            Err(_) => return Ok(()),
                        }
                    }
                };
                match next {
                    Ok(Some(event)) => {
                        heard = Instant::now();
                        if self.place.take(&event) {
                            print(&event)?;
                        }
                    }
                    Ok(None) => break "it has ended the stream".to_owned(),
                    Err(error) => break error.to_string(),
                }
            };
            eprintln!("the hub has gone ({reason}); waiting for it");
            stream = self.reopen(heard).await?;
            heard = Instant::now();
            eprintln!("the hub is back; going on behind what was printed");
        }
    }

    async fn open(&mut self) -> Result<EventStream, Failure> {
        // Anew each time: a hub that starts again may have taken other ports.
        let stream = self.login.client()?.events(&self.place.query()).await?;
        // From now on nothing may be missed, also of partitions of which nothing was printed yet.
        if self.place.from == From::End {
            self.place.from = From::Time(stream.opened());
        }
        Ok(stream)
    }

    async fn reopen(&mut self, heard: Instant) -> Result<EventStream, Failure> {
        let mut last = None;
        for wait in RETRY.build() {
            let deadline = self.idle.map(|idle| heard + idle);
            if let Some(deadline) = deadline
                && deadline < Instant::now() + wait
            {
                // Nobody was heard, but nobody can say either that nothing was sent.
                tokio::time::sleep_until(deadline).await;
                break;
            }
            tokio::time::sleep(wait).await;
            match self.open().await {
                Ok(stream) => return Ok(stream),
                Err(failure) if comes_back(&failure) => last = Some(failure),
                Err(failure) => return Err(failure),
            }
        }
        Err(last.unwrap_or_else(|| {
            Failure::Lost(
                "the hub has gone and did not come back in time\ngive it longer with --timeout"
                    .to_owned(),
            )
        }))
    }
}

/// Whether it may be otherwise in a while.
fn comes_back(failure: &Failure) -> bool {
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

    fn place(from: From, offsets: &[(u32, u64)], printed: &[(u32, u64)]) -> Place {
        let map = |pairs: &[(u32, u64)]| pairs.iter().copied().collect();
        Place { from, device: None, group: None, offsets: map(offsets), printed: map(printed) }
    }

    #[test]
    fn a_query_asks_for_what_was_not_printed() {
        #[track_caller]
        fn check(place: &Place, want: &str) {
            assert_eq!(place.query(), want);
        }
        check(&place(From::End, &[], &[]), "from=end");
        check(&place(From::Start, &[], &[(0, 7), (3, 0)]), "from=start&after=0:7,3:0");
        check(&place(From::End, &[(1, 5), (2, 9)], &[(2, 11)]), "from=end&after=1:4,2:11");
        check(&place(From::End, &[(1, 0)], &[]), "from=start");
        let time = From::Time("2026-01-31T12:00:00Z".parse().expect("a time"));
        let mut named = place(time, &[], &[]);
        (named.device, named.group) = (Some("a#b".into()), Some("$Default".into()));
        let want = "from=2026%2D01%2D31T12%3A00%3A00Z&device=a%23b&group=%24Default";
        check(&named, want);
    }

    #[test]
    fn an_event_is_printed_once() {
        let event = |id: &str| Event { id: id.to_owned(), data: json!({}) };
        let mut all = place(From::Start, &[], &[]);
        assert!(all.take(&event("0:1")) && all.take(&event("1:1")) && all.take(&event("0:2")));
        assert!(!all.take(&event("0:2")));
        assert_eq!(all.printed, BTreeMap::from([(0, 2), (1, 1)]));
        let mut one = place(From::Start, &[(1, 0)], &[]);
        assert!(!one.take(&event("0:1")) && one.take(&event("1:0")));
    }
}
