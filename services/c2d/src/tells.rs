//! Connected devices that are still to be told that there is something for them: one task a device
//! while there is, which does not give up. Who is connected all the while does not ask by himself.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dunlin_model::{HubError, Identity};
use dunlin_runtime::DeviceLinks;
use dunlin_runtime::telemetry::carried;
use tokio::time::sleep;
use tracing::warn;

/// Before the second attempt; doubled with each one, up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(8);

#[derive(Clone)]
pub(crate) struct Tells(Arc<Shared>);

struct Shared {
    links: DeviceLinks,
    /// By device that has a task: whether there was something more since its last attempt began.
    devices: Mutex<HashMap<String, bool>>,
}

impl Tells {
    pub(crate) fn new(links: DeviceLinks) -> Self {
        Self(Arc::new(Shared { links, devices: Mutex::default() }))
    }

    /// Tells a connected device that there is something for it; nobody waits for that. One that is
    /// not connected asks when it is.
    pub(crate) fn tell(&self, device: &str) {
        match self.devices().entry(device.to_owned()) {
            Entry::Occupied(mut more) => *more.get_mut() = true,
            Entry::Vacant(empty) => {
                empty.insert(true);
                tokio::spawn(carried(self.clone().run(device.to_owned())));
            }
        }
    }

    async fn run(self, device: String) {
        let mut pause = PAUSE;
        while self.is_due(&device) {
            if let Err(error) = self.attempt(&device).await {
                warn!(device, %error, "a device was not told of its C2D messages, trying again");
                sleep(pause).await;
                pause = LONGEST.min(pause * 2);
                self.devices().insert(device.clone(), true);
            }
        }
    }

    async fn attempt(&self, device: &str) -> Result<(), HubError> {
        self.0.links.notify_commands(&Identity::device(device)?).await.map(drop)
    }

    /// Whether there is something to tell, of which note is taken. Else the task is forgotten.
    fn is_due(&self, device: &str) -> bool {
        let mut devices = self.devices();
        let due = devices.insert(device.to_owned(), false) == Some(true);
        if !due {
            devices.remove(device);
        }
        due
    }

    fn devices(&self) -> MutexGuard<'_, HashMap<String, bool>> {
        self.0.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::routing::any;
    use dunlin_runtime::{Mesh, mesh};
    use dunlin_storage::Presence;
    use dunlin_storage::presence::MemoryPresence;
    use dunlin_storage::testing::keep_alive;
    use tokio::runtime::Handle;
    use tokio::sync::Notify;

    use super::*;

    /// An outage of an hour, in paused time: the gateway answers with what is no gRPC.
    #[tokio::test(start_paused = true)]
    async fn a_device_is_told_once_its_gateway_is_back() {
        const OUTAGE: Duration = Duration::from_secs(3_600);
        let mesh = Mesh::new(mesh::Config::default(), &[], Handle::current());
        let presence = Arc::new(MemoryPresence::new(1));
        let (calls, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (counted, tell, began) = (calls.clone(), told.clone(), tokio::time::Instant::now());
        mesh.attach(Router::new().fallback(any(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let is_back = began.elapsed() >= OUTAGE;
            if is_back {
                tell.notify_one();
            }
            // An empty message, and its status.
            let status = if is_back { "0" } else { "14" };
            async move {
                ([("content-type", "application/grpc"), ("grpc-status", status)], "\0\0\0\0\0")
            }
        })));
        let device = Identity::device("d").expect("an id");
        presence.claim(&device, mesh.node(), 1).await.expect("claimed");
        // It lives: only who asks it cannot reach it.
        keep_alive(presence.clone(), mesh.node());
        let tells = Tells::new(DeviceLinks::new(mesh, presence));
        // However much there is, one task tries.
        (0..1_000).for_each(|_| tells.tell("d"));
        told.notified().await;
        let attempts = calls.load(Ordering::SeqCst);
        assert!((400..500).contains(&attempts), "{attempts} attempts");
        assert!(began.elapsed() < OUTAGE + 2 * LONGEST);
        // Nobody to tell, and nothing left behind.
        tells.tell("nobody");
        while !tells.devices().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
