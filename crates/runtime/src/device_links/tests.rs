//! What `DeviceLinks` makes of a gateway's answers, in process and over HTTP/2.

use dunlin_proto::v1::device_link_server::{DeviceLink, DeviceLinkServer};
use dunlin_proto::v1::{
    Absent, DisconnectResponse, InvokeResponse, MethodAnswer, NotifyDesiredResponse,
};
use dunlin_storage::presence::{Claim, MemoryPresence};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::server::NamedService;
use tonic::{Request, Response, Status, async_trait};

use super::*;
use crate::{Role, Shutdown, mesh};

/// Ends no test that goes well.
const LONG: Duration = Duration::from_secs(20);

/// A gateway that does what the method is called.
struct Gateway {
    node: String,
    presence: Arc<MemoryPresence>,
    events: mpsc::UnboundedSender<Event>,
}

#[derive(Debug, PartialEq)]
enum Event {
    Called { epoch: u64 },
    Cancelled,
}

/// Tells when the call it belongs to is dropped.
struct Waiting(mpsc::UnboundedSender<Event>);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.send(Event::Cancelled);
    }
}

fn id() -> Identity {
    Identity::device("d").expect("an id")
}

async fn connect(presence: &MemoryPresence, node: &str) -> u64 {
    match presence.claim(&id(), node, 1).await.expect("claimed") {
        Claim::Granted { epoch, .. } => epoch,
        Claim::Revoked => panic!("nobody revoked it"),
    }
}

#[async_trait]
impl DeviceLink for Gateway {
    async fn invoke(
        &self,
        request: Request<InvokeRequest>,
    ) -> Result<Response<InvokeResponse>, Status> {
        let request = request.into_inner();
        let _ = self.events.send(Event::Called { epoch: request.epoch });
        let holder = self.presence.holder(&id()).await.expect("asked");
        let answer = Outcome::Answer(MethodAnswer { status: -1, payload: request.payload });
        let outcome = match request.method.as_str() {
            "answer" => answer,
            "not subscribed" => Outcome::NotSubscribed(Absent {}),
            "be silent" => {
                let _waiting = Waiting(self.events.clone());
                std::future::pending().await
            }
            "be taken over once" if holder.is_some_and(|holder| holder.epoch > 1 << 40 | 1) => {
                answer
            }
            "be taken over once" | "be taken over always" => {
                connect(&self.presence, &self.node).await;
                Outcome::Absent(Absent {})
            }
            other => return Err(Status::internal(format!("no such method: {other}"))),
        };
        Ok(Response::new(InvokeResponse { outcome: Some(outcome) }))
    }

    async fn disconnect(
        &self,
        _: Request<DisconnectRequest>,
    ) -> Result<Response<DisconnectResponse>, Status> {
        Err(Status::unimplemented("not called"))
    }

    async fn notify_commands(
        &self,
        _: Request<dunlin_proto::v1::NotifyCommandsRequest>,
    ) -> Result<Response<dunlin_proto::v1::NotifyCommandsResponse>, Status> {
        unreachable!("nobody sends C2D messages here")
    }

    async fn notify_desired(
        &self,
        _: Request<NotifyDesiredRequest>,
    ) -> Result<Response<NotifyDesiredResponse>, Status> {
        Err(Status::unimplemented("not called"))
    }
}

/// A gateway and a way to its devices, from the same process or from another.
struct Hub {
    links: DeviceLinks,
    presence: Arc<MemoryPresence>,
    node: String,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Hub {
    async fn start(split: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let config = mesh::Config {
            listen: listener.local_addr().expect("bound").to_string(),
            ..mesh::Config::default()
        };
        let here = Mesh::new(config, &[Role::Gateway], Handle::current());
        let presence = Arc::new(MemoryPresence::new(1));
        let (sender, events) = mpsc::unbounded_channel();
        let node = here.node().to_owned();
        let gateway =
            Gateway { node: node.clone(), presence: Arc::clone(&presence), events: sender };
        let path = format!("/{}/{{*rest}}", DeviceLinkServer::<Gateway>::NAME);
        here.attach(axum::Router::new().route_service(&path, DeviceLinkServer::new(gateway)));
        let mesh = match split {
            true => Mesh::new(mesh::Config::default(), &[], Handle::current()),
            false => here.clone(),
        };
        tokio::spawn(async move { here.serve(listener, Shutdown::new()).await });
        Self { links: DeviceLinks::new(mesh, presence.clone()), presence, node, events }
    }

    async fn invoke(&self, method: &str, deadline: Duration) -> Result<Invoked, HubError> {
        self.links.invoke(&id(), method, b"{}", deadline).await
    }

    async fn connect(&self) -> u64 {
        connect(&self.presence, &self.node).await
    }

    /// Epochs of the calls there were.
    fn called(&mut self) -> Vec<u64> {
        let events = std::iter::from_fn(|| self.events.try_recv().ok());
        events
            .filter_map(|event| match event {
                Event::Called { epoch } => Some(epoch),
                Event::Cancelled => None,
            })
            .collect()
    }
}

async fn both() -> [Hub; 2] {
    [Hub::start(false).await, Hub::start(true).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_has_one_of_these_ends() {
    for mut hub in both().await {
        let invoked = hub.invoke("answer", LONG).await;
        assert_eq!(invoked, Ok(Invoked::NotConnected));
        assert!(hub.called().is_empty(), "nobody is asked without an entry");
        let epoch = hub.connect().await;
        for (method, deadline, want) in [
            ("answer", LONG, Invoked::Answered { status: -1, payload: b"{}".to_vec() }),
            ("not subscribed", LONG, Invoked::NotSubscribed),
            ("be silent", Duration::from_millis(50), Invoked::Unanswered),
        ] {
            assert_eq!(hub.invoke(method, deadline).await, Ok(want), "{method}");
            assert_eq!(hub.called(), [epoch], "{method}");
        }
        let failed = hub.invoke("fail", LONG).await.expect_err("a failure");
        assert_eq!(failed.code, ErrorCode::ServerError);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_entry_is_looked_up_once_more() {
    for mut hub in both().await {
        let first = hub.connect().await;
        let answered = Invoked::Answered { status: -1, payload: b"{}".to_vec() };
        assert_eq!(hub.invoke("be taken over once", LONG).await, Ok(answered));
        assert_eq!(hub.called(), [first, first + 1]);
        let invoked = hub.invoke("be taken over always", LONG).await;
        assert_eq!(invoked, Ok(Invoked::NotConnected), "and only once");
        assert_eq!(hub.called(), [first + 1, first + 2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_is_cancelled_at_the_gateway() {
    for hub in both().await {
        let epoch = hub.connect().await;
        let (links, mut events) = (hub.links.clone(), hub.events);
        {
            let id = id();
            let call = links.invoke(&id, "be silent", b"", LONG);
            tokio::select! {
                invoked = call => panic!("{invoked:?}"),
                event = events.recv() => assert_eq!(event, Some(Event::Called { epoch })),
            }
        }
        let cancelled = tokio::time::timeout(LONG, events.recv()).await.expect("in time");
        assert_eq!(cancelled, Some(Event::Cancelled));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_away_is_a_passing_fault_until_its_lease_is_over() {
    let away = "http://127.0.0.1:1";
    let hub = Hub::start(false).await;
    connect(&hub.presence, away).await;
    assert_eq!(hub.invoke("answer", LONG).await, Ok(Invoked::NotConnected));
    assert_eq!(hub.links.notify_commands(&id()).await, Ok(false));
    // A gateway that stood still would not ask for it: it is to be told again, or the device's
    // connection to be ended.
    let desired = hub.links.notify_desired(&id(), 2, b"{}").await;
    assert_eq!(desired.expect_err("away").code, ErrorCode::ServiceUnavailable);
    hub.presence.node_renew(away).await.expect("renewed");
    let error = hub.invoke("answer", LONG).await.expect_err("away");
    assert_eq!(error.code, ErrorCode::ServiceUnavailable);
    assert!(error.retryable());
}
