//! The channel generated clients are given: in-process or remote, with one deadline for both.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

use super::observed::Observer;
use super::peers::Peers;

pub(super) type Request = http::Request<Body>;
pub(super) type Response = http::Response<Body>;

/// The routes of this process, while they are attached.
#[derive(Default)]
pub(super) struct Local(RwLock<Option<Routes>>);

impl Local {
    pub fn get(&self) -> Option<Routes> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns what was there before.
    pub fn set(&self, routes: Option<Routes>) -> Option<Routes> {
        std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), routes)
    }
}

#[derive(Clone)]
pub(super) enum Target {
    Local(Arc<Local>),
    Remote(Arc<Peers>),
}

/// A way to a role or a process. Cheap to clone.
///
/// A call runs as a task on the main runtime, so that a slow handler never stalls the connection
/// thread it was called from; dropping the call's future cancels it, unless it is gathered. The
/// deadline is for the response head: a stream may go on for as long as it likes.
#[derive(Clone)]
pub struct MeshChannel {
    target: Target,
    runtime: Handle,
    deadline: Duration,
    gathered: bool,
    observer: Observer,
}

impl MeshChannel {
    pub(super) fn new(
        target: Target,
        runtime: Handle,
        deadline: Duration,
        observer: Observer,
    ) -> Self {
        Self { target, runtime, deadline, gathered: false, observer }
    }

    /// The same way with another deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The same way for unary gRPC calls only, which another process is asked for together with
    /// what others ask of it. One that is dropped on its way there is not cancelled.
    #[must_use]
    pub fn gathered(mut self) -> Self {
        self.gathered = true;
        self
    }

    /// Whether somebody is there to be called.
    pub async fn reach(&self) -> Result<(), Status> {
        match &self.target {
            Target::Local(routes) => routes.get().map(drop).ok_or_else(detached),
            Target::Remote(peers) => peers.reach().await,
        }
    }
}

impl Service<Request> for MeshChannel {
    type Response = Response;
    type Error = Status;
    type Future = Call;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Call {
        let target = self.target.clone();
        let (deadline, gathered) = (self.deadline, self.gathered);
        let (ongoing, span) = self.observer.call(&mut request);
        Call(self.runtime.spawn(async move {
            let answer = async {
                let until = Instant::now() + deadline;
                let with_others = gathered.then_some(until);
                match timeout_at(until, dispatch(target, request, with_others)).await {
                    Ok(answer) => answer,
                    Err(_) => Err(Status::deadline_exceeded(format!("no answer in {deadline:?}"))),
                }
            };
            let answer = span.run(answer).await;
            ongoing.end(&answer);
            answer
        }))
    }
}

/// `with_others`: until when somebody waits for a call that may go with others.
async fn dispatch(
    target: Target,
    request: Request,
    with_others: Option<Instant>,
) -> Result<Response, Status> {
    match target {
        Target::Local(routes) => match routes.get() {
            Some(routes) => routes.oneshot(request).await.map_err(|never| match never {}),
            None => Err(detached()),
        },
        Target::Remote(peers) => {
            let response = match with_others {
                Some(until) => peers.call_with_others(request, until).await?,
                None => peers.call(request).await?,
            };
            // Said in place of an answer. Who speaks REST here would not look for it.
            match Status::from_header_map(response.headers()) {
                Some(status) if status.code() != Code::Ok => Err(status),
                _ => Ok(response),
            }
        }
    }
}

fn detached() -> Status {
    Status::unavailable("this process is starting or stopping")
}

/// A call under way; dropped, it is cancelled, unless it went with others.
pub struct Call(JoinHandle<Result<Response, Status>>);

impl Future for Call {
    type Output = Result<Response, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|joined| {
            joined
                .unwrap_or_else(|error| Err(Status::internal(format!("the handler died: {error}"))))
        })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.abort();
    }
}
