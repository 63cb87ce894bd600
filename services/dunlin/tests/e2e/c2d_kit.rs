//! A role `c2d` in memory that fails, hesitates and forgets locks when a test says so, and a hub
//! that uses it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dunlin::hub::Hub;
use dunlin::test_hub::TestHub;
use dunlin_model::Identity;
use dunlin_proto::v1;
use dunlin_proto::v1::c2d_server::{C2d, C2dServer};
use dunlin_proto::v1::{Command, Disposition, LeasedCommand};
use dunlin_runtime::{DeviceLinks, Mesh, Role, Shutdown, mesh};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::mqtt_kit::{Door, beside, door_beside};
use crate::raw::within;

/// Messages in one answer: fewer than a device may have on their way.
const AT_ONCE: usize = 8;

/// Queues of devices, as the tests and the role see them.
#[derive(Clone, Default)]
pub struct Queues {
    state: Arc<Mutex<State>>,
    /// Changes with every call.
    calls: watch::Sender<usize>,
    /// Whether lease calls wait.
    held: watch::Sender<bool>,
    /// Whether settle calls wait.
    settles_held: watch::Sender<bool>,
}

#[derive(Default)]
pub struct State {
    queues: HashMap<String, Vec<Entry>>,
    sequence: u64,
    /// Every call is refused.
    pub failing: bool,
    /// Calls that have been answered.
    pub leases: usize,
    pub releases: usize,
    /// Settle calls that have come.
    pub settles: usize,
    /// What has become of messages, in order; of lost locks nothing.
    pub settled: Vec<(u64, Disposition)>,
    pub lost: usize,
}

struct Entry {
    /// As it is handed out next, or was last.
    leased: LeasedCommand,
    /// Of the connection that holds it.
    holder: Option<u64>,
}

impl Entry {
    /// Its lock is over, and was in vain.
    fn lose(&mut self) {
        if self.holder.take().is_some() {
            self.leased.delivery_count += 1;
        }
    }
}

impl State {
    fn check(&self) -> Result<(), Status> {
        if self.failing { Err(Status::unavailable("as the test says")) } else { Ok(()) }
    }

    /// Messages that are not done with.
    pub fn left(&self, device: &str) -> usize {
        self.queues.get(device).map_or(0, Vec::len)
    }

    /// Of those that nobody holds, how often they were handed out in vain.
    pub fn waiting(&self, device: &str) -> Vec<u32> {
        let free = self.queues.get(device).into_iter().flatten();
        free.filter(|entry| entry.holder.is_none()).map(|one| one.leased.delivery_count).collect()
    }
}

impl Queues {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a message of which nobody is told.
    pub fn put(&self, device: &str, command: Command) {
        let mut state = self.state();
        state.sequence += 1;
        let leased = LeasedCommand {
            command: Some(command),
            sequence: state.sequence,
            enqueued: 1_763_600_000_123,
            ..LeasedCommand::default()
        };
        state.queues.entry(device.to_owned()).or_default().push(Entry { leased, holder: None });
    }

    pub fn put_text(&self, device: &str, body: &str) {
        self.put(device, Command { body: body.into(), ..Command::default() });
    }

    /// As after a minute.
    pub fn expire_locks(&self) {
        self.state().queues.values_mut().flatten().for_each(Entry::lose);
    }

    pub fn hold_leases(&self, held: bool) {
        self.held.send_replace(held);
    }

    pub fn hold_settles(&self, held: bool) {
        self.settles_held.send_replace(held);
    }

    /// Waits for calls to have had that effect.
    pub async fn until(&self, what: &str, mut is_so: impl FnMut(&State) -> bool) {
        let mut calls = self.calls.subscribe();
        within(what, calls.wait_for(|_| is_so(&self.state()))).await.expect("a sender");
    }

    fn called<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let result = work(&mut self.state());
        self.calls.send_modify(|calls| *calls += 1);
        result
    }
}

#[tonic::async_trait]
impl C2d for Queues {
    async fn lease_commands(
        &self,
        request: Request<v1::LeaseCommandsRequest>,
    ) -> Result<Response<v1::LeaseCommandsResponse>, Status> {
        let v1::LeaseCommandsRequest { device_id, epoch, most } = request.into_inner();
        let _ = self.held.subscribe().wait_for(|held| !held).await;
        self.called(|state| {
            state.leases += 1;
            state.check()?;
            let queue = state.queues.entry(device_id).or_default();
            let older = |entry: &&mut Entry| (1..epoch).contains(&entry.holder.unwrap_or_default());
            queue.iter_mut().filter(older).for_each(Entry::lose);
            let mut free = queue.iter_mut().filter(|entry| entry.holder.is_none());
            let commands = free.by_ref().take((most as usize).min(AT_ONCE)).map(|entry| {
                entry.holder = Some(epoch);
                entry.leased.lock_token = guid();
                entry.leased.clone()
            });
            let commands = commands.collect();
            let more = free.next().is_some();
            Ok(Response::new(v1::LeaseCommandsResponse { commands, lock_seconds: 60, more }))
        })
    }

    async fn settle_commands(
        &self,
        request: Request<v1::SettleCommandsRequest>,
    ) -> Result<Response<v1::SettleCommandsResponse>, Status> {
        let disposition = request.get_ref().disposition();
        let v1::SettleCommandsRequest { device_id, lock_tokens, .. } = request.into_inner();
        self.called(|state| state.settles += 1);
        let _ = self.settles_held.subscribe().wait_for(|held| !held).await;
        self.called(|state| {
            state.check()?;
            let settled = lock_tokens.iter().map(|lock| {
                let queue = state.queues.entry(device_id.clone()).or_default();
                let held =
                    |entry: &Entry| entry.holder.is_some() && entry.leased.lock_token == *lock;
                let Some(at) = queue.iter().position(held) else {
                    state.lost += 1;
                    return false;
                };
                state.settled.push((queue[at].leased.sequence, disposition));
                match disposition {
                    Disposition::Abandon => queue[at].lose(),
                    _ => drop(queue.remove(at)),
                }
                true
            });
            Ok(Response::new(v1::SettleCommandsResponse { settled: settled.collect() }))
        })
    }

    async fn release_commands(
        &self,
        request: Request<v1::ReleaseCommandsRequest>,
    ) -> Result<Response<v1::ReleaseCommandsResponse>, Status> {
        let v1::ReleaseCommandsRequest { device_id, epoch, lost } = request.into_inner();
        self.called(|state| {
            state.check()?;
            state.releases += 1;
            for entry in state.queues.entry(device_id).or_default() {
                if entry.holder == Some(epoch) {
                    entry.lose();
                    entry.leased.delivery_count -= u32::from(!lost);
                }
            }
            Ok(Response::new(v1::ReleaseCommandsResponse {}))
        })
    }

    async fn send_command(
        &self,
        _: Request<v1::SendCommandRequest>,
    ) -> Result<Response<v1::SendCommandResponse>, Status> {
        unreachable!("tests put messages themselves")
    }

    async fn purge_commands(
        &self,
        _: Request<v1::PurgeCommandsRequest>,
    ) -> Result<Response<v1::PurgeCommandsResponse>, Status> {
        unreachable!("a gateway purges nothing")
    }

    async fn count_commands(
        &self,
        _: Request<v1::CountCommandsRequest>,
    ) -> Result<Response<v1::CountCommandsResponse>, Status> {
        unreachable!("a gateway counts nothing")
    }

    async fn lease_feedback(
        &self,
        _: Request<v1::LeaseFeedbackRequest>,
    ) -> Result<Response<v1::LeaseFeedbackResponse>, Status> {
        unreachable!("feedback is not for devices")
    }

    async fn settle_feedback(
        &self,
        _: Request<v1::SettleFeedbackRequest>,
    ) -> Result<Response<v1::SettleFeedbackResponse>, Status> {
        unreachable!("feedback is not for devices")
    }
}

fn guid() -> String {
    let hex = format!("{:032x}", fastrand::u128(..));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// A hub whose role `c2d` is a test's. For the tests' own calls there is a test hub over the same
/// stores.
pub struct Site {
    pub hub: TestHub,
    pub beside: Hub,
    pub door: Door,
    pub queues: Queues,
    links: DeviceLinks,
    stop: Shutdown,
}

impl Site {
    pub async fn start() -> Self {
        let hub = TestHub::all_in_one().await;
        let queues = Queues::default();
        let mesh = Mesh::new(mesh::Config::default(), &[Role::C2d], Handle::current());
        mesh.attach(
            axum::Router::new()
                .route_service("/dunlin.v1.C2d/{*rest}", C2dServer::new(queues.clone())),
        );
        let links = DeviceLinks::new(mesh.clone(), hub.stores().presence.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let stop = Shutdown::new();
        let ends = stop.clone();
        tokio::spawn(async move { mesh.serve(listener, ends).await });
        let roles: Vec<_> = Role::ALL.into_iter().filter(|role| *role != Role::C2d).collect();
        let log = hub.stores().events.clone();
        let beside = beside(&hub, &roles, log, |config| {
            config.mesh.c2d = url;
            config.mesh.listen = "127.0.0.1:0".to_owned();
        })
        .await;
        let door = door_beside(&hub, &beside);
        Self { hub, beside, door, queues, links, stop }
    }

    /// Tells the device's gateway that there are messages.
    pub async fn notify(&self, device: &str) {
        let id = Identity::parse(device).expect("an id");
        assert!(self.links.notify_commands(&id).await.expect("told"), "{device} is not connected");
    }

    /// Queues a message for a device that is connected.
    pub async fn send(&self, device: &str, body: &str) {
        self.queues.put_text(device, body);
        self.notify(device).await;
    }

    pub async fn stop(self) {
        self.beside.stop().await;
        self.hub.stop().await;
        self.stop.cancel();
    }
}
