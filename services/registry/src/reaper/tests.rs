//! The reaper, look by look, on a clock that only the test moves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dunlin_model::{ConnectionState, Identity, Twin};
use dunlin_storage::device_store::conformance::sample;
use dunlin_storage::device_store::{
    ConnectionReport, ConnectionStore, IdentityWrite, SqliteDeviceStore,
};
use dunlin_storage::presence::{Claim, Epoch, Holder, MemoryPresence, Renewed};
use dunlin_storage::sqlite::DataFolder;
use tempfile::TempDir;
use tokio::time::advance;

use super::*;

const LOOKS: Duration = Duration::from_millis(2_500);

/// Presence in memory, which may be away.
struct Shaky {
    inner: MemoryPresence,
    away: AtomicBool,
}

#[tonic::async_trait]
impl Presence for Shaky {
    async fn claim(&self, _: &Identity, _: &str, _: u64) -> Result<Claim, StoreError> {
        unreachable!("the reaper claims nothing")
    }

    async fn release(&self, _: &Identity, _: Epoch) -> Result<(), StoreError> {
        unreachable!("the reaper releases nothing")
    }

    async fn holder(&self, _: &Identity) -> Result<Option<Holder>, StoreError> {
        unreachable!("the reaper looks for nodes only")
    }

    async fn revoke(&self, _: &Identity, _: u64) -> Result<Option<Holder>, StoreError> {
        unreachable!("the reaper revokes nothing")
    }

    async fn node_renew(&self, node: &str) -> Result<Renewed, StoreError> {
        self.inner.node_renew(node).await
    }

    async fn node_lives(&self, node: &str) -> Result<bool, StoreError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(StoreError::unavailable("presence", "away"));
        }
        self.inner.node_lives(node).await
    }

    async fn lease_take(&self, name: &str, holder: &str) -> Result<bool, StoreError> {
        self.inner.lease_take(name, holder).await
    }

    async fn restore(&self, _: &str, _: &[(Identity, Epoch)]) -> Result<Vec<Identity>, StoreError> {
        unreachable!("the reaper restores nothing")
    }
}

/// A store and a presence; the clock stands still but for [`Place::pass`].
struct Place {
    store: Arc<SqliteDeviceStore>,
    presence: Arc<Shaky>,
    _folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = DataFolder::open(folder.path()).expect("a data folder");
        let store = Arc::new(SqliteDeviceStore::new(data.sqlite()));
        let presence = Shaky { inner: MemoryPresence::new(1), away: AtomicBool::new(false) };
        Self { store, presence: Arc::new(presence), _folder: folder }
    }

    fn reaper(&self) -> Reaper {
        Reaper::new(self.store.clone(), self.presence.clone())
    }

    /// Connects devices by a node, with that epoch.
    async fn connect(&self, devices: &[&str], node: &str, epoch: Epoch) {
        let create = |device: &&str| vec![IdentityWrite::Create(sample(device), Twin::new(0))];
        // Who is there already stays.
        self.store.identity_write(devices.iter().map(create).collect()).await.expect("write");
        let report = |device: &&str| ConnectionReport::State {
            id: Identity::device(device).expect("an id"),
            generation_id: sample(device).generation_id,
            epoch,
            state: ConnectionState { connected: true, updated: 1, last_activity: 1 },
            node: node.to_owned(),
        };
        let reports = devices.iter().map(report).collect();
        self.store.connections_record(reports).await.expect("record");
    }

    async fn connected(&self, device: &str) -> bool {
        let id = Identity::device(device).expect("an id");
        self.store.identity_get(&id).await.expect("get").expect("it exists").connection.connected
    }

    /// Time passes for as many looks, at each of which these nodes have said that they live.
    async fn pass(&self, looks: usize, reaper: &mut Reaper, alive: &[&str]) {
        for _ in 0..looks {
            advance(LOOKS).await;
            for node in alive {
                self.presence.node_renew(node).await.expect("renew");
            }
            // What it saw, or that presence is away, shows in what it does.
            let _ = reaper.look().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_nodes_devices_are_disconnected_and_nobody_elses() {
    let place = Place::new();
    let mut reaper = place.reaper();
    for node in ["dead", "alive"] {
        place.presence.node_renew(node).await.expect("renew");
    }
    place.connect(&["a", "moved"], "dead", 1).await;
    place.connect(&["b"], "alive", 1).await;
    // Its lease lasts for three looks more, and then it must be gone for as long as a lease.
    place.pass(4 + 3, &mut reaper, &["alive"]).await;
    place.connect(&["moved"], "alive", 2).await;
    assert!(place.connected("a").await, "too early");
    place.pass(1, &mut reaper, &["alive"]).await;
    assert!(!place.connected("a").await);
    place.pass(20, &mut reaper, &["alive"]).await;
    assert!(place.connected("b").await && place.connected("moved").await);
    // It was but away for long: it tells again, and may die again.
    place.connect(&["a"], "dead", 1).await;
    place.pass(3, &mut reaper, &["alive", "dead"]).await;
    assert!(place.connected("a").await);
    place.pass(8, &mut reaper, &["alive"]).await;
    assert!(!place.connected("a").await);
}

#[tokio::test(start_paused = true)]
async fn a_presence_that_forgets_or_is_away_ends_nobody() {
    let place = Place::new();
    let mut reaper = place.reaper();
    place.connect(&["a"], "node", 1).await;
    for _ in 0..10 {
        // Gone for a moment, as after a flush: until the node says that it lives.
        place.pass(4, &mut reaper, &[]).await;
        place.pass(1, &mut reaper, &["node"]).await;
        advance(NODE_LEASE).await;
    }
    assert!(place.connected("a").await, "forgotten");
    for _ in 0..10 {
        // Gone before and after an outage in which nobody could say anything.
        place.pass(3, &mut reaper, &[]).await;
        place.presence.away.store(true, Ordering::Relaxed);
        place.pass(8, &mut reaper, &[]).await;
        place.presence.away.store(false, Ordering::Relaxed);
        place.pass(3, &mut reaper, &[]).await;
        place.pass(1, &mut reaper, &["node"]).await;
    }
    assert!(place.connected("a").await, "away");
    for _ in 0..10 {
        // A reaper that stood still has not seen that the node lived meanwhile.
        advance(NODE_LEASE * 2).await;
        let _ = reaper.look().await;
    }
    assert!(place.connected("a").await, "not seen");
    place.pass(4, &mut reaper, &[]).await;
    assert!(!place.connected("a").await, "it is dead after all");
}

#[tokio::test(start_paused = true)]
async fn one_reaps_at_a_time_and_the_other_takes_over() {
    let place = Place::new();
    let (mut one, mut two) = (place.reaper(), place.reaper());
    place.connect(&["a"], "dead", 1).await;
    for _ in 0..4 {
        place.pass(1, &mut one, &[]).await;
        assert!(!two.look().await.expect("look"));
        assert!(two.gone.is_empty(), "it does not look as long as one does");
    }
    assert!(place.connected("a").await);
    // One dies: the other has the lease when it has run out, and sees for itself.
    place.pass(4 + 3, &mut two, &[]).await;
    assert!(place.connected("a").await, "it has not seen it gone for long enough");
    place.pass(1, &mut two, &[]).await;
    assert!(!place.connected("a").await);
    assert!(!one.look().await.expect("look") && one.gone.is_empty(), "one comes back to nothing");
}

#[tokio::test(start_paused = true)]
async fn many_connections_are_ended_in_pieces() {
    let place = Place::new();
    let mut reaper = place.reaper();
    let devices: Vec<_> = (0..=NODE_END_PIECE).map(|n| format!("d{n:04}")).collect();
    let devices: Vec<_> = devices.iter().map(String::as_str).collect();
    place.connect(&devices, "dead", 1).await;
    place.pass(4, &mut reaper, &[]).await;
    let connected = async || place.store.device_statistics().await.expect("count").connected;
    assert_eq!(connected().await as usize, NODE_END_PIECE + 1);
    advance(LOOKS).await;
    assert!(reaper.look().await.expect("look"), "there is more");
    assert_eq!(connected().await, 1);
    // It was not dead: who has not been ended yet stays.
    place.presence.node_renew("dead").await.expect("renew");
    assert!(!reaper.look().await.expect("look"));
    assert_eq!(connected().await, 1);
}
