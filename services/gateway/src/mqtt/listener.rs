//! One MQTT connection from accept to close.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dunlin_model::ErrorCode;
use ntex::io::{Filter, Io};
use rustls::ServerConfig;

use super::connect;
use super::connection::{Connection, End};
use crate::Timeouts;
use crate::lobby::{Seat, Waiting};
use crate::metrics::Protocol;
use crate::tls;
use crate::worker::Worker;

/// How long a connection that has ended is kept for what it has leased. While it is there, whoever
/// takes it over waits for it, and so does the hub's end.
const GIVING_BACK: Duration = Duration::from_secs(5);

/// Serves one connection of the MQTT port to its end.
pub async fn serve(
    io: Io,
    worker: Rc<Worker>,
    (_seat, waiting): (Seat, Waiting),
    tls: Arc<ServerConfig>,
    timeouts: Timeouts,
) {
    let handshake = tokio::time::timeout(timeouts.tls_handshake, tls::accept(io, tls));
    // Boxed and dropped before the connection settles: an idle device keeps only what follows.
    let Ok(Ok(io)) = Box::pin(handshake).await else {
        return worker.gateway.metrics.connect(Protocol::Mqtt, "TlsHandshake");
    };
    run(&io, &worker, Protocol::Mqtt, waiting, timeouts.mqtt_connect).await;
    // Lets the last words out and says close_notify; the socket goes with `io`. Nothing is left to
    // do if the peer is gone.
    let _ = io.shutdown().await;
}

/// Speaks MQTT on a connection, whatever carries it, until that is to be closed. `None`: it did not
/// come to be a device's.
pub async fn run<F: Filter>(
    io: &Io<F>,
    worker: &Rc<Worker>,
    protocol: Protocol,
    waiting: Waiting,
    wait: Duration,
) -> Option<End> {
    let opened = Box::pin(connect::open(io, worker, waiting, wait)).await;
    let metrics = &worker.gateway.metrics;
    metrics.connect(protocol, opened.as_ref().err().copied().unwrap_or("accepted"));
    let (connection, reservation) = opened.ok()?;
    let _connected = metrics.connected(protocol);
    let end = poll_fn(|cx| connection.poll(io, worker, cx)).await;
    close(&connection, end, worker);
    if connection.has_leases() {
        // Boxed, timer and all: an idle connection has no room kept for it.
        let given_back = tokio::time::timeout(GIVING_BACK, connection.give_leases_back());
        let _ = Box::pin(given_back).await;
    }
    drop(reservation);
    Some(end)
}

/// What is owed when a connection ends: the will, and the reason to whoever reads the log.
fn close(connection: &Connection, end: End, worker: &Worker) {
    let identity = connection.session().identity();
    match end {
        End::Disconnect => tracing::debug!(%identity, "device disconnected"),
        End::Lost => tracing::debug!(%identity, "device went away"),
        End::Violation(rule) => tracing::info!(%identity, rule, "connection closed"),
        End::Hub(code) => {
            tracing::info!(%identity, code = code.number(), reason = code.name(), "connection closed");
        }
    }
    connection.publish_will(end, worker);
    let in_order = matches!(end, End::Disconnect | End::Hub(ErrorCode::ServiceUnavailable));
    connection.ended(end, in_order);
}
