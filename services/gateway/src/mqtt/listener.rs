//! One MQTT connection from accept to close.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use ntex::io::{Base, Io, Layer};
use rustls::ServerConfig;

use super::connect;
use super::connection::{Connection, End};
use crate::Timeouts;
use crate::lobby::{Seat, Waiting};
use crate::tls::{self, TlsFilter};
use crate::worker::{Reservation, Worker};

type TlsIo = Io<Layer<TlsFilter, Base>>;

/// Serves one connection to its end.
pub async fn serve(
    io: Io,
    worker: Rc<Worker>,
    (_seat, waiting): (Seat, Waiting),
    tls: Arc<ServerConfig>,
    timeouts: Timeouts,
) {
    // Boxed and dropped before the connection settles: an idle device keeps only what follows.
    let opened = Box::pin(open(io, &worker, waiting, tls, timeouts)).await;
    let Some((io, connection, reservation)) = opened else {
        return;
    };
    let end = poll_fn(|cx| connection.poll(&io, &worker, cx)).await;
    close(&connection, end, &worker);
    drop(reservation);
    drop(connection);
    // Says close_notify; the socket goes with `io`. Nothing is left to do if the peer is gone.
    let _ = io.shutdown().await;
}

async fn open(
    io: Io,
    worker: &Rc<Worker>,
    waiting: Waiting,
    tls: Arc<ServerConfig>,
    timeouts: Timeouts,
) -> Option<(TlsIo, Rc<Connection>, Reservation)> {
    let handshake = tokio::time::timeout(timeouts.tls_handshake, tls::accept(io, tls));
    let io = handshake.await.ok()?.ok()?;
    match connect::open(&io, worker, waiting, timeouts.mqtt_connect).await {
        Some((connection, reservation)) => Some((io, connection, reservation)),
        None => {
            // Lets the CONNACK out before the socket closes.
            let _ = io.shutdown().await;
            None
        }
    }
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
}
