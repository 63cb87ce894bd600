//! Method calls on their way to a service that stands in for the role `methods`.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use dunlin_proto::v1::methods_server::{self, MethodsServer};
use dunlin_runtime::{Mesh, Role, Shutdown, mesh};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tower::ServiceExt;

use super::*;

/// Answers `echo` with what it was asked, and nothing else.
#[derive(Clone, Default)]
struct StandIn {
    began: Arc<Notify>,
    ended: Arc<Notify>,
}

struct Ends(Arc<Notify>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tonic::async_trait]
impl methods_server::Methods for StandIn {
    async fn invoke_method(
        &self,
        request: tonic::Request<v1::InvokeMethodRequest>,
    ) -> Result<tonic::Response<v1::InvokeMethodResponse>, tonic::Status> {
        let asked = request.into_inner();
        let _ends = Ends(self.ended.clone());
        self.began.notify_one();
        let payload = match asked.method.as_str() {
            "echo" => json!({
                "id": asked.id, "payload": asked.payload,
                "response": asked.response_timeout, "connect": asked.connect_timeout,
            })
            .to_string(),
            "garbage" => "{".to_owned(),
            _ => std::future::pending().await,
        };
        Ok(tonic::Response::new(v1::InvokeMethodResponse { status: -7, payload }))
    }
}

/// The API's routes over the role, in process and over a socket.
async fn both(role: &StandIn) -> [Router; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let here = Mesh::new(mesh::Config::default(), &[Role::Methods], Handle::current());
    let server = MethodsServer::new(role.clone());
    here.attach(Router::new().route_service("/dunlin.v1.Methods/{*rest}", server));
    let local = here.channel(Role::Methods).expect("runs here");
    tokio::spawn(async move { here.serve(listener, Shutdown::new()).await });
    let config = mesh::Config { methods: url, ..mesh::Config::default() };
    let there = Mesh::new(config, &[Role::Api], Handle::current());
    let remote = there.channel(Role::Methods).expect("configured");
    [local, remote].map(|channel| {
        Router::new()
            .route("/twins/{id}/methods", post(invoke))
            .route("/twins/{id}/modules/{module}/methods", post(invoke))
            .with_state(MethodsClient::new(channel))
    })
}

fn post_to(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).body(body.into()).expect("a request")
}

async fn ask(routes: Router, path: &str, body: &str) -> (StatusCode, Value) {
    let response = routes.oneshot(post_to(path, body.to_owned())).await.expect("infallible");
    let status = response.status();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, serde_json::from_slice(&body).expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_handed_on_as_it_was_written() {
    const DEVICE: &str = "/twins/d/methods";
    const MODULE: &str = "/twins/d/modules/m%2B/methods";
    let role = StandIn::default();
    for routes in both(&role).await {
        for (path, rest, id, payload, response, connect) in [
            (DEVICE, "", "d", "null", None, None),
            (MODULE, r#","payload":null"#, "d/m+", "null", None, None),
            (
                DEVICE,
                r#","payload": {"a":1.50, "a":[]} "#,
                "d",
                r#"{"a":1.50, "a":[]}"#,
                None,
                None,
            ),
            (
                DEVICE,
                r#","payload":1e999,"responseTimeoutInSeconds":-1,"connectTimeoutInSeconds":0,"x":[1]"#,
                "d",
                "1e999",
                Some(-1),
                Some(0),
            ),
            (DEVICE, r#","payload":"","responseTimeoutInSeconds":null"#, "d", r#""""#, None, None),
        ] {
            let body = format!(r#" {{"methodName":"echo"{rest}}}"#);
            let want = json!({"status": -7, "payload":
                {"id": id, "payload": payload, "response": response, "connect": connect}});
            assert_eq!(ask(routes.clone(), path, &body).await, (StatusCode::OK, want), "{body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_call_is_refused() {
    let role = StandIn::default();
    let [routes, _] = both(&role).await;
    let deep = format!(r#"{{"methodName":"echo","payload":{}"#, "[".repeat(100_000));
    for (body, want) in [
        ("", 400),
        ("null", 400),
        (r#"["echo",null,null,{}]"#, 400),
        (r#"{"methodName":5}"#, 400),
        (r#"{"methodName":null}"#, 400),
        (r#"{"methodName":"echo","methodName":"echo"}"#, 400),
        (r#"{"methodName":"echo","responseTimeoutInSeconds":"30"}"#, 400),
        (r#"{"methodName":"echo","responseTimeoutInSeconds":30.5}"#, 400),
        (r#"{"methodName":"echo","connectTimeoutInSeconds":1e30}"#, 400),
        (r#"{"methodName":"echo","connectTimeoutInSeconds":99999999999999999999}"#, 400),
        (r#"{"methodName":"echo","payload":}"#, 400),
        (&deep, 400),
        (r#"{"methodName":"garbage"}"#, 500),
    ] {
        let (status, answer) = ask(routes.clone(), "/twins/d/methods", body).await;
        assert_eq!(status.as_u16(), want, "{body}: {answer}");
        let code =
            if want == 400 { "ErrorCode:IotHubFormatError;" } else { "ErrorCode:ServerError;" };
        assert!(answer["Message"].as_str().expect("text").starts_with(code), "{body}: {answer}");
    }
    let (status, answer) = ask(routes, "/twins/a%2Fb/methods", r#"{"methodName":"echo"}"#).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_ends_the_call() {
    let role = StandIn::default();
    for routes in both(&role).await {
        let request = post_to("/twins/d/methods", r#"{"methodName":"slow"}"#);
        let call = tokio::spawn(routes.oneshot(request));
        role.began.notified().await;
        call.abort();
        let ended = role.ended.notified();
        tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the call has ended");
    }
}
