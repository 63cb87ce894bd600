//! Twins over their gRPC face, on the embedded store, with a gateway that only takes notes.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dunlin_model::twin::Limits;
use dunlin_model::{ConnectionState, ErrorCode, HubError, Identity, KeyPair, Session, Status};
use dunlin_proto::status::from_status;
use dunlin_proto::v1;
use dunlin_proto::v1::device_link_server::{DeviceLink, DeviceLinkServer};
use dunlin_proto::v1::twins_client::TwinsClient;
use dunlin_runtime::{DeviceLinks, Mesh, MeshChannel, Role, mesh};
use dunlin_storage::device_store::{SqliteDeviceStore, StoredIdentity};
use dunlin_storage::presence::MemoryPresence;
use dunlin_storage::sqlite::DataFolder;
use dunlin_storage::twin_store::SqliteTwinStore;
use dunlin_storage::{DeviceStore, Presence};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Request, Response};

mod documents;
mod told;

/// The role on a folder of its own, with the devices `d` and `e` and the module `d/m`.
struct Hub {
    client: TwinsClient<MeshChannel>,
    gateway: Gateway,
    /// What the gateway was told, by identity.
    told: mpsc::UnboundedReceiver<(String, Value)>,
    presence: Arc<MemoryPresence>,
    node: String,
    _folder: TempDir,
}

/// Takes note of what is told, and of connections it ends (`null`). While `gate` has no permits, it
/// has begun to tell, and waits.
#[derive(Clone)]
struct Gateway {
    gate: Arc<Semaphore>,
    begun: Arc<Semaphore>,
    /// How often it still fails to tell, and to end a connection.
    failures: Arc<Mutex<(u32, u32)>>,
    /// Whom it is being told of right now.
    busy: Arc<Mutex<HashSet<String>>>,
    notes: mpsc::UnboundedSender<(String, Value)>,
}

/// Tells somebody something, or gives up: whoever asked has hung up.
struct Busy<'a> {
    gateway: &'a Gateway,
    id: &'a str,
    alone: bool,
}

impl<'a> Busy<'a> {
    fn new(gateway: &'a Gateway, id: &'a str) -> Self {
        let alone = gateway.busy.lock().expect("whole").insert(id.to_owned());
        Self { gateway, id, alone }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.gateway.busy.lock().expect("whole").remove(self.id);
    }
}

fn fail(left: &mut u32) -> Result<(), tonic::Status> {
    match left.checked_sub(1) {
        None => Ok(()),
        Some(rest) => {
            *left = rest;
            Err(tonic::Status::unavailable("on purpose"))
        }
    }
}

#[tonic::async_trait]
impl DeviceLink for Gateway {
    async fn disconnect(
        &self,
        request: Request<v1::DisconnectRequest>,
    ) -> Result<Response<v1::DisconnectResponse>, tonic::Status> {
        let request = request.into_inner();
        let closed = ErrorCode::DeviceConnectionClosedRemotely;
        assert_eq!(ErrorCode::from_number(request.reason), Some(closed));
        fail(&mut self.failures.lock().expect("whole").1)?;
        self.notes.send((request.identity, Value::Null)).expect("somebody reads");
        Ok(Response::new(v1::DisconnectResponse { found: true }))
    }

    async fn invoke(
        &self,
        _: Request<v1::InvokeRequest>,
    ) -> Result<Response<v1::InvokeResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("not of a twin"))
    }

    async fn notify_commands(
        &self,
        _: Request<v1::NotifyCommandsRequest>,
    ) -> Result<Response<v1::NotifyCommandsResponse>, tonic::Status> {
        unreachable!("nobody sends C2D messages here")
    }

    async fn notify_desired(
        &self,
        request: Request<v1::NotifyDesiredRequest>,
    ) -> Result<Response<v1::NotifyDesiredResponse>, tonic::Status> {
        let request = request.into_inner();
        let busy = Busy::new(self, &request.identity);
        self.begun.add_permits(1);
        self.gate.acquire().await.expect("open").forget();
        let alone = busy.alone;
        drop(busy);
        fail(&mut self.failures.lock().expect("whole").0)?;
        let patch: Value = serde_json::from_slice(&request.patch).expect("JSON");
        assert_eq!(patch["$version"], request.version);
        let patch = if alone { patch } else { Value::from("told of two versions at once") };
        self.notes.send((request.identity, patch)).expect("somebody reads");
        Ok(Response::new(v1::NotifyDesiredResponse { found: true }))
    }
}

impl Hub {
    async fn start() -> Self {
        let folder = TempDir::new().expect("a folder");
        let sqlite = DataFolder::open(folder.path()).expect("a data folder").sqlite();
        let devices: Arc<dyn DeviceStore> = Arc::new(SqliteDeviceStore::new(sqlite.clone()));
        for id in ["d", "d/m", "e"] {
            devices.identity_create(identity(id)).await.expect("created");
        }
        let (notes, told) = mpsc::unbounded_channel();
        let gateway = Gateway {
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            begun: Arc::new(Semaphore::new(0)),
            failures: Arc::default(),
            busy: Arc::default(),
            notes,
        };
        let mesh = Mesh::new(mesh::Config::default(), &[Role::Twins], Handle::current());
        let presence = Arc::new(MemoryPresence::new(1));
        let component = dunlin_twins::build(dunlin_twins::Context {
            limits: Limits::default(),
            store: Arc::new(SqliteTwinStore::new(sqlite)),
            links: DeviceLinks::new(mesh.clone(), presence.clone()),
        });
        let link = DeviceLinkServer::new(gateway.clone());
        let path = "/dunlin.v1.DeviceLink/{*rest}";
        mesh.attach(component.routes.merge(axum::Router::new().route_service(path, link)));
        let client = TwinsClient::new(mesh.channel(Role::Twins).expect("runs here"));
        Self { client, gateway, told, presence, node: mesh.node().to_owned(), _folder: folder }
    }

    async fn connect(&self, id: &str) {
        let id = Identity::parse(id).expect("an id");
        self.presence.claim(&id, &self.node, 1).await.expect("claimed");
    }

    async fn get(&self, id: &str) -> Result<v1::Twin, HubError> {
        code(self.client.clone().get_twin(v1::GetTwinRequest { id: id.to_owned() }).await)
    }

    async fn update(&self, request: v1::UpdateTwinRequest) -> Result<v1::Twin, HubError> {
        code(self.client.clone().update_twin(request).await)
    }

    async fn properties(&self, id: &str) -> Result<String, HubError> {
        let request = v1::GetPropertiesRequest { id: id.to_owned() };
        let answer = code(self.client.clone().get_properties(request).await);
        answer.map(|answer| String::from_utf8(answer.json).expect("UTF-8"))
    }

    async fn report(
        &self,
        id: &str,
        patch: &str,
        if_version: Option<u64>,
    ) -> Result<u64, HubError> {
        let patch = patch.as_bytes().to_vec();
        let request = v1::UpdateReportedRequest { id: id.to_owned(), patch, if_version, epoch: 0 };
        code(self.client.clone().update_reported(request).await).map(|answer| answer.version)
    }
}

/// As the registry would store it.
fn identity(id: &str) -> StoredIdentity {
    StoredIdentity {
        id: Identity::parse(id).expect("an id"),
        generation_id: "1".into(),
        etag: "MQ==".into(),
        status: Status::Enabled,
        status_reason: Some("new".into()),
        status_updated: 7,
        auth_type: "selfSigned".into(),
        credentials: b"sealed".to_vec(),
        thumbprints: Some(KeyPair { primary: "AB".into(), secondary: "CD".into() }),
        auth_version: 1,
        iot_edge: false,
        device_scope: None,
        parent_scopes: Vec::new(),
        managed_by: None,
        connection: ConnectionState::default(),
        session: Session::default(),
    }
}

/// A merge of desired properties.
fn desired(id: &str, patch: &str) -> v1::UpdateTwinRequest {
    v1::UpdateTwinRequest {
        id: id.to_owned(),
        desired: Some(patch.to_owned()),
        ..v1::UpdateTwinRequest::default()
    }
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
