//! C2D over its gRPC face, on the embedded store, with a gateway that only takes notes.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use dunlin_c2d::Config;
use dunlin_model::{ConnectionState, ErrorCode, HubError, Identity, Session, Status};
use dunlin_proto::status::from_status;
use dunlin_proto::v1;
use dunlin_proto::v1::c2d_client::C2dClient;
use dunlin_proto::v1::device_link_server::{DeviceLink, DeviceLinkServer};
use dunlin_runtime::clock::unix_millis;
use dunlin_runtime::{Clock, DeviceLinks, Mesh, MeshChannel, Role, Shutdown, mesh};
use dunlin_storage::command_queue::SqliteCommandQueue;
use dunlin_storage::device_store::{SqliteDeviceStore, StoredIdentity};
use dunlin_storage::presence::MemoryPresence;
use dunlin_storage::sqlite::DataFolder;
use dunlin_storage::testing::keep_alive;
use dunlin_storage::{DeviceStore, Presence};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::{Request, Response};

mod calls;

/// The role on a folder of its own, with the device `d` and its module `d/m`.
struct Hub {
    client: C2dClient<MeshChannel>,
    /// Devices that the gateway was told of.
    told: mpsc::UnboundedReceiver<String>,
    presence: Arc<MemoryPresence>,
    node: String,
    shutdown: Shutdown,
    /// Milliseconds by which its clock is ahead of the machine's.
    ahead: Arc<AtomicI64>,
    _folder: TempDir,
}

/// Fails the first time.
#[derive(Clone)]
struct Gateway {
    notes: mpsc::UnboundedSender<String>,
    failed: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl DeviceLink for Gateway {
    async fn disconnect(
        &self,
        _: Request<v1::DisconnectRequest>,
    ) -> Result<Response<v1::DisconnectResponse>, tonic::Status> {
        unreachable!("a queue disconnects nobody")
    }

    async fn invoke(
        &self,
        _: Request<v1::InvokeRequest>,
    ) -> Result<Response<v1::InvokeResponse>, tonic::Status> {
        unreachable!("a queue calls no methods")
    }

    async fn notify_desired(
        &self,
        _: Request<v1::NotifyDesiredRequest>,
    ) -> Result<Response<v1::NotifyDesiredResponse>, tonic::Status> {
        unreachable!("a queue has no properties")
    }

    async fn notify_commands(
        &self,
        request: Request<v1::NotifyCommandsRequest>,
    ) -> Result<Response<v1::NotifyCommandsResponse>, tonic::Status> {
        if !self.failed.swap(true, Ordering::SeqCst) {
            return Err(tonic::Status::unavailable("on purpose"));
        }
        self.notes.send(request.into_inner().identity).expect("somebody reads");
        Ok(Response::new(v1::NotifyCommandsResponse { found: true }))
    }
}

impl Hub {
    async fn start(config: Config) -> Self {
        let folder = TempDir::new().expect("a folder");
        let sqlite = DataFolder::open(folder.path()).expect("a data folder").sqlite();
        let devices: Arc<dyn DeviceStore> = Arc::new(SqliteDeviceStore::new(sqlite.clone()));
        for id in ["d", "d/m"] {
            devices.identity_create(identity(id)).await.expect("created");
        }
        let (notes, told) = mpsc::unbounded_channel();
        let mesh = Mesh::new(mesh::Config::default(), &[Role::C2d], Handle::current());
        let presence = Arc::new(MemoryPresence::new(1));
        let ahead = Arc::new(AtomicI64::new(0));
        let by = ahead.clone();
        let built = dunlin_c2d::build(dunlin_c2d::Context {
            config,
            store: Arc::new(SqliteCommandQueue::new(sqlite)),
            links: DeviceLinks::new(mesh.clone(), presence.clone()),
            clock: Clock::new(move || unix_millis() + by.load(Ordering::SeqCst)),
        });
        let component = built.expect("good settings");
        let link = DeviceLinkServer::new(Gateway { notes, failed: Arc::default() });
        let path = "/dunlin.v1.DeviceLink/{*rest}";
        mesh.attach(component.routes.merge(axum::Router::new().route_service(path, link)));
        let client = C2dClient::new(mesh.channel(Role::C2d).expect("runs here"));
        let shutdown = Shutdown::new();
        tokio::spawn((component.run)(shutdown.clone()));
        let node = mesh.node().to_owned();
        keep_alive(presence.clone(), &node);
        Self { client, told, presence, node, shutdown, ahead, _folder: folder }
    }

    async fn connect(&self) {
        let id = Identity::device("d").expect("an id");
        self.presence.claim(&id, &self.node, 1).await.expect("claimed");
    }

    async fn send(&self, device: &str, command: v1::Command) -> Result<String, HubError> {
        let request =
            v1::SendCommandRequest { device_id: device.to_owned(), command: Some(command) };
        code(self.client.clone().send_command(request).await).map(|sent| sent.message_id)
    }

    async fn lease(&self, epoch: u64, most: u32) -> Result<Vec<v1::LeasedCommand>, HubError> {
        self.leased(epoch, most).await.map(|leased| leased.commands)
    }

    async fn leased(&self, epoch: u64, most: u32) -> Result<v1::LeaseCommandsResponse, HubError> {
        let request = v1::LeaseCommandsRequest { device_id: "d".into(), epoch, most };
        code(self.client.clone().lease_commands(request).await)
    }

    async fn settle(
        &self,
        epoch: u64,
        tokens: &[&str],
        disposition: v1::Disposition,
    ) -> Result<Vec<bool>, HubError> {
        let request = v1::SettleCommandsRequest {
            device_id: "d".into(),
            epoch,
            lock_tokens: tokens.iter().map(|token| (*token).to_owned()).collect(),
            disposition: disposition.into(),
        };
        code(self.client.clone().settle_commands(request).await).map(|settled| settled.settled)
    }

    async fn release(&self, epoch: u64, lost: bool) {
        let request = v1::ReleaseCommandsRequest { device_id: "d".into(), epoch, lost };
        code(self.client.clone().release_commands(request).await).expect("released");
    }

    async fn count(&self, device: &str) -> Result<u32, HubError> {
        let request = v1::CountCommandsRequest { device_id: device.to_owned() };
        code(self.client.clone().count_commands(request).await).map(|counted| counted.count)
    }

    async fn purge(&self, device: &str) -> Result<u32, HubError> {
        let request = v1::PurgeCommandsRequest { device_id: device.to_owned() };
        code(self.client.clone().purge_commands(request).await).map(|purged| purged.purged)
    }

    async fn feedback(&self) -> Option<v1::FeedbackBatch> {
        let leased = self.client.clone().lease_feedback(v1::LeaseFeedbackRequest {}).await;
        code(leased).expect("leased").batch
    }

    async fn feedback_settle(
        &self,
        token: &str,
        disposition: v1::Disposition,
    ) -> Result<(), HubError> {
        let request = v1::SettleFeedbackRequest {
            lock_token: token.to_owned(),
            disposition: disposition.into(),
        };
        code(self.client.clone().settle_feedback(request).await).map(drop)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn identity(id: &str) -> StoredIdentity {
    StoredIdentity {
        id: Identity::parse(id).expect("an id"),
        generation_id: "7".into(),
        etag: "MQ==".into(),
        status: Status::Disabled,
        status_reason: None,
        status_updated: 0,
        auth_type: "sas".into(),
        credentials: Vec::new(),
        thumbprints: None,
        auth_version: 1,
        iot_edge: false,
        device_scope: None,
        parent_scopes: Vec::new(),
        managed_by: None,
        connection: ConnectionState::default(),
        session: Session::default(),
    }
}

fn command(id: &str) -> v1::Command {
    v1::Command { message_id: Some(id.to_owned()), ..v1::Command::default() }
}

/// What waits for an event does not wait for ever.
async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), event).await.expect("in time")
}

fn code<T>(answer: Result<Response<T>, tonic::Status>) -> Result<T, HubError> {
    answer.map(Response::into_inner).map_err(|status| from_status(&status))
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, HubError>, want: ErrorCode) -> String {
    let error = result.expect_err("must be refused");
    assert_eq!(error.code, want, "{error}");
    error.message
}
