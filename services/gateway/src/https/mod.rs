//! The front door on 443: TLS, HTTP/1.1, and from there the way to the REST API through the mesh, or
//! by WebSocket to the MQTT head. Requests of devices are answered here.

mod bridge;
mod commands;
mod device;
mod frames;
mod senders;
mod spelling;
mod status;
mod telemetry;
mod watch;
mod websocket;

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dunlin_model::{ErrorCode, HubError, limits};
use dunlin_proto::status::from_status;
use dunlin_runtime::telemetry::{KeyValue, Span, SpanKind, http_method, identity};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, header};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ntex::io::{Base, Io, Layer};
use rustls::ServerConfig;
use tonic::body::Body;
use tower::ServiceExt;

use crate::Timeouts;
use crate::gateway::Gateway;
use crate::lobby::{Seat, Waiting};
use crate::threads::Devices;
use crate::tls::{self, ClientCertificates, TlsFilter};
use bridge::Bridge;
pub use senders::Senders;
use watch::{Answer, Spoiled, Timely, Watch};

type TlsIo = Io<Layer<TlsFilter, Base>>;

/// Request line and headers together, in bytes. As many may be held for each unfinished request.
const MAX_HEAD: usize = 32 * 1024;

/// How long the API may take over a request once it has its body.
const ANSWER: Duration = Duration::from_secs(10);

/// The same of a direct method, which waits for a device: longer than the API waits for any. A
/// client that goes away ends it.
const METHOD: Duration = Duration::from_secs(limits::METHOD_SECONDS as u64 + 60);

/// Serves one connection of the front door to its end.
pub async fn serve(
    io: Io,
    devices: Devices,
    place: (Seat, Waiting),
    tls: Arc<ServerConfig>,
    timeouts: Timeouts,
) {
    // Boxed and dropped: a device keeps nothing of HTTP.
    let http = Box::pin(serve_http(io, &devices, place, tls, timeouts));
    if let Some((io, early, place)) = http.await {
        let Devices { worker, lobby: _ } = devices;
        websocket::serve(io, early, worker, place, timeouts.mqtt_connect).await;
    }
}

/// Serves requests. It ends with a connection that has become a WebSocket, what has been read of
/// that already, and its place among the devices'.
async fn serve_http(
    io: Io,
    devices: &Devices,
    (seat, waiting): (Seat, Waiting),
    tls: Arc<ServerConfig>,
    timeouts: Timeouts,
) -> Option<(TlsIo, Bytes, (Seat, Waiting))> {
    let handshake = tokio::time::timeout(timeouts.tls_handshake, tls::accept(io, tls));
    let io = handshake.await.ok()?.ok()?;
    let shown = io.query::<ClientCertificates>().as_ref().map(|shown| Arc::new(shown.0.clone()));
    let draining = seat.lobby().draining().clone();
    let watch = Watch::new(seat, waiting, io.get_ref());
    let gateway = devices.worker.gateway.clone();
    let upgraded = Cell::new(false);
    let service = service_fn(|request| {
        let (busy, gateway, upgraded) = (watch.busy(), gateway.clone(), &upgraded);
        let shown = shown.clone();
        async move {
            let response = match websocket::is_asked(&request) {
                true => websocket::answer(&request),
                // Boxed: hyper has room for it from the first byte of a connection to its last.
                false => Box::pin(respond(request, gateway, shown, timeouts.http_body)).await,
            };
            upgraded.set(response.status() == StatusCode::SWITCHING_PROTOCOLS);
            Ok::<_, Infallible>(Answer::to(response, busy))
        }
    });
    // Not `pipeline_flush`: with it hyper closes without sending its last answers where bytes are left
    // that it has not read.
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.http_head)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Bridge::new(io, timeouts.http_body)), service);
    let served = tokio::select! {
        // First: a request that is there already is still answered.
        biased;
        served = &mut connection => served,
        () = draining.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "HTTPS connection ended");
        return None;
    }
    // Else hyper has closed it.
    if !upgraded.get() {
        return None;
    }
    let parts = connection.into_parts();
    let (io, early) = (parts.io.into_inner().into_inner(), parts.read_buf);
    // It waits among the HTTPS connections, who may have to go, until it is its turn.
    devices.lobby.room().await;
    drop(watch);
    if io.is_closed() {
        return None;
    }
    let place = devices.lobby.enter(io.get_ref())?;
    Some((io, early, place))
}

/// Answers a request that is no WebSocket's.
async fn respond(
    request: Request<Incoming>,
    gateway: Arc<Gateway>,
    shown: Option<Arc<Vec<Vec<u8>>>>,
    patience: Duration,
) -> Response<Body> {
    let Some(target) = device::target(request.uri()) else {
        let span = gateway.telemetry.received(request.headers(), true, || {
            let method = http_method(request.method());
            (method.to_owned(), vec![KeyValue::new("http.request.method", method)])
        });
        return span.run(forward(request, gateway, patience)).await;
    };
    let (began, operation) = (Instant::now(), target.operation());
    let span = device_span(&gateway, request.method(), &target);
    let response = span.run(device::serve(request, target, gateway.clone(), shown, patience)).await;
    gateway.metrics.request(operation.0, response.status().as_u16(), began.elapsed());
    response
}

/// What a device sends as `traceparent` is not heeded: it has no say in what is kept.
fn device_span(gateway: &Gateway, method: &Method, target: &device::Target) -> Span {
    let (_, route) = target.operation();
    let name = "device request";
    gateway.telemetry.span(name, SpanKind::Server, || {
        let mut attributes = target.identity().as_ref().map(identity).unwrap_or_default();
        attributes.push(KeyValue::new("http.request.method", http_method(method)));
        attributes.push(KeyValue::new("http.route", route));
        attributes
    })
}

/// Hands a request to the REST API, in process or elsewhere.
///
/// The outside path is put below `/rest`, where `api` has its routes: no path from outside can name
/// a gRPC service, which the same routes carry.
async fn forward(
    mut request: Request<Incoming>,
    gateway: Arc<Gateway>,
    patience: Duration,
) -> Response<Body> {
    let Some(inside) = below_rest(request.uri()) else {
        let error = HubError::new(ErrorCode::ArgumentInvalid, "the request target is not a path");
        return status::response(&error, &status::tracking_id());
    };
    *request.uri_mut() = inside;
    // These are for this connection, not for the API's (RFC 9110, 7.6.1).
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE] {
        request.headers_mut().remove(name);
    }
    request.headers_mut().remove("keep-alive");
    // A body that is on its way has its own time, or the client's slowness would count as the API's.
    let arrival = if request.body().is_end_stream() { Duration::ZERO } else { patience };
    let api = gateway.api.clone().with_deadline(arrival + answer_within(request.uri()));
    let spoiled = Spoiled::default();
    let request = request.map(|body| Body::new(Timely::new(body, patience, spoiled.clone())));
    match api.oneshot(request).await {
        Ok(response) => response,
        // To a connection between processes that is a failure like any other.
        Err(_) if spoiled.is_set() => {
            let error = HubError::new(ErrorCode::ArgumentInvalid, status::SPOILED);
            status::response(&error, &status::tracking_id())
        }
        Err(error) => {
            let (error, tracking_id) = (from_status(&error), status::tracking_id());
            tracing::warn!(tracking_id, %error, "the REST API did not answer");
            status::response(&error, &tracking_id)
        }
    }
}

/// The twin of a device that is called `methods` has as long, to no harm.
fn answer_within(uri: &Uri) -> Duration {
    let path = uri.path();
    if path.starts_with("/rest/twins/") && path.ends_with("/methods") { METHOD } else { ANSWER }
}

fn below_rest(uri: &Uri) -> Option<Uri> {
    let outside = uri.path_and_query()?.as_str();
    if !outside.starts_with('/') {
        return None;
    }
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(PathAndQuery::try_from(format!("/rest{outside}")).ok()?);
    // HTTP/2, which may lie ahead, wants both; nobody reads them.
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Some(http::uri::Authority::from_static("api"));
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_has_as_long_as_it_takes() {
        for (path, want) in [
            ("/rest/twins/d/methods?api-version=2021-04-12", METHOD),
            ("/rest/twins/d/modules/m/methods?api-version=2021-04-12", METHOD),
            ("/rest/twins/d?api-version=2021-04-12", ANSWER),
            ("/rest/devices/methods", ANSWER),
            ("/rest/twins/d?x=/methods", ANSWER),
        ] {
            assert_eq!(answer_within(&path.parse().expect("a uri")), want, "{path}");
        }
    }

    #[test]
    fn every_outside_path_lies_below_rest() {
        #[track_caller]
        fn check(outside: &str, want: Option<&str>) {
            let uri = outside.parse::<Uri>().expect(outside);
            let inside = below_rest(&uri);
            let inside = inside.as_ref().and_then(|uri| uri.path_and_query()).map(|p| p.as_str());
            assert_eq!(inside, want);
        }
        check("/devices/d?api-version=1", Some("/rest/devices/d?api-version=1"));
        check("/../dunlin.v1.Registry/GetPolicy", Some("/rest/../dunlin.v1.Registry/GetPolicy"));
        check("//dunlin.v1.Registry/GetPolicy", Some("/rest//dunlin.v1.Registry/GetPolicy"));
        check("https://hub/devices", Some("/rest/devices"));
        check("*", None);
    }
}
