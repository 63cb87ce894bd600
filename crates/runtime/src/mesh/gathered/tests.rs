//! Many calls in few requests, over a real socket.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};

use dunlin_model::{ErrorCode, HubError};
use dunlin_proto::status::{from_status, to_status};
use dunlin_proto::v1::twins_client::TwinsClient;
use dunlin_proto::v1::twins_server::{Twins, TwinsServer};
use futures_util::future::join_all;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::*;
use crate::Role;
use crate::mesh::{Config, Mesh, MeshChannel};

const DEADLINE: Duration = Duration::from_secs(10);
const NEVER: &str = "never";
const DIES: &str = "dies";
const REFUSED: &str = "refused";

/// Says an id again, but for those that mean something else.
struct Echo;

#[tonic::async_trait]
impl Twins for Echo {
    async fn get_properties(
        &self,
        request: tonic::Request<v1::GetPropertiesRequest>,
    ) -> Result<tonic::Response<v1::PropertiesDocument>, Status> {
        let id = request.into_inner().id;
        match id.as_str() {
            NEVER => std::future::pending().await,
            DIES => panic!("on purpose"),
            REFUSED => Err(to_status(refusal())),
            _ => Ok(tonic::Response::new(v1::PropertiesDocument { json: id.into_bytes() })),
        }
    }

    async fn get_twin(
        &self,
        _: tonic::Request<v1::GetTwinRequest>,
    ) -> Result<tonic::Response<v1::Twin>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn update_twin(
        &self,
        _: tonic::Request<v1::UpdateTwinRequest>,
    ) -> Result<tonic::Response<v1::Twin>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn update_reported(
        &self,
        _: tonic::Request<v1::UpdateReportedRequest>,
    ) -> Result<tonic::Response<v1::UpdateReportedResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

fn refusal() -> HubError {
    HubError::new(ErrorCode::DeviceNotFound, "größer als µ: nobody\nhere")
}

/// A process that counts the requests for twins, and a way to it.
struct Hub {
    way: MeshChannel,
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

async fn hub(max_calls: u32) -> Hub {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    let count = axum::middleware::map_request(move |request: axum::extract::Request| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(request)
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let max_calls = NonZeroU32::new(max_calls).expect("some");
    let here =
        Mesh::new(Config { max_calls, ..Config::default() }, &[Role::Twins], Handle::current());
    here.attach(Routes::new(TwinsServer::new(Echo)).into_axum_router());
    let routes = here.routes().expect("attached").into_axum_router().layer(count);
    let server = Server::builder().add_routes(Routes::from(routes).prepare());
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    Hub { way: way(address), address, requests }
}

fn way(to: SocketAddr) -> MeshChannel {
    let twins = format!("http://{to}");
    let there = Mesh::new(Config { twins, ..Config::default() }, &[], Handle::current());
    there.channel(Role::Twins).expect("configured").gathered()
}

async fn ask(way: &MeshChannel, id: impl Into<String>) -> Result<Vec<u8>, Status> {
    let mut client = TwinsClient::new(way.clone());
    let answer = client.get_properties(v1::GetPropertiesRequest { id: id.into() });
    Ok(timeout(DEADLINE, answer).await.expect("an answer in time")?.into_inner().json)
}

async fn ask_all(way: &MeshChannel, ids: &[&str]) -> Vec<Result<Vec<u8>, Status>> {
    join_all(ids.iter().map(|id| ask(way, *id))).await
}

/// One thread: all of them wait before the first is on its way.
#[tokio::test]
async fn many_calls_are_few_requests_and_each_has_its_answer() {
    let hub = hub(10_000).await;
    let ids: Vec<_> = (0..1_000).map(|n| n.to_string()).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    for (id, answer) in ids.iter().zip(ask_all(&hub.way, &ids).await) {
        assert_eq!(answer.expect("answered"), id.as_bytes());
    }
    let requests = hub.requests.load(Ordering::SeqCst);
    assert!((4..50).contains(&requests), "{requests} requests of {MOST} calls at most");
}

#[tokio::test]
async fn a_call_that_ends_badly_or_not_at_all_is_nobody_elses_matter() {
    let hub = hub(10_000).await;
    let never = tokio::spawn({
        let way = hub.way.clone().with_deadline(Duration::from_millis(300));
        async move { ask(&way, NEVER).await }
    });
    let answers = ask_all(&hub.way, &["a", DIES, REFUSED, "b"]).await;
    let [a, dead, refused, b] = answers.try_into().expect("four");
    assert_eq!((a.expect("answered"), b.expect("answered")), (b"a".to_vec(), b"b".to_vec()));
    assert_eq!(dead.expect_err("it panics").code(), Code::Internal);
    assert_eq!(from_status(&refused.expect_err("refused")), refusal());
    let error = never.await.expect("no panic").expect_err("nobody answers");
    assert_eq!(error.code(), Code::DeadlineExceeded);
    assert_eq!(hub.requests.load(Ordering::SeqCst), 1, "they went together");
}

#[tokio::test]
async fn each_call_takes_a_place_of_its_own() {
    let hub = hub(2).await;
    let way = hub.way.with_deadline(Duration::from_millis(300));
    let answers = ask_all(&way, &[NEVER, NEVER, "a"]).await;
    let codes: Vec<_> =
        answers.into_iter().map(|answer| answer.expect_err("none").code()).collect();
    assert_eq!(codes, [Code::DeadlineExceeded, Code::DeadlineExceeded, Code::Unavailable]);
    // The server hears of the end of what nobody waits for when it does.
    let free = async { while ask(&way, "b").await.is_err() {} };
    timeout(DEADLINE, free).await.expect("there are places again");
}

#[tokio::test]
async fn what_is_large_goes_alone() {
    let hub = hub(10_000).await;
    let mut before = 0;
    for (size, requests) in [(LARGE - 100, 1), (LARGE + 1, 2), (3 << 20, 2)] {
        let large = "x".repeat(size);
        let answers = ask_all(&hub.way, &["small", &large]).await;
        let lengths: Vec<_> = answers.iter().flatten().map(Vec::len).collect();
        assert_eq!(lengths, [5, size]);
        let now = hub.requests.load(Ordering::SeqCst);
        assert_eq!(now - before, requests, "{size}");
        before = now;
    }
}

/// What no client of ours says.
#[tokio::test]
async fn nonsense_is_refused_call_by_call() {
    let routes = Routes::new(TwinsServer::new(Echo)).into_axum_router();
    let inner = server(Routes::from(routes).prepare());
    let path = |path: &str| v1::Call { path: path.to_owned(), ..Default::default() };
    let ask = "/dunlin.v1.Twins/GetProperties";
    let message = |bytes: &'static [u8]| v1::Call { message: bytes.into(), ..path(ask) };
    let trace = [("no header\n".to_owned(), "\0".to_owned())].into();
    let mut calls = vec![
        path(""),
        path("no path"),
        path("/rest/devices"),
        // Not within itself.
        path("/dunlin.v1.Gathered/Call"),
        message(b""),
        message(b"\xff\xff\xff\xff\xff\xff"),
        message(b"\0\0\0\0\x03ab"),
        v1::Call { trace, ..message(b"\0\0\0\0\0") },
    ];
    let nonsense = calls.len();
    calls.push(message(b"\0\0\0\0\x03\x0a\x01a"));
    let client = GatheredClient::new(inner);
    let mut answers = { client }.call(v1::Calls { calls }).await.expect("taken").into_inner();
    let mut seen = Vec::new();
    while let Some(some) = answers.message().await.expect("well formed") {
        for v1::Answer { call, outcome } in some.answers {
            let refused = matches!(outcome, Some(Outcome::Refusal(_)));
            assert_eq!(refused, (call as usize) < nonsense, "{call}: {outcome:?}");
            seen.push(call);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen.len(), nonsense + 1);
}

#[tokio::test]
async fn calls_that_are_lost_on_their_way_are_said_to_be() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let way = way(listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        // Takes what comes, and hangs up on it.
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut some = [0; 1024];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut some).await;
        }
    });
    for answer in ask_all(&way, &["a", "b", "c"]).await {
        assert_eq!(answer.expect_err("nobody answers").code(), Code::Unavailable);
    }
}

#[tokio::test]
async fn calls_that_are_lost_once_they_are_taken_up_are_said_to_be() {
    let hub = hub(10_000).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let way = way(listener.local_addr().expect("bound"));
    let cut = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.expect("called");
        let mut server = TcpStream::connect(hub.address).await.expect("there");
        copy_bidirectional(&mut client, &mut server).await
    });
    let lost = [NEVER, NEVER].map(|id| {
        let way = way.clone();
        tokio::spawn(async move { ask(&way, id).await })
    });
    // It went with them, and its answer came behind the head of theirs.
    assert_eq!(ask(&way, "a").await.expect("answered"), b"a");
    assert_eq!(hub.requests.load(Ordering::SeqCst), 1);
    cut.abort();
    for lost in lost {
        let error = lost.await.expect("no panic").expect_err("nobody answers");
        assert_eq!(error.code(), Code::Unavailable, "{error}");
    }
}
