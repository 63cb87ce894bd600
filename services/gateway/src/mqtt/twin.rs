//! Twin requests of a device: one at a time, so that they take effect in the order they came.

use std::collections::VecDeque;
use std::rc::Rc;

use dunlin_model::session::Topic;
use dunlin_model::{ErrorCode, HubError};
use ntex::util::Bytes;

use super::connection::Connection;
use super::reason;
use crate::queue::Message;
use crate::twin::{TwinAnswer, TwinRequest};
use crate::worker::Worker;

/// Requests of a connection that wait for their answer; then it is not read from until one has it.
const WINDOW: usize = 16;

/// Requests in order of receipt; the first is under way.
#[derive(Default)]
pub struct Requests(VecDeque<Waiting>);

struct Waiting {
    /// The device's own name for it.
    rid: Box<str>,
    /// `None`: it is under way, or refused already.
    request: Option<Result<TwinRequest, HubError>>,
}

impl Requests {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.0.len() >= WINDOW
    }
}

/// A report as it came; its version may be none.
pub(super) fn report(version: Option<&str>, patch: &[u8]) -> Result<TwinRequest, HubError> {
    let if_version = version.map(str::parse).transpose().map_err(|_| {
        HubError::new(ErrorCode::ArgumentInvalid, "$version is not a version: a number is")
    })?;
    Ok(TwinRequest::Report { patch: patch.to_vec(), if_version })
}

impl Connection {
    pub(super) fn request_twin(
        &self,
        rid: &str,
        request: Result<TwinRequest, HubError>,
        worker: &Rc<Worker>,
    ) {
        let first = self.with_rare(|rare| {
            let first = rare.twin.is_empty();
            rare.twin.0.push_back(Waiting { rid: rid.into(), request: Some(request) });
            first
        });
        if first {
            self.next_twin(worker);
        }
    }

    /// Has the first request carried out, if there is one.
    fn next_twin(&self, worker: &Rc<Worker>) {
        let request = self.if_rare(|rare| rare.twin.0.front_mut()?.request.take());
        let Some(Some(request)) = request else { return };
        let (key, queue) = (self.key(), worker.queue.clone());
        let request = match request {
            Ok(request) => request,
            Err(refused) => return queue.tell(key, Message::Twin(Err(refused))),
        };
        let (gateway, id) = (worker.gateway.clone(), self.session.identity().clone());
        let epoch = self.session.epoch();
        worker.gateway.runtime.spawn(async move {
            let answer = gateway.twin(&id, epoch, request).await;
            queue.tell(key, Message::Twin(answer));
        });
    }

    /// The first request has its answer.
    pub(super) fn twin_answered(&self, answer: Result<TwinAnswer, HubError>, worker: &Rc<Worker>) {
        let Some(Some(waiting)) = self.if_rare(|rare| rare.twin.0.pop_front()) else { return };
        if self.session.subscriptions().get(Topic::TwinAnswers).is_some() {
            let (status, version, body) = match answer {
                Ok(TwinAnswer::Properties(json)) => (200, None, Bytes::from(json)),
                Ok(TwinAnswer::Reported(version)) => (204, Some(version), Bytes::new()),
                Err(error) => {
                    let identity = self.session.identity();
                    tracing::debug!(%identity, %error, "twin request refused");
                    (error.code.http_status(), None, reason::twin_body(&error))
                }
            };
            let rid = &waiting.rid;
            let topic = match version {
                Some(version) => {
                    format!("$iothub/twin/res/{status}/?$rid={rid}&$version={version}")
                }
                None => format!("$iothub/twin/res/{status}/?$rid={rid}"),
            };
            self.push(topic, None, body);
        }
        self.next_twin(worker);
        self.tidy();
        self.resume();
    }
}
