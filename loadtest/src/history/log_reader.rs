//! Reads the hub's event stream along a run, and writes down what is in the log (docs/events.md).
//! How the stream is opened is the caller's.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{Stream, StreamExt};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Kind, Line, Pen, Place, now, stamp};
use crate::check::Ranges;

const PATH: &str = "/dunlin/v1/events";
/// The hub says something every 15 seconds; one that is silent for so long has gone.
const SILENCE: Duration = Duration::from_secs(45);
/// A block of the stream has one event, whose message has 256 KiB.
const LONGEST: usize = 16 << 20;
/// Before a stream that has ended is opened again.
const PAUSE: Duration = Duration::from_secs(1);

/// An open stream. `open` gets path and query of the request, and returns the body of a 200.
pub struct LogReader<O, S> {
    open: O,
    stream: Option<S>,
    /// Why there is none.
    trouble: Option<Error>,
    events: Events,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Messages of the run, each counted once.
    pub messages: u64,
    /// Events of its devices that are no such messages.
    pub others: u64,
    /// It has ended because all were seen, not because nothing more came.
    pub all: bool,
}

impl<O, S, P> LogReader<O, S>
where
    O: AsyncFnMut(&str) -> Result<S>,
    S: Stream<Item = Result<P>> + Unpin,
    P: AsRef<[u8]>,
{
    /// Once the stream has begun, with what is logged from then on if `from` is `end`; it may be
    /// `start` or a time, too. Only devices whose ids begin with the prefix are looked at.
    pub async fn open(from: &str, prefix: &str, pen: Pen, mut open: O) -> Result<Self> {
        let mut stream = open(&format!("{PATH}?from={from}")).await?;
        let mut events = Events::new(prefix, pen);
        // It begins with an id alone. Without one there is nothing to come back to.
        while events.position.is_empty() {
            let piece = stream.next().await.context("the event stream ended before it began")?;
            events.take(piece?.as_ref())?;
        }
        Ok(Self { open, stream: Some(stream), trouble: None, events })
    }

    /// Until as many messages were seen as were sent (each counted once), once that is known; or
    /// until nothing came for so long after it is known. A stream that ends is opened again.
    pub async fn read(
        mut self,
        mut sent: watch::Receiver<Option<u64>>,
        idle: Duration,
    ) -> Result<Seen> {
        let mut last = Instant::now();
        loop {
            let (sent_now, before) = (*sent.borrow_and_update(), self.events.seen);
            if sent_now.is_some_and(|sent| before.messages >= sent) {
                return Ok(Seen { all: true, ..before });
            }
            tokio::select! {
                // What has come counts before the end of patience.
                biased;
                progress = self.progress() => progress?,
                changed = sent.changed() => {
                    changed.context("the run has gone")?;
                    last = Instant::now();
                }
                () = sleep_until(last + idle), if sent_now.is_some() => {
                    let unread = |trouble: Error| trouble.context("the log was not read to its end");
                    return self.trouble.map_or(Ok(self.events.seen), |trouble| Err(unread(trouble)));
                }
            }
            if self.events.seen != before {
                last = Instant::now();
            }
        }
    }

    /// Takes the next piece of the stream, or opens it again. Only what makes no sense is an error.
    async fn progress(&mut self) -> Result<()> {
        let Some(stream) = &mut self.stream else {
            sleep(PAUSE).await;
            let query = format!("{PATH}?last-event-id={}", self.events.position);
            match (self.open)(&query).await {
                Ok(stream) => (self.stream, self.trouble) = (Some(stream), None),
                Err(error) => self.trouble = Some(error),
            }
            self.events.unread.clear();
            return Ok(());
        };
        let trouble = match timeout(SILENCE, stream.next()).await {
            Ok(Some(Ok(piece))) => return self.events.take(piece.as_ref()),
            Ok(Some(Err(error))) => error,
            Ok(None) => anyhow!("the event stream has ended"),
            Err(_) => anyhow!("the event stream was silent for {SILENCE:?}"),
        };
        (self.stream, self.trouble) = (None, Some(trouble));
        Ok(())
    }
}

/// What comes of the stream's bytes.
struct Events {
    prefix: String,
    pen: Pen,
    unread: Vec<u8>,
    /// The last id: where to go on.
    position: String,
    /// By device, of each of its connections.
    messages: HashMap<Box<str>, Vec<(u32, Ranges)>>,
    seen: Seen,
}

#[derive(Deserialize)]
struct Shown<'a> {
    #[serde(borrow)]
    event: Event<'a>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    origin: Cow<'a, str>,
    #[serde(borrow)]
    module: Cow<'a, str>,
    partition: u32,
    offset: u64,
    #[serde(borrow)]
    payload_base64: Cow<'a, str>,
}

impl Events {
    fn new(prefix: &str, pen: Pen) -> Self {
        let (prefix, unread, position) = (prefix.to_owned(), Vec::new(), String::new());
        Self { prefix, pen, unread, position, messages: HashMap::new(), seen: Seen::default() }
    }

    /// Takes bytes as they come. A block ends with an empty line.
    fn take(&mut self, piece: &[u8]) -> Result<()> {
        // The piece may begin with the end of a block.
        let searched = self.unread.len().saturating_sub(1);
        self.unread.extend_from_slice(piece);
        let fresh = &self.unread[searched..];
        let Some(at) = fresh.windows(2).rposition(|pair| pair == b"\n\n") else {
            if self.unread.len() > LONGEST {
                bail!("an event of more than {LONGEST} bytes");
            }
            return Ok(());
        };
        let rest = self.unread.split_off(searched + at + 2);
        let whole = std::mem::replace(&mut self.unread, rest);
        let text = std::str::from_utf8(&whole).context("the event stream is no text")?;
        for line in text.lines() {
            if let Some(id) = line.strip_prefix("id: ") {
                id.clone_into(&mut self.position);
            } else if let Some(data) = line.strip_prefix("data: ") {
                let shown: Shown<'_> = serde_json::from_str(data)
                    .context("an event is not as docs/events.md has it")?;
                self.event(&shown.event)?;
            }
        }
        Ok(())
    }

    fn event(&mut self, event: &Event<'_>) -> Result<()> {
        let device = &*event.origin;
        // No id has a space in it, which would make another line of it.
        let odd = device.contains(|c: char| c.is_whitespace() || c.is_control());
        if odd || !device.starts_with(&self.prefix) || !event.module.is_empty() {
            return Ok(());
        }
        let body = STANDARD.decode(&*event.payload_base64).context("payload_base64")?;
        let Some(stamp) = stamp::read(device, &body) else {
            self.seen.others += 1;
            return Ok(());
        };
        let stamp::Stamp { epoch, sequence, intact } = stamp;
        let place = Place { partition: event.partition, offset: event.offset };
        let kind = if intact { Kind::Logged(place) } else { Kind::Altered(place) };
        self.pen.write(&Line { time: now(), device, epoch, sequence, kind });
        if intact && self.ranges(device, epoch).insert(sequence) {
            self.seen.messages += 1;
        }
        Ok(())
    }

    fn ranges(&mut self, device: &str, epoch: u32) -> &mut Ranges {
        if !self.messages.contains_key(device) {
            self.messages.insert(device.into(), Vec::new());
        }
        let of_it = self.messages.get_mut(device).expect("it is there");
        let at = of_it.iter().rposition(|(known, _)| *known == epoch).unwrap_or_else(|| {
            of_it.push((epoch, Ranges::default()));
            of_it.len() - 1
        });
        &mut of_it[at].1
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::PathBuf;

    use futures_util::future::Either;
    use futures_util::stream;
    use tempfile::TempDir;

    use super::super::Recorder;
    use super::*;

    /// An event of the stream, with its id.
    fn event(device: &str, next: u64, body: &[u8]) -> String {
        let payload = STANDARD.encode(body);
        let event = serde_json::json!({"event": {
            "origin": device, "module": "", "partition": 2, "offset": next - 1, "payload": "\n\n",
            "annotations": {}, "payload_base64": payload,
        }});
        format!("id: 0:7,2:{next}\ndata: {event}\n\n")
    }

    fn body(sequence: u64) -> Vec<u8> {
        let mut body = Vec::new();
        stamp::write(&mut body, "d-1", 1, sequence, 40);
        body
    }

    fn message(next: u64, sequence: u64) -> String {
        event("d-1", next, &body(sequence))
    }

    struct Scene {
        _folder: TempDir,
        path: PathBuf,
        recorder: Recorder,
    }

    impl Scene {
        fn new() -> Result<Self> {
            let folder = tempfile::tempdir()?;
            let path = folder.path().join("log.history");
            let recorder = Recorder::create(&path, "log")?;
            Ok(Self { _folder: folder, path, recorder })
        }

        /// What was written, without times.
        fn lines(self) -> Result<Vec<String>> {
            self.recorder.finish(false)?;
            let text = std::fs::read_to_string(self.path)?;
            let lines = text.lines().filter(|line| line.contains("d-1"));
            Ok(lines
                .map(|line| {
                    let words: Vec<_> = line.split(' ').collect();
                    [&words[..1], &words[2..]].concat().join(" ")
                })
                .collect())
        }

        /// Reads streams one after the other; the last one stays open. `None`: it cannot be opened.
        async fn read(
            &self,
            streams: Vec<Option<Vec<String>>>,
            sent: u64,
        ) -> (Result<Seen>, Vec<String>) {
            let (asked, last) = (RefCell::new(Vec::new()), streams.len() - 1);
            let open = async |query: &str| {
                let number = asked.borrow().len().min(last);
                asked.borrow_mut().push(query.to_owned());
                let pieces = streams[number].clone().context("it is away")?;
                let pieces = stream::iter(pieces.into_iter().map(Ok));
                Ok(match number == last {
                    true => Either::Left(pieces.chain(stream::pending())),
                    false => Either::Right(pieces),
                })
            };
            let read = async {
                let reader = LogReader::open("end", "d-", self.recorder.pen(), open).await?;
                let (_sent, expected) = watch::channel(Some(sent));
                reader.read(expected, Duration::from_secs(5)).await
            };
            let seen = read.await;
            (seen, asked.into_inner())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_the_log_is_written_down_however_it_arrives() -> Result<()> {
        let mut changed = body(3);
        changed[39] ^= 1;
        let text = [
            "id: 0:7,2:0\n\n".to_owned(),
            message(1, 1),
            event("d-1", 2, b"hello"),
            event("other", 3, &body(9)),
            event("d-1 1\nlogged", 3, &body(9)),
            message(4, 1),
            event("d-1", 5, &changed),
            "id: 0:7,2:5\n\n".to_owned(),
            message(6, 2),
        ]
        .concat();
        let pieces = |size: usize| {
            let pieces = text.as_bytes().chunks(size);
            pieces.map(|piece| String::from_utf8_lossy(piece).into_owned()).collect()
        };
        for size in [1, 2, 3, 50, 700, 10_000] {
            let scene = Scene::new()?;
            let (seen, asked) = scene.read(vec![Some(pieces(size))], 2).await;
            assert_eq!(seen?, Seen { messages: 2, others: 1, all: true }, "{size}");
            assert_eq!(asked, ["/dunlin/v1/events?from=end"]);
            let want = [
                "logged d-1 1 1 2 0",
                "logged d-1 1 1 2 3",
                "altered d-1 1 3 2 4",
                "logged d-1 1 2 2 5",
            ];
            assert_eq!(scene.lines()?, want);
        }
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_ends_is_gone_on_with() -> Result<()> {
        let scene = Scene::new()?;
        let first = vec!["id: 2:0\n\n".to_owned(), message(1, 1), message(2, 2)[..90].to_owned()];
        let streams = vec![Some(first), None, Some(vec![message(2, 2), message(3, 3)])];
        let (seen, asked) = scene.read(streams, 3).await;
        assert_eq!(seen?, Seen { messages: 3, others: 0, all: true });
        let on = "/dunlin/v1/events?last-event-id=0:7,2:1";
        assert_eq!(asked, ["/dunlin/v1/events?from=end", on, on]);
        let want = ["logged d-1 1 1 2 0", "logged d-1 1 2 2 1", "logged d-1 1 3 2 2"];
        assert_eq!(scene.lines()?, want);
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_wait_for_ever() -> Result<()> {
        let scene = Scene::new()?;
        let first = vec!["id: 2:0\n\n".to_owned(), message(1, 1)];
        let (seen, _) = scene.read(vec![Some(first.clone())], 2).await;
        assert_eq!(seen?, Seen { messages: 1, others: 0, all: false });
        let (seen, asked) = scene.read(vec![Some(first), None], 2).await;
        let error = seen.expect_err("it is away for good");
        assert_eq!(format!("{error:#}"), "the log was not read to its end: it is away");
        assert!(asked.len() > 2);
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_event_stream_is_refused() -> Result<()> {
        let scene = Scene::new()?;
        let (none, _) = scene.read(vec![Some(Vec::new()), None], 2).await;
        assert!(none.is_err(), "it has ended before it began");
        let scene = Scene::new()?;
        let mebibyte = "x".repeat(1 << 20);
        let endless = [vec!["id: 2:0\n\n".to_owned()], vec![mebibyte; 20]].concat();
        let error = scene.read(vec![Some(endless)], 2).await.0.expect_err("endless");
        assert!(format!("{error:#}").contains("more than 16777216 bytes"), "{error:#}");
        let scene = Scene::new()?;
        let strange = vec!["id: 2:0\n\n".to_owned(), "data: {}\n\n".to_owned()];
        let error = scene.read(vec![Some(strange)], 2).await.0.expect_err("strange");
        assert!(format!("{error:#}").contains("docs/events.md"), "{error:#}");
        Ok(())
    }
}
