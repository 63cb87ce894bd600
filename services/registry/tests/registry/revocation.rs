//! A revocation that cannot be carried out at once is carried out later: presence and the gateway
//! that holds the device are away for a while.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dunlin_model::Identity;
use dunlin_proto::v1::device_link_server::{DeviceLink, DeviceLinkServer};
use dunlin_storage::presence::{Claim, Epoch, Holder, Renewed};
use dunlin_storage::{DeviceStore, Presence, StoreError};
use tokio::sync::Notify;
use tonic::{Request, Response, Status};

use super::*;

const NODE: &str = "local";

/// Presence that fails as often as it is told to.
struct Flaky {
    inner: MemoryPresence,
    failures: AtomicUsize,
}

impl Flaky {
    fn fails(&self) -> Result<(), StoreError> {
        let down = |left: usize| left.checked_sub(1);
        match self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, down) {
            Ok(_) => Err(StoreError::unavailable("presence", "away")),
            Err(_) => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl Presence for Flaky {
    async fn claim(&self, id: &Identity, node: &str, version: u64) -> Result<Claim, StoreError> {
        self.inner.claim(id, node, version).await
    }

    async fn release(&self, id: &Identity, epoch: Epoch) -> Result<(), StoreError> {
        self.inner.release(id, epoch).await
    }

    async fn holder(&self, id: &Identity) -> Result<Option<Holder>, StoreError> {
        self.inner.holder(id).await
    }

    async fn revoke(&self, id: &Identity, version: u64) -> Result<Option<Holder>, StoreError> {
        self.fails()?;
        self.inner.revoke(id, version).await
    }

    async fn node_renew(&self, node: &str) -> Result<Renewed, StoreError> {
        self.inner.node_renew(node).await
    }

    async fn node_lives(&self, node: &str) -> Result<bool, StoreError> {
        self.inner.node_lives(node).await
    }

    async fn lease_take(&self, name: &str, holder: &str) -> Result<bool, StoreError> {
        self.inner.lease_take(name, holder).await
    }

    async fn restore(
        &self,
        node: &str,
        held: &[(Identity, Epoch)],
    ) -> Result<Vec<Identity>, StoreError> {
        self.inner.restore(node, held).await
    }
}

/// A gateway that is away until it was asked a number of times; it keeps who it was told to drop.
#[derive(Default)]
struct Gateway {
    away: AtomicUsize,
    asked: AtomicUsize,
    told: Mutex<VecDeque<(String, Epoch)>>,
    news: Notify,
}

impl Gateway {
    async fn told(&self) -> (String, Epoch) {
        let told = async {
            loop {
                let news = self.news.notified();
                if let Some(told) = self.told.lock().expect("not poisoned").pop_front() {
                    return told;
                }
                news.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), told).await.expect("told to drop")
    }
}

struct Links(Arc<Gateway>);

#[tonic::async_trait]
impl DeviceLink for Links {
    async fn disconnect(
        &self,
        request: Request<v1::DisconnectRequest>,
    ) -> Result<Response<v1::DisconnectResponse>, Status> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        let down = |left: usize| left.checked_sub(1);
        if self.0.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, down).is_ok() {
            return Err(Status::unavailable("away"));
        }
        let v1::DisconnectRequest { identity, epoch, .. } = request.into_inner();
        self.0.told.lock().expect("not poisoned").push_back((identity, epoch));
        self.0.news.notify_one();
        Ok(Response::new(v1::DisconnectResponse { found: true }))
    }

    async fn invoke(
        &self,
        _: Request<v1::InvokeRequest>,
    ) -> Result<Response<v1::InvokeResponse>, Status> {
        unreachable!("the registry calls no methods")
    }

    async fn notify_commands(
        &self,
        _: Request<v1::NotifyCommandsRequest>,
    ) -> Result<Response<v1::NotifyCommandsResponse>, Status> {
        unreachable!("nobody sends C2D messages here")
    }

    async fn notify_desired(
        &self,
        _: Request<v1::NotifyDesiredRequest>,
    ) -> Result<Response<v1::NotifyDesiredResponse>, Status> {
        unreachable!("the registry knows no twins")
    }
}

struct Site {
    client: RegistryClient<MeshChannel>,
    presence: Arc<Flaky>,
    gateway: Arc<Gateway>,
    store: Arc<SqliteDeviceStore>,
    _folder: TempDir,
}

impl Site {
    /// Presence fails so many times, then the gateway.
    async fn start(presence_fails: usize, gateway_away: usize) -> Self {
        let folder = TempDir::new().expect("a folder");
        let data = DataFolder::open(folder.path()).expect("a data folder");
        let presence = Arc::new(Flaky {
            inner: MemoryPresence::new(1),
            failures: AtomicUsize::new(presence_fails),
        });
        let gateway = Arc::new(Gateway { away: gateway_away.into(), ..Gateway::default() });
        let mesh = Mesh::new(mesh::Config::default(), &[Role::Registry], Handle::current());
        let store = Arc::new(SqliteDeviceStore::new(data.sqlite()));
        let context = Context {
            config: Config { hostnames: vec![HOST.into()], twins: Limits::default() },
            store: store.clone(),
            links: DeviceLinks::new(mesh.clone(), presence.clone()),
            presence: presence.clone(),
            master_key: MasterKey::new(&[7; 32]),
        };
        let component = dunlin_registry::build(context).await.expect("a registry");
        let links = DeviceLinkServer::new(Links(gateway.clone()));
        let path = "/dunlin.v1.DeviceLink/{*rest}";
        mesh.attach(component.routes.merge(axum::Router::new().route_service(path, links)));
        let client = RegistryClient::new(mesh.channel(Role::Registry).expect("runs here"));
        Self { client, presence, gateway, store, _folder: folder }
    }

    /// Registers a device and connects it: the epoch it holds, and what it was authenticated at.
    async fn connected(&mut self, id: &str) -> (Epoch, u64) {
        let made = code(self.client.create_identity(device(id)).await).expect("created");
        let request = v1::AuthenticateRequest {
            identity: id.to_owned(),
            sas_token: own_token(&made),
            certificates: Vec::new(),
        };
        let version = code(self.client.authenticate(request).await).expect("let in").auth_version;
        (self.claim(id, version).await.expect("granted"), version)
    }

    async fn claim(&self, id: &str, version: u64) -> Option<Epoch> {
        let id = Identity::parse(id).expect("an id");
        match self.presence.claim(&id, NODE, version).await.expect("claimed") {
            Claim::Granted { epoch, .. } => Some(epoch),
            Claim::Revoked => None,
        }
    }

    /// How often the gateway was asked, once it is not asked any more.
    async fn quiet(&self) -> usize {
        let (mut last, mut still) = (usize::MAX, 0);
        let quiet = async {
            let mut look = tokio::time::interval(Duration::from_millis(500));
            while still < 4 {
                look.tick().await;
                let asked = self.gateway.asked.load(Ordering::SeqCst);
                still = if asked == last { still + 1 } else { 0 };
                last = asked;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), quiet).await.expect("it stops");
        last
    }

    async fn delete(&mut self, id: &str) {
        let request = v1::DeleteIdentityRequest { id: id.to_owned(), if_match: None };
        code(self.client.delete_identity(request).await).expect("deleted");
    }

    async fn set_status(&mut self, id: &str, status: v1::Status) {
        let identity = v1::Identity { status: status.into(), ..device(id) };
        let request = v1::ReplaceIdentityRequest { identity: Some(identity), if_match: None };
        code(self.client.replace_identity(request).await).expect("replaced");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_away_is_asked_again_until_the_device_is_gone() {
    for (presence_fails, gateway_away) in [(0, 0), (1, 0), (3, 0), (0, 1), (0, 3), (2, 2)] {
        let mut site = Site::start(presence_fails, gateway_away).await;
        let (epoch, version) = site.connected("d").await;
        site.set_status("d", v1::Status::Disabled).await;
        assert_eq!(site.gateway.told().await, ("d".to_owned(), epoch));
        assert_eq!(site.claim("d", version).await, None, "the marker is set");
        assert_eq!(site.gateway.asked.load(Ordering::SeqCst), gateway_away + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_of_a_deleted_device_are_told_too() {
    let mut site = Site::start(3, 3).await;
    let (device, _) = site.connected("d").await;
    let (module, _) = site.connected("d/m").await;
    site.delete("d").await;
    let mut told = [site.gateway.told().await, site.gateway.told().await];
    told.sort();
    assert_eq!(told, [("d".to_owned(), device), ("d/m".to_owned(), module)]);
}

/// Repeating ends no connection of somebody who was let in after the change.
#[tokio::test(flavor = "multi_thread")]
async fn who_connects_after_the_change_is_left_alone() {
    let mut site = Site::start(0, 4).await;
    let (old, version) = site.connected("d").await;
    site.set_status("d", v1::Status::Disabled).await;
    site.set_status("d", v1::Status::Enabled).await;
    let new = site.claim("d", version + 2).await.expect("it was authenticated anew");
    assert_ne!(new, old);
    site.quiet().await;
    let told = site.gateway.told.lock().expect("not poisoned").clone();
    assert!(told.iter().all(|one| *one == ("d".to_owned(), old)), "{told:?}, not {new}");
}

/// A gateway that has gone for good cannot answer: presence says that its device is not held, or by
/// somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_gone_is_not_asked_for_ever() {
    for taken_over in [false, true] {
        let mut site = Site::start(0, usize::MAX).await;
        let (epoch, version) = site.connected("d").await;
        site.set_status("d", v1::Status::Disabled).await;
        if taken_over {
            site.set_status("d", v1::Status::Enabled).await;
            site.claim("d", version + 2).await.expect("it was authenticated anew");
        } else {
            let id = Identity::parse("d").expect("an id");
            site.presence.release(&id, epoch).await.expect("released");
        }
        // Of each change asked at most once more, by an attempt that was under way, and by the one
        // that sees it.
        let most = if taken_over { 6 } else { 3 };
        let last = site.quiet().await;
        assert!(last <= most, "asked {last} times");
    }
}

/// The sum of the versions that a module is authenticated at may be ahead of the clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_module_cannot_claim_with_what_it_was_authenticated_at() {
    for deleted in ["d/m", "d"] {
        let mut site = Site::start(0, 0).await;
        site.connected("d").await;
        // As if the clock had gone back since.
        let later = site.store.identity_get(&Identity::parse("d").expect("an id")).await;
        let mut module = later.expect("read").expect("the device");
        module.id = Identity::parse("d/m").expect("an id");
        let device_version = module.auth_version;
        module.auth_version += 1_000_000_000;
        let version = device_version + module.auth_version;
        let store: Arc<dyn DeviceStore> = site.store.clone();
        store.identity_create(module).await.expect("created");
        let epoch = site.claim("d/m", version).await.expect("granted");
        site.delete(deleted).await;
        let mut told = vec![site.gateway.told().await];
        if deleted == "d" {
            told.push(site.gateway.told().await);
        }
        assert!(told.contains(&("d/m".to_owned(), epoch)), "{told:?}");
        assert_eq!(site.claim("d/m", version).await, None, "{deleted}: the marker is above it");
    }
}

/// A module that is registered in the moment its device is deleted goes with it, and so does its
/// connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_module_made_as_its_device_goes_does_not_stay_connected() {
    let mut site = Site::start(0, 0).await;
    for round in 0..60 {
        code(site.client.create_identity(device("d")).await).expect("created");
        let (mut client, presence) = (site.client.clone(), site.presence.clone());
        let module = tokio::spawn(async move {
            let made = code(client.create_identity(device("d/m")).await).ok()?;
            let sas_token = own_token(&made);
            let identity = "d/m".to_owned();
            let request = v1::AuthenticateRequest { identity, sas_token, certificates: Vec::new() };
            let version = code(client.authenticate(request).await).ok()?.auth_version;
            let id = Identity::parse("d/m").expect("an id");
            match presence.claim(&id, NODE, version).await.expect("claimed") {
                Claim::Granted { epoch, .. } => Some(epoch),
                Claim::Revoked => None,
            }
        });
        for _ in 0..round % 20 {
            tokio::task::yield_now().await;
        }
        site.delete("d").await;
        if let Some(epoch) = module.await.expect("no panic") {
            while site.gateway.told().await != ("d/m".to_owned(), epoch) {}
        }
    }
}
