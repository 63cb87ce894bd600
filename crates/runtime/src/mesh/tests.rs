//! A channel answers the same in process and over HTTP/2.

use std::time::Duration;

use axum::routing::{get, post};
use http_body_util::BodyExt;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::ServiceExt;

use super::*;

fn router() -> axum::Router {
    axum::Router::new()
        .route("/echo", post(|body: String| async move { format!("{body}!") }))
        .route("/never", get(std::future::pending::<String>))
}

/// The same roles, once in process and once behind a socket.
async fn both() -> [MeshChannel; 2] {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let here = Mesh::new(Config::default(), &[Role::Api], Handle::current());
    here.attach(router());
    let channel = here.channel(Role::Api).expect("runs here");
    tokio::spawn(async move { here.serve(listener, Shutdown::new()).await });
    let there =
        Mesh::new(Config { api: url, ..Config::default() }, &[Role::Gateway], Handle::current());
    [channel, there.channel(Role::Api).expect("configured")]
}

async fn text(channel: MeshChannel, request: http::Request<Body>) -> Result<String, Status> {
    let body = channel.oneshot(request).await?.into_body();
    let bytes = body.collect().await.expect("a body").to_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_kinds_answer_alike() {
    for channel in both().await {
        let request = http::Request::post("/echo").body(Body::new("hi".to_owned()));
        assert_eq!(text(channel, request.expect("a request")).await.expect("answered"), "hi!");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_holds_for_both_kinds() {
    for channel in both().await {
        let request = http::Request::get("/never").body(Body::empty()).expect("a request");
        let channel = channel.with_deadline(Duration::from_millis(50));
        let error = text(channel, request).await.expect_err("nobody answers");
        assert_eq!(error.code(), Code::DeadlineExceeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_away_is_a_passing_fault() {
    let config = Config { registry: "http://127.0.0.1:1".into(), ..Config::default() };
    let mesh = Mesh::new(config, &[], Handle::current());
    let request = http::Request::get("/x").body(Body::empty()).expect("a request");
    let channel = mesh.channel(Role::Registry).expect("configured");
    assert_eq!(text(channel, request).await.expect_err("away").code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_before_attach_are_unavailable_and_unknown_roles_are_said() {
    let mesh = Mesh::new(Config::default(), &[Role::Api], Handle::current());
    let request = http::Request::get("/echo").body(Body::empty()).expect("a request");
    let channel = mesh.channel(Role::Api).expect("runs here");
    assert_eq!(text(channel, request).await.expect_err("too early").code(), Code::Unavailable);
    let error = mesh.channel(Role::Registry).err().expect("nowhere").to_string();
    assert!(error.contains("mesh.registry"), "{error}");
}

#[test]
fn a_call_from_a_connection_thread_runs_on_the_main_runtime() {
    let main = tokio::runtime::Runtime::new().expect("a runtime");
    let mesh = Mesh::new(Config::default(), &[Role::Api], main.handle().clone());
    mesh.attach(
        axum::Router::new()
            .route("/thread", get(|| async { format!("{:?}", std::thread::current().id()) })),
    );
    let worker = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let channel = mesh.channel(Role::Api).expect("runs here");
    let request = http::Request::get("/thread").body(Body::empty()).expect("a request");
    let thread = worker.block_on(text(channel, request)).expect("answered");
    assert_ne!(thread, format!("{:?}", std::thread::current().id()));
}

/// A handler that holds a channel to its own routes would be there for ever.
#[tokio::test]
async fn routes_that_are_detached_are_let_go_of() {
    let mesh = Mesh::new(Config::default(), &[Role::Api], Handle::current());
    let channel = mesh.channel(Role::Api).expect("runs here");
    let held = std::sync::Arc::new(channel.clone());
    let there = std::sync::Arc::downgrade(&held);
    mesh.attach(axum::Router::new().route("/", get(move || async move { drop(held) })));
    assert!(there.upgrade().is_some());
    mesh.detach();
    assert!(there.upgrade().is_none());
    let request = http::Request::get("/").body(Body::empty()).expect("a request");
    let error = text(channel, request).await.expect_err("nobody answers");
    assert_eq!(error.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_has_enough_to_do_says_so_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let max_calls = NonZeroU32::new(2).expect("two");
    let config = Config { max_calls, ..Config::default() };
    let here = Mesh::new(config, &[Role::Api], Handle::current());
    let (entered, mut enters) = tokio::sync::mpsc::unbounded_channel();
    let go = Shutdown::new();
    let went = go.clone();
    here.attach(router().route(
        "/rest/wait",
        get(move || async move {
            entered.send(()).expect("the test waits");
            went.cancelled().await;
            "done"
        }),
    ));
    let local = here.channel(Role::Api).expect("runs here");
    tokio::spawn(async move { here.serve(listener, Shutdown::new()).await });
    let there =
        Mesh::new(Config { api: url, ..Config::default() }, &[Role::Gateway], Handle::current());
    let remote = there.channel(Role::Api).expect("configured");
    let wait = || http::Request::get("/rest/wait").body(Body::empty()).expect("a request");
    let waiting = [(); 2].map(|()| tokio::spawn(text(remote.clone(), wait())));
    for _ in &waiting {
        enters.recv().await.expect("a place");
    }
    let refused = text(remote.clone(), wait()).await.expect_err("no place");
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("as many calls as it takes"), "{refused}");
    // Its own calls are not counted, or roles that call one another could wait in a circle.
    let own = tokio::spawn(text(local, wait()));
    enters.recv().await.expect("called");
    go.cancel();
    assert_eq!(own.await.expect("no panic").expect("answered"), "done");
    for one in waiting {
        assert_eq!(one.await.expect("no panic").expect("answered"), "done");
    }
    let again = http::Request::post("/echo").body(Body::new("hi".to_owned())).expect("a request");
    assert_eq!(text(remote, again).await.expect("there are places again"), "hi!");
}
