//! What concurrent callers ask for, done together: one transaction, or one read, for all that wait.
//!
//! A batch begins when the one before has ended, not by a timer: who calls alone waits for nobody.
//! Two at once would be smaller ones: with few callers each cost Postgres twice as much processor
//! time (docs/adr/0005-postgres.md).

use std::sync::Arc;

use async_trait::async_trait;
use dunlin_model::Identity;
use tokio::sync::{mpsc, oneshot};

use super::session::{Fault, Session};
use super::{Postgres, unavailable};
use crate::StoreError;
use crate::error::chain;

/// Calls in one batch: bounds how long the first of them waits for the last.
const GROUP: usize = 512;

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
    calls: mpsc::UnboundedSender<Waiting<W>>,
}

impl<W: Work> Batcher<W> {
    pub(crate) fn new(postgres: &Postgres, work: W) -> Self {
        let (calls, queue) = mpsc::unbounded_channel();
        tokio::spawn(drain(postgres.clone(), Arc::new(work), queue));
        Self { calls }
    }

    /// It is done even if the caller stops waiting.
    pub(crate) async fn call(&self, call: W::Call) -> Result<W::Answer, StoreError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.calls.send(Waiting { call, reply }).is_ok();
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
        // In a task of its own: a panic must not end the one that does everybody's calls.
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
