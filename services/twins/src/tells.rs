//! What connected devices are still to be told of their desired properties, each in its order and
//! apart from the updates: one task per device while there is something to tell.
//!
//! Nothing is left out. What cannot be told is tried again before what came after it (two merge
//! patches cannot always be made one: a key that is deleted and then set is not one that is set), and
//! in the end the connection is ended, so that the device reads its twin when it is back.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dunlin_model::{ErrorCode, HubError, Identity};
use dunlin_runtime::DeviceLinks;
use dunlin_runtime::telemetry::carried;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tracing::{error, warn};

/// Changes that a device may not have been told of, before no more are made.
const QUEUE: usize = 64;

/// Before the second try to tell, and the third.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// Tries to end a connection, a second apart: its gateway does not answer either.
const ENDINGS: usize = 10;
const ENDING_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct Tells(Arc<Shared>);

struct Shared {
    links: DeviceLinks,
    /// By device; one that has a queue, be it empty, has a task.
    queues: Mutex<HashMap<Identity, VecDeque<Tell>>>,
}

struct Tell {
    version: u64,
    patch: Arc<str>,
    told: oneshot::Sender<()>,
}

impl Tells {
    pub(crate) fn new(links: DeviceLinks) -> Self {
        Self(Arc::new(Shared { links, queues: Mutex::default() }))
    }

    /// Whether one more change of this device may be made.
    pub(crate) fn room(&self, id: &Identity) -> Result<(), HubError> {
        match self.queues().get(id) {
            Some(queue) if queue.len() >= QUEUE => Err(HubError::new(
                ErrorCode::ThrottlingException,
                format!(
                    "{QUEUE} changes of desired properties wait until {id} has been told of them: \
                     try again later, or change more at once"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Has a device told of a change, after those before it. What comes back resolves when its
    /// gateway has it, and fails when the device is to read its twin instead.
    pub(crate) fn tell(&self, id: &Identity, version: u64, patch: String) -> oneshot::Receiver<()> {
        let (told, outcome) = oneshot::channel();
        let tell = Tell { version, patch: patch.into(), told };
        match self.queues().entry(id.clone()) {
            Entry::Occupied(mut queue) => queue.get_mut().push_back(tell),
            Entry::Vacant(empty) => {
                empty.insert(VecDeque::from([tell]));
                tokio::spawn(carried(self.clone().drain(id.clone())));
            }
        }
        outcome
    }

    /// Tells what is in the queue of a device, until it is empty and forgotten.
    async fn drain(self, id: Identity) {
        while let Some((version, patch)) = self.first(&id) {
            if self.told(&id, version, &patch).await {
                let tell = self.queues().get_mut(&id).and_then(VecDeque::pop_front);
                // The update may not have waited for it.
                let _ = tell.map(|tell| tell.told.send(()));
            } else {
                self.end(&id).await;
            }
        }
    }

    /// What a device is to be told next. `None`: nothing, and its queue is gone.
    fn first(&self, id: &Identity) -> Option<(u64, Arc<str>)> {
        let mut queues = self.queues();
        let first = queues.get(id)?.front().map(|tell| (tell.version, Arc::clone(&tell.patch)));
        if first.is_none() {
            queues.remove(id);
        }
        first
    }

    /// Whether its gateway has it, or the device is not connected: then it reads its twin when it is.
    async fn told(&self, id: &Identity, version: u64, patch: &str) -> bool {
        for pause in PAUSES.map(Some).into_iter().chain([None]) {
            let told = self.0.links.notify_desired(id, version, patch.as_bytes()).await;
            let Err(error) = told else { return true };
            warn!(%id, version, %error, "a device could not be told of its desired properties");
            if let Some(pause) = pause {
                sleep(pause).await;
            }
        }
        false
    }

    /// Ends the connection of a device that has missed something.
    async fn end(&self, id: &Identity) {
        for _ in 0..ENDINGS {
            // Of what is stored by now the device reads when it is back. It may be back before the
            // answer: what comes from here on is told.
            if let Some(queue) = self.queues().get_mut(id) {
                queue.clear();
            }
            let ended = self.0.links.end(id, ErrorCode::DeviceConnectionClosedRemotely).await;
            let Err(error) = ended else { return };
            warn!(%id, %error, "a device that missed a notification could not be disconnected");
            sleep(ENDING_PAUSE).await;
        }
        error!(%id, "a device has missed desired properties: restart the gateway that holds it");
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<Identity, VecDeque<Tell>>> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dunlin_runtime::{Mesh, mesh};
    use dunlin_storage::presence::MemoryPresence;
    use tokio::runtime::Handle;

    use super::*;

    #[tokio::test]
    async fn what_waits_for_a_device_is_bounded_and_forgotten() {
        let mesh = Mesh::new(mesh::Config::default(), &[], Handle::current());
        let tells = Tells::new(DeviceLinks::new(mesh, Arc::new(MemoryPresence::new(1))));
        let [a, b] = ["a", "b"].map(|id| Identity::device(id).expect("an id"));
        let mut waiting = Vec::new();
        // Nothing is told before the first await.
        for version in 0..QUEUE as u64 {
            tells.room(&a).expect("there is room");
            waiting.push(tells.tell(&a, version, "{}".to_owned()));
        }
        let full = tells.room(&a).expect_err("it is full");
        assert_eq!(full.code, ErrorCode::ThrottlingException);
        tells.room(&b).expect("another device's");
        for told in waiting {
            told.await.expect("a device that is not connected needs no telling");
        }
        while !tells.queues().is_empty() {
            tokio::task::yield_now().await;
        }
        tells.room(&a).expect("room again");
    }
}
