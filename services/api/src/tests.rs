//! What is answered before a handler is reached, with a registry that is away or permits everything.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use axum::response::Response;
use axum::routing::post;
use dunlin_runtime::mesh;
use http_body_util::BodyExt;
use tokio::runtime::Handle;
use tower::ServiceExt;

use super::routes::Routes;
use super::*;

/// The API beside a gRPC service, as roles are merged in one process.
fn merged() -> Router {
    api(Mesh::new(away(), &[Role::Api], Handle::current()))
        .merge(Router::new().route("/dunlin.v1.Registry/{*rest}", post(|| async {})))
}

/// Every other role is somewhere, where nobody answers.
fn away() -> mesh::Config {
    let away = || "http://127.0.0.1:1".to_owned();
    mesh::Config {
        registry: away(),
        twins: away(),
        methods: away(),
        c2d: away(),
        ..mesh::Config::default()
    }
}

fn api(mesh: Mesh) -> Router {
    build(Context { mesh, events: Arc::new(no_log::NoLog) }).expect("built").routes
}

async fn ask(method: &str, path: &str, token: Option<&str>) -> Response {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header("authorization", token);
    }
    let request = request.body(Body::empty()).expect("a request");
    merged().oneshot(request).await.expect("infallible")
}

/// Status, error code and the form every error has.
async fn error_of(response: Response) -> (StatusCode, String) {
    let status = response.status();
    let headers = response.headers().clone();
    let header = |name: &str| headers.get(name).map(|v| v.to_str().unwrap_or("?").to_owned());
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(header("content-type").as_deref(), Some("application/json; charset=utf-8"));
    let code = header("iothub-errorcode").expect("the header");
    let message = body["Message"].as_str().expect("a message");
    assert!(message.starts_with(&format!("ErrorCode:{code};")), "{message}");
    let exception = body["ExceptionMessage"].as_str().expect("a message");
    assert!(exception.starts_with("Tracking ID:"), "{exception}");
    (status, code)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_the_one_form() {
    let version = "api-version=2021-04-12";
    for (method, path, token, status, code) in [
        ("GET", "/rest/nothing".to_owned(), None, 404, "GenericNotFound"),
        ("GET", "/rest/".to_owned(), None, 404, "GenericNotFound"),
        ("GET", "/rest".to_owned(), None, 404, "GenericNotFound"),
        ("POST", "/rest/dunlin.v1.Registry/GetPolicy".to_owned(), None, 404, "GenericNotFound"),
        ("PATCH", format!("/rest/devices/d?{version}"), None, 405, "GenericMethodNotAllowed"),
        ("GET", "/rest/devices/d".to_owned(), None, 400, "InvalidProtocolVersion"),
        ("GET", "/rest/devices?api-version=1".to_owned(), None, 400, "InvalidProtocolVersion"),
        ("GET", format!("/rest/devices/d?{version}"), None, 401, "IotHubUnauthorized"),
        ("GET", "/rest/dunlin/v1/events".to_owned(), None, 401, "IotHubUnauthorized"),
        ("GET", format!("/rest/devices/d?{version}"), Some("x"), 503, "ServiceUnavailable"),
    ] {
        let got = error_of(ask(method, &path, token).await).await;
        assert_eq!((got.0.as_u16(), got.1.as_str()), (status, code), "{method} {path}");
    }
}

fn routes() -> Routes {
    let config = mesh::Config { registry: "http://127.0.0.1:1".into(), ..Default::default() };
    let mesh = Mesh::new(config, &[Role::Api], Handle::current());
    Routes::new(RegistryClient::new(mesh.channel(Role::Registry).expect("configured")))
}

#[tokio::test]
#[should_panic(expected = "every route has a row in the permission table")]
async fn a_route_without_a_row_is_not_built() {
    let _ = routes().on(Method::GET, "/nowhere", error::not_found);
}

#[tokio::test]
#[should_panic(expected = "has no route")]
async fn a_row_without_a_route_is_not_built() {
    let _ = routes().on(Method::GET, "/devices", error::not_found).whole();
}

/// The gateway puts every outside path below the prefix, dots and doubled slashes included: none
/// of them may come out at a service beside it.
#[tokio::test(flavor = "multi_thread")]
async fn no_path_below_the_prefix_reaches_a_service_beside_it() {
    let inside = ask("POST", "/dunlin.v1.Registry/GetPolicy", None).await;
    assert_eq!(inside.status(), StatusCode::OK, "the service is there, for roles");
    for outside in [
        "/dunlin.v1.Registry/GetPolicy",
        "//dunlin.v1.Registry/GetPolicy",
        "/../dunlin.v1.Registry/GetPolicy",
        "/%2e%2e/dunlin.v1.Registry/GetPolicy",
        "/devices/../../dunlin.v1.Registry/GetPolicy",
    ] {
        let response = ask("POST", &format!("{PREFIX}{outside}"), None).await;
        assert_eq!(error_of(response).await.0, StatusCode::NOT_FOUND, "{outside}");
    }
}

mod hostile;

mod no_log {
    //! A log nobody reads: these calls are refused before they would.

    use std::time::Duration;

    use dunlin_model::event::Event;
    use dunlin_storage::StoreError;
    use dunlin_storage::event_log::*;

    pub struct NoLog;

    fn no<T>() -> Result<T, StoreError> {
        Err(StoreError::unavailable("no", "there is none"))
    }

    #[tonic::async_trait]
    impl EventLog for NoLog {
        fn append(
            &self,
            _: &'static str,
            _: Record<'_>,
            _: Token,
            _: Option<&std::sync::Arc<dyn Completions>>,
        ) -> Result<(), Full> {
            Err(Full)
        }

        async fn writable(&self) {}

        fn partitions(&self) -> u32 {
            1
        }

        fn pending_bytes(&self) -> usize {
            0
        }

        async fn range(&self, _: &'static str, _: u32) -> Result<Range, StoreError> {
            no()
        }

        async fn seek(&self, _: &'static str, _: u32, _: Position) -> Result<u64, StoreError> {
            no()
        }

        async fn read(
            &self,
            _: &'static str,
            _: u32,
            _: u64,
            _: ReadLimit,
            _: Duration,
        ) -> Result<Vec<Event>, StoreError> {
            no()
        }

        async fn group_commit(
            &self,
            _: &'static str,
            _: &str,
            _: &[(u32, u64)],
        ) -> Result<(), StoreError> {
            no()
        }

        async fn group_positions(
            &self,
            _: &'static str,
            _: &str,
        ) -> Result<Vec<(u32, u64)>, StoreError> {
            no()
        }

        async fn close(&self) {}
    }
}
