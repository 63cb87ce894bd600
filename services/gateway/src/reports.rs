//! What the registry is told of connections, for `connectionState` and `lastActivityTime`: who came,
//! who went, and now and then who is here and was heard of when: what was on record of somebody by
//! mistake is put right by it. Nothing of it is on the path of a message, and
//! nothing is kept of a connection that has nothing to tell.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dunlin_model::{ConnectionState, Identity};
use dunlin_proto::v1;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::{Shutdown, clock};
use dunlin_storage::presence::Epoch;
use tokio::sync::Notify;

use crate::background::Background;
use crate::gateway::Gateway;

/// Seconds after which all connections are told of again: `lastActivityTime` lags by them.
pub const ACTIVITY_SECONDS: u32 = 300;
/// What gathers meanwhile is told at once: a storm of connects costs four writes a second.
const PAUSE: Duration = Duration::from_millis(250);
/// After a failure, and how long the last report of a gateway may take.
const RETRY: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(5);
/// Reports of requests that may wait for the next look; then they are told at once.
const MOST: usize = 100_000;
/// Reports in one call.
const CALL: usize = 1_000;

/// What waits to be told, the newest state of each identity.
#[derive(Default)]
pub struct Reports {
    pending: Mutex<HashMap<Identity, Report>>,
    wake: Notify,
}

struct Report {
    generation_id: Box<str>,
    epoch: Epoch,
    state: ConnectionState,
}

impl Reports {
    pub fn connected(&self, id: &Identity, generation_id: &str, epoch: Epoch, at: i64) {
        self.active(id, generation_id, epoch, at);
        self.wake.notify_one();
    }

    /// That it is connected and was heard of then. Told with the next batch, whenever that is.
    pub fn active(&self, id: &Identity, generation_id: &str, epoch: Epoch, last_activity: i64) {
        let state =
            ConnectionState { connected: true, updated: clock::unix_millis(), last_activity };
        self.put(id.clone(), Report { generation_id: generation_id.into(), epoch, state });
    }

    /// As `active`, of an identity that has no connection for it.
    pub fn active_without_connection(&self, id: &Identity, generation_id: &str) {
        let last_activity = clock::unix_millis();
        let state = ConnectionState { connected: false, updated: 0, last_activity };
        let waiting =
            self.put(id.clone(), Report { generation_id: generation_id.into(), epoch: 0, state });
        if waiting >= MOST {
            self.wake.notify_one();
        }
    }

    /// `last_activity`: when it was last heard of, as far as is known.
    pub fn ended(&self, id: Identity, generation_id: Box<str>, epoch: Epoch, last_activity: i64) {
        let updated = clock::unix_millis();
        let state = ConnectionState { connected: false, updated, last_activity };
        self.put(id, Report { generation_id, epoch, state });
        self.wake.notify_one();
    }

    /// Has what `active` left told now.
    pub fn flush(&self) {
        self.wake.notify_one();
    }

    /// How many wait then.
    fn put(&self, id: Identity, report: Report) -> usize {
        let mut pending = self.lock();
        fold(&mut pending, id, report);
        pending.len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, Report>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everything that waits. What could not be told waits on.
    async fn tell(&self, gateway: &Gateway) -> Result<(), tonic::Status> {
        let mut client = RegistryClient::new(gateway.registry.clone());
        loop {
            // Emptied map and all: after a storm it must not keep its size.
            let batch: Vec<_> = std::mem::take(&mut *self.lock()).into_iter().collect();
            if batch.is_empty() {
                return Ok(());
            }
            let mut batch = batch.into_iter();
            loop {
                let call: Vec<_> = batch.by_ref().take(CALL).collect();
                if call.is_empty() {
                    break;
                }
                let reports = call.iter().map(wire).collect();
                let node = gateway.node.clone();
                let request = v1::RecordConnectionsRequest { reports, node, sessions: Vec::new() };
                if let Err(status) = client.record_connections(request).await {
                    let mut pending = self.lock();
                    for (id, report) in call.into_iter().chain(batch) {
                        fold(&mut pending, id, report);
                    }
                    return Err(status);
                }
            }
        }
    }
}

/// Two reports of one identity become one, in whichever order they came; as the store does it.
fn fold(pending: &mut HashMap<Identity, Report>, id: Identity, new: Report) {
    let mut known = match pending.entry(id) {
        Entry::Vacant(vacant) => {
            vacant.insert(new);
            return;
        }
        Entry::Occupied(known) => known,
    };
    let known = known.get_mut();
    let last_activity = known.state.last_activity.max(new.state.last_activity);
    if new.epoch > known.epoch
        || (new.epoch == known.epoch && known.state.connected && !new.state.connected)
    {
        *known = new;
    }
    known.state.last_activity = last_activity;
}

fn wire((id, report): &(Identity, Report)) -> v1::ConnectionReport {
    v1::ConnectionReport {
        identity: id.as_str().to_owned(),
        generation_id: report.generation_id.to_string(),
        epoch: report.epoch,
        state: Some(report.state.into()),
    }
}

/// The task that tells. At its end every connection is gone: it tells of the last ones.
pub fn start(gateway: Arc<Gateway>) -> Background {
    Background::start("telling of connections", |stop| run(gateway, stop))
}

pub async fn finish(task: Background) {
    if tokio::time::timeout(LAST, task.finish()).await.is_err() {
        tracing::warn!("the registry was not told of the last connections that ended");
    }
}

async fn run(gateway: Arc<Gateway>, stop: Shutdown) {
    let reports = &gateway.reports;
    let mut away = false;
    loop {
        tokio::select! {
            () = reports.wake.notified() => {}
            () = stop.cancelled() => break,
        }
        let pause = match reports.tell(&gateway).await {
            Ok(()) => {
                away = false;
                PAUSE
            }
            Err(error) => {
                if !std::mem::replace(&mut away, true) {
                    tracing::warn!(%error, "the registry cannot be told of connections, trying again");
                }
                reports.flush();
                RETRY
            }
        };
        let _ = tokio::time::timeout(pause, stop.cancelled()).await;
    }
    if let Err(error) = reports.tell(&gateway).await {
        tracing::warn!(%error, "the registry was not told of the last connections that ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_requests_are_told_before_their_time() {
        use futures_util::FutureExt;
        let reports = Reports::default();
        let hear = |n: usize| {
            let id = Identity::parse(&format!("d{n}")).expect("an id");
            reports.active_without_connection(&id, "g");
        };
        (1..MOST).for_each(hear);
        hear(1);
        assert!(reports.wake.notified().now_or_never().is_none());
        hear(MOST);
        assert!(reports.wake.notified().now_or_never().is_some());
    }

    #[test]
    fn reports_of_one_identity_become_one() {
        let report = |epoch, connected, at| Report {
            generation_id: "g".into(),
            epoch,
            state: ConnectionState { connected, updated: at, last_activity: at },
        };
        let id = || Identity::parse("d").expect("an id");
        for (what, reports, want) in [
            ("a connect", vec![(5, true, 1)], (5, true, 1, 1)),
            ("is heard of", vec![(5, true, 1), (5, true, 3)], (5, true, 1, 3)),
            ("ends", vec![(5, true, 1), (5, false, 2)], (5, false, 2, 2)),
            ("ends, told first", vec![(5, false, 2), (5, true, 1)], (5, false, 2, 2)),
            ("is taken over", vec![(5, true, 1), (6, true, 2), (5, false, 3)], (6, true, 2, 3)),
            ("is heard of without it", vec![(5, true, 1), (0, false, 2)], (5, true, 1, 2)),
            ("connects after that", vec![(0, false, 2), (5, true, 1)], (5, true, 1, 2)),
            ("by a clock set back", vec![(5, true, 9), (6, true, 2)], (6, true, 2, 9)),
        ] {
            let mut pending = HashMap::new();
            for (epoch, connected, at) in reports {
                fold(&mut pending, id(), report(epoch, connected, at));
            }
            let folded = &pending[&id()];
            let ConnectionState { connected, updated, last_activity } = folded.state;
            assert_eq!((folded.epoch, connected, updated, last_activity), want, "{what}");
        }
    }
}
