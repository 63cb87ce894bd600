//! What concurrent callers ask for, done together: one transaction, or one read, for all that wait.
//!
//! A batch begins when its lane is free, not by a timer: who calls alone waits for nobody. What
//! concerns one device goes by one lane, in the order of the calls.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use dunlin_model::Identity;
use tokio::sync::{mpsc, oneshot};

use super::session::{Fault, Session};
use super::{Postgres, unavailable};
use crate::StoreError;
use crate::error::chain;

/// Calls in one batch: bounds how long the first of them waits for the last.
const GROUP: usize = 256;

/// Batches of one kind that are under way at once, each on a connection of its own: one is worked on
/// while another waits for its commit. More of them are smaller ones (`examples/postgres_rates`).
const LANES: u64 = 2;

/// How calls of one kind are done together.
#[async_trait]
pub(crate) trait Work: Send + Sync + 'static {
    type Call: Send + Sync + 'static;
    type Answer: Send + 'static;
    /// What its round trips are counted as.
    const KIND: &'static str;

    /// An answer for each call, in their order: one that is refused is nobody else's matter. A
    /// fault is everybody's. It may be run again if it fails.
    async fn run(
        &self,
        session: &Session,
        calls: &[Self::Call],
    ) -> Result<Vec<Result<Self::Answer, StoreError>>, Fault>;
}

struct Waiting<W: Work> {
    call: W::Call,
    reply: oneshot::Sender<Result<W::Answer, StoreError>>,
}

pub(crate) struct Batcher<W: Work> {
    lanes: Vec<mpsc::UnboundedSender<Waiting<W>>>,
}

impl<W: Work> Batcher<W> {
    pub(crate) fn new(postgres: &Postgres, work: W) -> Self {
        let work = Arc::new(work);
        let lane = |_| {
            let (sender, queue) = mpsc::unbounded_channel();
            tokio::spawn(drain(postgres.clone(), Arc::clone(&work), queue));
            sender
        };
        Self { lanes: (0..LANES).map(lane).collect() }
    }

    /// It is done even if the caller stops waiting.
    pub(crate) async fn call(&self, device: &str, call: W::Call) -> Result<W::Answer, StoreError> {
        let mut hasher = DefaultHasher::new();
        device.hash(&mut hasher);
        let lane = hasher.finish() % LANES;
        let (reply, answer) = oneshot::channel();
        let sent = usize::try_from(lane).ok().and_then(|lane| self.lanes.get(lane));
        let sent = sent.is_some_and(|lane| lane.send(Waiting { call, reply }).is_ok());
        match answer.await {
            Ok(outcome) if sent => outcome,
            _ => Err(unavailable("the operation panicked, or the process ends")),
        }
    }
}

/// Works until every handle is gone and nothing waits.
async fn drain<W: Work>(
    postgres: Postgres,
    work: Arc<W>,
    mut queue: mpsc::UnboundedReceiver<Waiting<W>>,
) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, GROUP).await > 0 {
        let (calls, replies): (Vec<_>, Vec<_>) =
            waiting.drain(..).map(|waiting| (waiting.call, waiting.reply)).unzip();
        let (postgres, work) = (postgres.clone(), Arc::clone(&work));
        // In a task of its own: a panic must not end the lane that everybody's calls go by.
        let batch = tokio::spawn(async move {
            let given = (work, calls);
            postgres.run(W::KIND, &given, |session, (work, calls)| work.run(session, calls)).await
        });
        let outcome = match batch.await {
            Ok(outcome) => outcome,
            Err(_) => Err(unavailable("the operation panicked")),
        };
        answer(outcome, replies);
    }
}

fn answer<A>(
    outcome: Result<Vec<Result<A, StoreError>>, StoreError>,
    replies: Vec<oneshot::Sender<Result<A, StoreError>>>,
) {
    // Who has stopped waiting is not told.
    match outcome {
        Ok(answers) => {
            for (reply, answer) in replies.into_iter().zip(answers) {
                let _ = reply.send(answer);
            }
        }
        Err(failure) => {
            let why = match &failure {
                StoreError::Unavailable { source, .. } => chain(&**source),
                other => chain(other),
            };
            for reply in replies {
                let _ = reply.send(Err(unavailable(why.clone())));
            }
        }
    }
}

/// Ids as the two columns that every key has.
#[derive(Default)]
pub(crate) struct Keys<'a> {
    pub(crate) devices: Vec<&'a str>,
    pub(crate) modules: Vec<&'a str>,
}

impl<'a> FromIterator<&'a Identity> for Keys<'a> {
    fn from_iter<I: IntoIterator<Item = &'a Identity>>(ids: I) -> Self {
        let key = |id: &'a Identity| (id.device_id(), id.module_id().unwrap_or_default());
        let (devices, modules) = ids.into_iter().map(key).unzip();
        Self { devices, modules }
    }
}
