//! From the first byte to CONNACK: the CONNECT packet, who it is, whether it may.

use std::rc::Rc;
use std::time::Duration;

use dunlin_model::{ErrorCode, HubError};
use ntex::io::{Filter, Io};
use ntex::util::Either;
use ntex_mqtt::QoS;
use ntex_mqtt::error::DecodeError;
use ntex_mqtt::v3::codec::{
    Codec, Connect, ConnectAck, ConnectAckReason, Decoded, Encoded, Packet,
};

use super::connection::Connection;
use super::frame::Frames;
use super::topic::{self, Topic};
use super::{reason, username};
use crate::lobby::Waiting;
use crate::session::{Claimant, Credentials, DeviceSession};
use crate::table::Address;
use crate::tls::ClientCertificates;
use crate::worker::{Reservation, Worker};

// Where no error code says why: what MQTT calls it.
const PROTOCOL: &str = "UnacceptableProtocolVersion";
const CLIENT_ID: &str = "IdentifierRejected";
const NO_CONNECT: &str = "NoConnect";
const UNAVAILABLE: &str = "ServiceUnavailable";

/// Reads CONNECT and answers it. Fails with why it was refused, for metrics, once whatever answer
/// was due is given.
pub async fn open<F: Filter>(
    io: &Io<F>,
    worker: &Rc<Worker>,
    waiting: Waiting,
    wait: Duration,
) -> Result<(Rc<Connection>, Reservation), &'static str> {
    let first = tokio::time::timeout(wait, io.recv(&Frames { connect_only: true })).await;
    // Whoever sent a whole packet is no longer in anybody's way: what follows is the hub's to bound.
    drop(waiting);
    let connect = match first {
        Ok(Ok(Some(Decoded::Packet(Packet::Connect(connect), _)))) => connect,
        Ok(Err(Either::Left(DecodeError::UnsupportedProtocolLevel))) => {
            return refuse(io, ConnectAckReason::UnacceptableProtocolVersion, PROTOCOL);
        }
        // An empty ClientId names no device, with CleanSession=0 or 1 [MQTT-3.1.3-8], [-9].
        Ok(Err(Either::Left(DecodeError::InvalidClientId))) => {
            return refuse(io, ConnectAckReason::IdentifierRejected, CLIENT_ID);
        }
        Ok(other) => {
            tracing::debug!(error = ?other.err(), "no CONNECT");
            return Err(NO_CONNECT);
        }
        Err(_) => {
            tracing::debug!("no CONNECT within {wait:?}");
            return Err(NO_CONNECT);
        }
    };
    if connect.client_id.is_empty() {
        return refuse(io, ConnectAckReason::IdentifierRejected, CLIENT_ID);
    }
    // Nobody is authenticated for this: the device's next gateway will do that.
    if worker.is_draining() {
        return refuse(io, ConnectAckReason::ServiceUnavailable, UNAVAILABLE);
    }
    let reservation = worker.reserve();
    let certificates = || io.query::<ClientCertificates>().as_ref().map(|shown| shown.0.clone());
    let session = match authenticate(&connect, certificates, worker, reservation.key()).await {
        Ok(session) => session,
        Err(error) => {
            // A stranger's words, any secret or any number of lines, are not for the log: the
            // ClientId is named only where the user name names it too, as an id of this hub.
            let hostnames = &worker.gateway.hostnames;
            let name = connect.username.as_deref().unwrap_or_default();
            let named = username::parse(name, &connect.client_id, hostnames).is_ok();
            let client_id = if named { &*connect.client_id } else { "(none)" };
            tracing::info!(client_id, %error, "connection refused");
            return refuse(io, reason::connack(&error), error.code.name());
        }
    };
    let Connect { keep_alive, last_will, .. } = *connect;
    let connection = Connection::new(
        reservation.key(),
        io.get_ref(),
        session,
        keep_alive,
        last_will,
        worker.now(),
    );
    if !reservation.fill(&connection) {
        return refuse(io, ConnectAckReason::ServiceUnavailable, UNAVAILABLE);
    }
    // A session without a subscription is nothing that could be present.
    let present = !connection.session().subscriptions().is_empty();
    answer(io, ConnectAckReason::ConnectionAccepted, present);
    // Who has a stored subscription does not subscribe again.
    connection.look_for_commands(worker);
    Ok((connection, reservation))
}

async fn authenticate(
    connect: &Connect,
    certificates: impl FnOnce() -> Option<Vec<Vec<u8>>>,
    worker: &Rc<Worker>,
    key: u64,
) -> Result<DeviceSession, HubError> {
    let refused = |message| HubError::new(ErrorCode::IotHubUnauthorized, message);
    let name = connect.username.as_ref().ok_or_else(|| refused("CONNECT without a user name"))?;
    let gateway = &worker.gateway;
    let username = username::parse(name, &connect.client_id, &gateway.hostnames)?;
    // A certificate counts only where there is no token.
    let password = connect.password.as_deref().filter(|password| !password.is_empty());
    let credentials = match password {
        Some(password) => std::str::from_utf8(password)
            .map(|token| Credentials::SasToken(token.to_owned()))
            .map_err(|_| refused("the password is not a SAS token"))?,
        None => certificates().map(Credentials::Certificates).ok_or_else(|| {
            refused("CONNECT without a password, on a connection without a client certificate")
        })?,
    };
    if let Some(will) = &connect.last_will {
        if will.qos == QoS::ExactlyOnce {
            return Err(refused("the hub has no QoS 2, and so no will of QoS 2"));
        }
        let topic = topic::parse(&will.topic, &username.identity);
        if !matches!(topic, Some(Topic::Events { .. })) {
            return Err(refused("a will may only go to the device's own messages/events"));
        }
    }
    let address = Address { queue: worker.queue.clone(), key };
    let claimant = Claimant {
        identity: username.identity,
        credentials,
        address,
        clean_session: connect.clean_session,
        model_id: username.model_id,
    };
    // Boxed: this future would stay inlined in the connection's.
    Box::pin(gateway.open(claimant)).await
}

fn refuse<F: Filter, T>(
    io: &Io<F>,
    return_code: ConnectAckReason,
    why: &'static str,
) -> Result<T, &'static str> {
    answer(io, return_code, false);
    Err(why)
}

fn answer<F: Filter>(io: &Io<F>, return_code: ConnectAckReason, session_present: bool) {
    let ack = ConnectAck { return_code, session_present };
    let _ = io.encode(Encoded::Packet(Packet::ConnectAck(ack)), &Codec::new());
}
