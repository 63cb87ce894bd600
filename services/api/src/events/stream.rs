//! The readers behind one open stream: one task a partition, on the main runtime.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use dunlin_runtime::Shutdown;
use dunlin_storage::event_log::ReadLimit;
use dunlin_storage::{EventLog, StoreError};
use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::{Events, Request, TOPIC, json};

/// A comment this often keeps proxies from closing a quiet stream, and finds out who has gone.
const HEARTBEAT: Duration = Duration::from_secs(15);
const LIMIT: ReadLimit = ReadLimit { records: 500, bytes: 256 * 1024 };

/// Some frames, and whom to tell when the client's connection has taken them.
struct Batch {
    frames: Bytes,
    taken: oneshot::Sender<()>,
}

/// The body of an answer. Dropped with the client's connection, it ends its readers.
pub(super) struct Frames {
    batches: mpsc::Receiver<Batch>,
    given: Option<oneshot::Sender<()>>,
}

impl Stream for Frames {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        // Who asks for more has handed on what it had.
        if let Some(taken) = self.given.take() {
            let _ = taken.send(());
        }
        self.batches.poll_recv(cx).map(|batch| {
            batch.map(|batch| {
                self.given = Some(batch.taken);
                batch.frames
            })
        })
    }
}

pub(super) fn start(events: Events, request: Request, starts: Vec<(u32, u64)>) -> Frames {
    // A reader waits until its batch is taken, so that is all that is ever held of a slow client.
    let (batches, receiver) = mpsc::channel(starts.len() + 1);
    let end = events.shutdown.child_token();
    for (partition, next) in starts {
        let reader = Reader {
            log: events.log.clone(),
            end: end.clone(),
            device: request.device.clone(),
            group: request.group.clone(),
            batches: batches.clone(),
            partition,
            next,
        };
        tokio::spawn(reader.run());
    }
    tokio::spawn(heartbeat(end, batches));
    Frames { batches: receiver, given: None }
}

struct Reader {
    log: Arc<dyn EventLog>,
    /// Of the whole stream: one that lacks a partition would not be noticed.
    end: Shutdown,
    device: Option<String>,
    group: Option<String>,
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
            let log = &self.log;
            let events = log.read(TOPIC, self.partition, self.next, LIMIT, HEARTBEAT).await?;
            let Some(last) = events.last() else { continue };
            self.next = last.offset + 1;
            let wanted =
                |key: &[u8]| self.device.as_ref().is_none_or(|device| device.as_bytes() == key);
            let frames: String = events
                .iter()
                .filter(|event| wanted(&event.key))
                .map(|event| {
                    let (partition, offset) = (event.partition, event.offset);
                    format!("id: {partition}:{offset}\ndata: {}\n\n", json::event(event))
                })
                .collect();
            if !frames.is_empty() && !hand_over(&self.batches, frames).await {
                return Ok(());
            }
            // Behind the hand-over: what a client that went did not take is read again.
            if let Some(group) = &self.group {
                log.group_commit(TOPIC, group, &[(self.partition, self.next)]).await?;
            }
        }
    }
}

/// Whether the client took it.
async fn hand_over(batches: &mpsc::Sender<Batch>, frames: String) -> bool {
    let (taken, taking) = oneshot::channel();
    batches.send(Batch { frames: frames.into(), taken }).await.is_ok() && taking.await.is_ok()
}

async fn heartbeat(end: Shutdown, batches: mpsc::Sender<Batch>) {
    // The first one at once: a client sees that its stream is open.
    let beat = async {
        let mut every = tokio::time::interval(HEARTBEAT);
        loop {
            every.tick().await;
            if !hand_over(&batches, ":\n\n".to_owned()).await {
                break;
            }
        }
    };
    tokio::select! {
        () = end.cancelled() => {}
        () = batches.closed() => {}
        () = beat => {}
    }
}
