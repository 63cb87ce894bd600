//! C2D messages over HTTPS: one a request, under a lock that the device names when it is done.

use std::collections::HashMap;

use bytes::Bytes;
use dunlin_model::{ErrorCode, HubError, Identity};
use dunlin_proto::v1::{Disposition, LeasedCommand};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body_util::Full;
use percent_encoding::utf8_percent_encode;
use tonic::body::Body;

use super::device::no_content;
use super::spelling;
use crate::commands::{ENCODED, ack, time};
use crate::gateway::Gateway;

/// The first message, or 204: nobody waits here for one.
pub async fn receive(gateway: &Gateway, id: &Identity) -> Result<Response<Body>, HubError> {
    // Modules have no queue.
    let leased = match id.module_id() {
        Some(_) => Vec::new(),
        None => gateway.lease_commands(id, 0, 1).await?.commands,
    };
    match leased.into_iter().next() {
        Some(leased) => Ok(message(id, leased).await),
        None => Ok(no_content()),
    }
}

async fn message(id: &Identity, leased: LeasedCommand) -> Response<Body> {
    let (mut headers, mut spelled) = (HeaderMap::new(), Vec::new());
    let mut put = |name: &str, value: &str| {
        // What no header can carry is left out: a message must not block the queue for it.
        match (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) {
            (Ok(header), Ok(value)) => {
                headers.append(header, value);
                spelled.push(name.to_owned());
            }
            _ => tracing::debug!(identity = %id, name, "a property fits no HTTP header"),
        }
    };
    let LeasedCommand { command, lock_token, sequence, delivery_count, enqueued } = leased;
    let command = command.unwrap_or_default();
    let to = utf8_percent_encode(id.device_id(), ENCODED);
    put("ETag", &format!("\"{lock_token}\""));
    put("iothub-to", &format!("/devices/{to}/messages/deviceBound"));
    put("iothub-sequencenumber", &sequence.to_string());
    put("iothub-deliverycount", &delivery_count.to_string());
    let texts = [
        ("iothub-enqueuedtime", time(enqueued)),
        ("iothub-expiry", command.expires.and_then(time)),
        ("iothub-ack", ack(command.ack()).map(str::to_owned)),
        ("iothub-messageid", command.message_id),
        ("iothub-correlationid", command.correlation_id),
        ("iothub-userid", command.user_id),
        // The C SDK reads the bare names.
        ("ContentType", command.content_type.clone()),
        ("ContentEncoding", command.content_encoding.clone()),
        ("iothub-contenttype", command.content_type),
        ("iothub-contentencoding", command.content_encoding),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            put(name, &value);
        }
    }
    for property in &command.properties {
        put(&format!("iothub-app-{}", property.name), &property.value);
    }
    let mut response = Response::new(Body::new(Full::new(Bytes::from(command.body))));
    *response.headers_mut() = headers;
    *response.extensions_mut() = spelling::of(&spelled).await;
    response
}

/// `DELETE`: done, or refused for good where the query says `reject`, which the Java SDK writes
/// `?reject`.
pub async fn complete_or_reject(
    gateway: &Gateway,
    id: &Identity,
    lock: &str,
    query: &HashMap<String, String>,
) -> Result<(), HubError> {
    let rejected = query.contains_key("reject") || query.contains_key("?reject");
    let disposition = if rejected { Disposition::Reject } else { Disposition::Complete };
    settle(gateway, id, lock, disposition).await
}

/// Back into the queue.
pub async fn abandon(gateway: &Gateway, id: &Identity, lock: &str) -> Result<(), HubError> {
    settle(gateway, id, lock, Disposition::Abandon).await
}

async fn settle(
    gateway: &Gateway,
    id: &Identity,
    lock: &str,
    disposition: Disposition,
) -> Result<(), HubError> {
    let settled = match id.module_id() {
        Some(_) => Vec::new(),
        None => gateway.settle_commands(id, 0, vec![lock.to_owned()], disposition).await?,
    };
    if settled.first() == Some(&true) {
        return Ok(());
    }
    let message = "there is no message under this lock: it was settled, or its time is over and it comes again";
    Err(HubError::new(ErrorCode::DeviceMessageLockLost, message))
}
