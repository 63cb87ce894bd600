//! Methods over its gRPC face, with a gateway and a registry that do as they are told. The time is
//! tokio's own and stands still while anything else goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Request as HttpRequest, State};
use axum::routing::post;
use dunlin_methods::{BuildError, Config, Context};
use dunlin_model::{ErrorCode, HubError, Identity};
use dunlin_proto::status::{from_status, to_status};
use dunlin_proto::v1;
use dunlin_proto::v1::device_link_server::{DeviceLink, DeviceLinkServer};
use dunlin_proto::v1::invoke_response::Outcome;
use dunlin_proto::v1::methods_client::MethodsClient;
use dunlin_runtime::{DeviceLinks, Mesh, MeshChannel, Role, mesh};
use dunlin_storage::Presence;
use dunlin_storage::presence::MemoryPresence;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

mod calls;

/// A gateway that does what the method is called.
struct Gateway {
    calls: mpsc::UnboundedSender<Seen>,
    started: Instant,
}

#[derive(Debug, PartialEq)]
enum Seen {
    Called { payload: String },
    Cancelled,
}

/// Tells when the call it belongs to is dropped.
struct Waiting(mpsc::UnboundedSender<Seen>);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.send(Seen::Cancelled);
    }
}

#[tonic::async_trait]
impl DeviceLink for Gateway {
    async fn invoke(
        &self,
        request: Request<v1::InvokeRequest>,
    ) -> Result<Response<v1::InvokeResponse>, Status> {
        let v1::InvokeRequest { method, payload, .. } = request.into_inner();
        let payload = String::from_utf8(payload).expect("text");
        let _ = self.calls.send(Seen::Called { payload });
        let answer = |status, payload: &[u8]| {
            Outcome::Answer(v1::MethodAnswer { status, payload: payload.to_vec() })
        };
        // `NAME-N`: at the N-th second.
        let (what, second) = method.split_once('-').unwrap_or((&method, "0"));
        let then = self.started + Duration::from_secs(second.parse().expect("a number"));
        let fail = |code, message: &str| Err(to_status(HubError::new(code, message)));
        let outcome = match what {
            "answer" => {
                let _waiting = Waiting(self.calls.clone());
                sleep_until(then).await; // sleep: that is when the device answers
                answer(201, br#"{ "a": 1e400 }"#)
            }
            "answerNothing" => answer(-7, b""),
            "answerNonsense" => answer(200, b"done."),
            "subscribe" if Instant::now() < then => Outcome::NotSubscribed(v1::Absent {}),
            "subscribe" => answer(200, b"true"),
            "refuseSlowly" => {
                sleep(Duration::from_millis(100)).await; // sleep: the gateway takes its time
                Outcome::NotSubscribed(v1::Absent {})
            }
            "beSilent" => {
                let _waiting = Waiting(self.calls.clone());
                std::future::pending().await
            }
            "disconnect" => {
                sleep_until(then).await; // sleep: that is when the device goes
                return fail(ErrorCode::DeviceConnectionClosedRemotely, "it is gone");
            }
            "beBusy" => {
                return fail(ErrorCode::DeviceMaximumInflightMethodExceeded, "too many");
            }
            "beDown" => return Err(Status::unavailable("the gateway is going down")),
            other => panic!("no such method: {other}"),
        };
        Ok(Response::new(v1::InvokeResponse { outcome: Some(outcome) }))
    }

    async fn disconnect(
        &self,
        _: Request<v1::DisconnectRequest>,
    ) -> Result<Response<v1::DisconnectResponse>, Status> {
        Err(Status::unimplemented("not called"))
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
        Err(Status::unimplemented("not called"))
    }
}

/// The one call on a registry that methods makes. It knows `d` and `d/m`, and fails for `broken`.
async fn check_identity(
    State(asked): State<Arc<AtomicUsize>>,
    request: HttpRequest,
) -> axum::response::Response {
    asked.fetch_add(1, Ordering::Relaxed);
    let service = tower::service_fn(|request: Request<v1::GetIdentityRequest>| async move {
        let id = request.into_inner().id;
        let code = match id.as_str() {
            "d" | "d/m" => return Ok(Response::new(v1::CheckIdentityResponse {})),
            "broken" => ErrorCode::ServiceUnavailable,
            "silent" => std::future::pending().await,
            other if other.contains('/') => ErrorCode::ModuleNotFound,
            _ => ErrorCode::DeviceNotFound,
        };
        Err(to_status(HubError::new(code, "says the registry")))
    });
    let codec = ProstCodec::<v1::CheckIdentityResponse, v1::GetIdentityRequest>::default();
    tonic::server::Grpc::new(codec)
        .unary(service, request.map(Body::new))
        .await
        .map(axum::body::Body::new)
}

struct Hub {
    client: MethodsClient<MeshChannel>,
    presence: Arc<MemoryPresence>,
    calls: mpsc::UnboundedReceiver<Seen>,
    /// Questions to the registry.
    asked: Arc<AtomicUsize>,
    started: Instant,
}

impl Hub {
    fn start() -> Self {
        Self::start_with(Config::default()).expect("a role")
    }

    fn start_with(config: Config) -> Result<Self, BuildError> {
        let roles = [Role::Registry, Role::Methods, Role::Gateway];
        let mesh = Mesh::new(mesh::Config::default(), &roles, Handle::current());
        let presence = Arc::new(MemoryPresence::new(1));
        let links = DeviceLinks::new(mesh.clone(), presence.clone());
        let component = dunlin_methods::build(Context { config, mesh: mesh.clone(), links })?;
        let (sender, calls) = mpsc::unbounded_channel();
        let started = Instant::now();
        let gateway = DeviceLinkServer::new(Gateway { calls: sender, started });
        let path = format!("/{}/{{*rest}}", DeviceLinkServer::<Gateway>::NAME);
        let asked = Arc::new(AtomicUsize::new(0));
        let registry = axum::Router::new()
            .route("/dunlin.v1.Registry/CheckIdentity", post(check_identity))
            .with_state(asked.clone());
        mesh.attach(component.routes.route_service(&path, gateway).merge(registry));
        // As the REST API calls: with a deadline that is beyond any call's own.
        let channel = mesh.channel(Role::Methods).expect("runs here");
        let client = MethodsClient::new(channel.with_deadline(Duration::from_secs(7_200)));
        Ok(Self { client, presence, calls, asked, started })
    }

    async fn connect(&self, id: &str) {
        let id = Identity::parse(id).expect("an id");
        self.presence.claim(&id, "local", 1).await.expect("claimed");
        self.presence.node_renew("local").await.expect("renewed");
    }

    /// What comes of a call, and when.
    async fn invoke(
        &self,
        request: v1::InvokeMethodRequest,
    ) -> (Result<(i64, String), HubError>, Duration) {
        let answer = self.client.clone().invoke_method(request).await;
        let result = answer.map(Response::into_inner).map_err(|status| from_status(&status));
        (result.map(|answer| (answer.status, answer.payload)), self.started.elapsed())
    }

    /// Calls of the gateway so far.
    fn called(&mut self) -> Vec<Seen> {
        std::iter::from_fn(|| self.calls.try_recv().ok()).collect()
    }
}

fn call(id: &str, method: &str, response: i64, connect: i64) -> v1::InvokeMethodRequest {
    v1::InvokeMethodRequest {
        id: id.to_owned(),
        method: method.to_owned(),
        payload: "[]".to_owned(),
        response_timeout: Some(response),
        connect_timeout: Some(connect),
    }
}
