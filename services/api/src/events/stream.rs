//! The readers behind one open stream, one task a partition, on the main runtime; and what they
//! read as server-sent events.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use dunlin_runtime::Shutdown;
use dunlin_storage::event_log::ReadLimit;
use dunlin_storage::{EventLog, StoreError};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::error;

use super::{Events, TOPIC, json};

/// A mark this often keeps proxies from closing a quiet stream, and finds out who has gone.
const HEARTBEAT: Duration = Duration::from_secs(15);
const LIMIT: ReadLimit = ReadLimit { records: 500, bytes: 256 * 1024 };

/// What was read of a partition.
struct Batch {
    partition: u32,
    /// Of each event that is wanted, the offset behind it, and its JSON.
    events: Vec<(u64, String)>,
    /// Behind all that was read, wanted or not.
    next: u64,
}

/// The body of an answer. Dropped with the client's connection, it ends its readers.
pub(super) fn start(
    events: Events,
    device: Option<String>,
    starts: Vec<(u32, u64)>,
) -> impl Stream<Item = Bytes> {
    // A reader waits for its turn with its batch, so that is all that is ever held of a slow client.
    let (batches, receiver) = mpsc::channel(1);
    let end = events.shutdown.child_token();
    for (partition, next) in &starts {
        let reader = Reader {
            log: events.log.clone(),
            end: end.clone(),
            device: device.clone(),
            batches: batches.clone(),
            partition: *partition,
            next: *next,
        };
        tokio::spawn(reader.run());
    }
    let frames = Frames::new(receiver, starts);
    // Before any event: a client sees that its stream is open, and where it begins.
    let first = stream::once(ready(frames.mark()));
    let next = async |mut frames: Frames| Some((frames.next().await?, frames));
    // Most batches hold nothing for who asks for one device.
    first.chain(stream::unfold(frames, next)).filter(|frames| ready(!frames.is_empty()))
}

struct Frames {
    batches: mpsc::Receiver<Batch>,
    /// Where to go on, of every partition that is read: what an event's id says.
    positions: BTreeMap<u32, u64>,
    beat: Interval,
}

impl Frames {
    fn new(batches: mpsc::Receiver<Batch>, starts: Vec<(u32, u64)>) -> Self {
        let mut beat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { batches, positions: starts.into_iter().collect(), beat }
    }

    async fn next(&mut self) -> Option<Bytes> {
        tokio::select! {
            _ = self.beat.tick() => Some(self.mark()),
            batch = self.batches.recv() => Some(self.show(batch?).into()),
        }
    }

    /// An id without an event.
    fn mark(&self) -> Bytes {
        format!("id: {}\n\n", self.id()).into()
    }

    fn show(&mut self, batch: Batch) -> String {
        let mut shown = String::new();
        for (next, event) in batch.events {
            self.positions.insert(batch.partition, next);
            shown.push_str(&format!("id: {}\ndata: {event}\n\n", self.id()));
        }
        self.positions.insert(batch.partition, batch.next);
        shown
    }

    fn id(&self) -> String {
        let positions = self.positions.iter();
        positions
            .map(|(partition, next)| format!("{partition}:{next}"))
            .collect::<Vec<_>>()
            .join(",")
    }
}

struct Reader {
    log: Arc<dyn EventLog>,
    /// Of the whole stream: one that lacks a partition would not be noticed.
    end: Shutdown,
    device: Option<String>,
    batches: mpsc::Sender<Batch>,
    partition: u32,
    next: u64,
}

impl Reader {
    async fn run(mut self) {
        let (end, batches) = (self.end.clone(), self.batches.clone());
        tokio::select! {
            () = end.cancelled() => {}
            () = batches.closed() => {}
            Err(error) = self.read() => {
                let partition = self.partition;
                error!(partition, error = &error as &dyn std::error::Error, "cannot read events");
                end.cancel();
            }
        }
    }

    /// Until the client goes or the log fails; the former is `Ok`.
    async fn read(&mut self) -> Result<(), StoreError> {
        loop {
            let read = self.log.read(TOPIC, self.partition, self.next, LIMIT, HEARTBEAT);
            let events = read.await?;
            let Some(last) = events.last() else { continue };
            self.next = last.offset + 1;
            let wanted =
                |key: &[u8]| self.device.as_ref().is_none_or(|device| device.as_bytes() == key);
            let events = events
                .iter()
                .filter(|event| wanted(&event.key))
                .map(|event| (event.offset + 1, json::event(event).to_string()))
                .collect();
            let batch = Batch { partition: self.partition, events, next: self.next };
            if self.batches.send(batch).await.is_err() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_id_says_where_to_go_on_of_every_partition() {
        let (batches, receiver) = mpsc::channel(1);
        let mut frames = Frames::new(receiver, vec![(0, 7), (2, 0)]);
        assert_eq!(frames.mark(), "id: 0:7,2:0\n\n");
        let events = vec![(3, "{}".to_owned()), (5, "1".to_owned())];
        let batch = Batch { partition: 2, events, next: 9 };
        batches.send(batch).await.unwrap_or_else(|_| panic!("room"));
        let want = "id: 0:7,2:3\ndata: {}\n\nid: 0:7,2:5\ndata: 1\n\n";
        assert_eq!(frames.next().await.expect("events"), want);
        assert_eq!(frames.id(), "0:7,2:9", "past what was not wanted");
        drop(batches);
        assert_eq!(frames.next().await, None);
    }
}
