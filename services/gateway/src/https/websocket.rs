//! MQTT over WebSocket: the handshake, and the way from there to the MQTT head.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use dunlin_model::{ErrorCode, HubError};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use ntex::io::{Filter, Io};
use percent_encoding::percent_decode_str;
use tonic::body::Body;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::handshake::server::create_response_with_body;
use tungstenite::protocol::frame::coding::CloseCode;

use super::frames::WsFilter;
use super::status;
use crate::lobby::{Seat, Waiting};
use crate::metrics::Protocol;
use crate::mqtt::{self, End};
use crate::worker::Worker;

const PATH: &[u8] = b"/$iothub/websocket";

/// Whether it is for here, whatever its query: SDKs send some that mean nothing to the hub.
pub fn is_asked(request: &Request<impl hyper::body::Body>) -> bool {
    percent_decode_str(request.uri().path()).eq(PATH.iter().copied())
}

/// The answer to a handshake; 101: the connection is a WebSocket from here on.
pub fn answer(request: &Request<impl hyper::body::Body>) -> Response<Body> {
    if request.method() != Method::GET {
        let mut response = refuse("a WebSocket handshake is a GET");
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    if !request.body().is_end_stream() {
        return refuse("a WebSocket handshake has no body");
    }
    let mut response = match create_response_with_body(request, Body::empty) {
        Ok(response) => response,
        Err(Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader)) => {
            return upgrade_required();
        }
        Err(error) => return refuse(&format!("devices connect here by WebSocket: {error}")),
    };
    let Some(subprotocol) = subprotocol(request) else {
        return refuse(
            "the hub speaks the WebSocket subprotocol mqtt: ask for it in \
                       Sec-WebSocket-Protocol",
        );
    };
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    response
}

/// The first of what the client offers that the hub speaks, as the client wrote it: some compare.
fn subprotocol<B>(request: &Request<B>) -> Option<HeaderValue> {
    let lines = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mut offers = lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let spoken = offers.find(|offer| offer.trim_ascii().eq_ignore_ascii_case(b"mqtt"))?;
    HeaderValue::from_bytes(spoken.trim_ascii()).ok()
}

fn refuse(message: &str) -> Response<Body> {
    let error = HubError::new(ErrorCode::ArgumentInvalid, message);
    status::response(&error, &status::tracking_id())
}

fn upgrade_required() -> Response<Body> {
    let mut response = refuse("the hub speaks version 13 of WebSocket");
    *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
    let headers = response.headers_mut();
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

/// Serves a connection after its handshake to its end. `early`: what has been read of it already.
pub async fn serve<F: Filter>(
    io: Io<F>,
    early: Bytes,
    worker: Rc<Worker>,
    (_seat, waiting): (Seat, Waiting),
    wait: Duration,
) {
    put_back(&io, early);
    let io = io.add_filter(WsFilter::new());
    // What the filter says to frames that were there before it, ntex does not write. A connection
    // that has gone is found out below.
    let _ = io.flush(false).await;
    let end = mqtt::run(&io, &worker, Protocol::MqttWebSocket, waiting, wait).await;
    io.filter().set_code(close_code(end));
    let _ = io.shutdown().await;
}

/// Drops `early`, which, though empty as a rule, holds hyper's buffer.
fn put_back<F: Filter>(io: &Io<F>, early: Bytes) {
    if !early.is_empty() {
        io.with_read_buf(|unread| {
            let later = unread.take();
            unread.extend_from_slice(&early);
            unread.extend_from_slice(&later);
        });
    }
}

/// `None`: the connection was refused, which CONNACK tells better.
fn close_code(end: Option<End>) -> CloseCode {
    match end {
        Some(End::Disconnect | End::Lost) => CloseCode::Normal,
        Some(End::Hub(ErrorCode::ServiceUnavailable)) => CloseCode::Away,
        Some(End::Hub(ErrorCode::ServerError)) => CloseCode::Error,
        None | Some(End::Hub(_) | End::Violation(_)) => CloseCode::Policy,
    }
}
