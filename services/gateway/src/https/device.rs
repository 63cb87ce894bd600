//! The HTTPS device API: which requests are a device's, and the way of one to its answer. Each is
//! authenticated on its own and leaves nothing behind.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Query;
use bytes::Bytes;
use dunlin_model::{ErrorCode, HubError, Identity, api_version, limits};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use tonic::body::Body;

use super::watch::{Spoiled, Timely};
use super::{commands, status, telemetry};
use crate::gateway::Gateway;

/// Of each answer to a device.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");

/// A path of the device API, below `/devices/{d}[/modules/{m}]/messages`.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    device: String,
    module: Option<String>,
    place: Place,
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// `events`: telemetry.
    Events,
    /// `deviceBound`: the first C2D message.
    Queue,
    /// `deviceBound/{lock}`: one that was received.
    Locked(String),
    /// `deviceBound/{lock}/abandon`.
    Abandon(String),
}

/// What of a path is the device API's. Everything else is the REST API's.
pub fn target(uri: &Uri) -> Option<Target> {
    let segments: Vec<&str> = uri.path().strip_prefix('/')?.split('/').collect();
    let (device, module, rest) = match segments.as_slice() {
        ["devices", device, "modules", module, rest @ ..] => (device, Some(module), rest),
        ["devices", device, rest @ ..] => (device, None, rest),
        _ => return None,
    };
    // SDKs write deviceBound in several ways.
    let is = |segment: &str, name: &str| segment.eq_ignore_ascii_case(name);
    let place = match rest {
        [messages, events] if is(messages, "messages") && is(events, "events") => Place::Events,
        [messages, bound, rest @ ..] if is(messages, "messages") && is(bound, "devicebound") => {
            match rest {
                [] => Place::Queue,
                [lock] => Place::Locked(decoded(lock)),
                [lock, abandon] if is(abandon, "abandon") => Place::Abandon(decoded(lock)),
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(Target { device: decoded(device), module: module.map(|module| decoded(module)), place })
}

/// What is no UTF-8 is no id and no lock either, and is refused as such.
fn decoded(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

impl Place {
    /// The one that it takes.
    fn method(&self) -> &'static str {
        match self {
            Self::Queue => "GET",
            Self::Locked(_) => "DELETE",
            Self::Events | Self::Abandon(_) => "POST",
        }
    }
}

impl Target {
    /// What it is for metrics and traces, and its route.
    pub fn operation(&self) -> (&'static str, &'static str) {
        match self.place {
            Place::Events => ("events", "/devices/{id}/messages/events"),
            Place::Queue => ("receive", "/devices/{id}/messages/devicebound"),
            Place::Locked(_) => ("settle", "/devices/{id}/messages/devicebound/{lock}"),
            Place::Abandon(_) => ("abandon", "/devices/{id}/messages/devicebound/{lock}/abandon"),
        }
    }

    pub fn identity(&self) -> Result<Identity, HubError> {
        match &self.module {
            Some(module) => Identity::module(&self.device, module),
            None => Identity::device(&self.device),
        }
    }
}

/// Answers a request of a device. `shown`: the client's certificates. `patience`: for its body.
pub async fn serve(
    request: Request<Incoming>,
    target: Target,
    gateway: Arc<Gateway>,
    shown: Option<Arc<Vec<Vec<u8>>>>,
    patience: Duration,
) -> Response<Body> {
    let shown = shown.as_ref().map(|shown| shown.as_slice());
    let answer = answer(request, &target, &gateway, shown, patience).await;
    let tracking_id = status::tracking_id();
    let mut response = answer.unwrap_or_else(|error| {
        if error.retryable() {
            tracing::warn!(tracking_id, device = target.device, %error, "a device's request failed");
        }
        status::response(&error, &tracking_id)
    });
    let headers = response.headers_mut();
    headers.extend(HeaderValue::try_from(tracking_id).map(|id| (REQUEST_ID, id)));
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = HeaderValue::from_static(target.place.method());
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

async fn answer(
    request: Request<Incoming>,
    target: &Target,
    gateway: &Arc<Gateway>,
    shown: Option<&[Vec<u8>]>,
    patience: Duration,
) -> Result<Response<Body>, HubError> {
    let (head, body) = request.into_parts();
    let Ok(Query(query)) = Query::<HashMap<String, String>>::try_from_uri(&head.uri) else {
        return Err(HubError::new(ErrorCode::ArgumentInvalid, "the query is malformed"));
    };
    api_version::check(query.get("api-version").map(String::as_str))?;
    let id = target.identity()?;
    let granted = gateway.sender(&id, &head.headers, shown).await?;
    match (&target.place, &head.method) {
        (Place::Events, &Method::POST) => {
            let body = read(&head, body, patience).await?;
            telemetry::send(gateway, &id, &granted, &head.headers, &body).await?;
        }
        (Place::Queue, &Method::GET) => return commands::receive(gateway, &id).await,
        (Place::Locked(lock), &Method::DELETE) => {
            commands::complete_or_reject(gateway, &id, lock, &query).await?;
        }
        (Place::Abandon(lock), &Method::POST) => commands::abandon(gateway, &id, lock).await?,
        (place, _) => {
            let message = format!("this path of a device takes {} only", place.method());
            return Err(HubError::new(ErrorCode::GenericMethodNotAllowed, message));
        }
    }
    Ok(no_content())
}

pub(super) fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// A whole body, which is no longer than a message may be.
async fn read(
    head: &request::Parts,
    body: Incoming,
    patience: Duration,
) -> Result<Bytes, HubError> {
    let too_large = || {
        let most = limits::D2C_MESSAGE_BYTES;
        let message = format!("a message, or a batch of them, has at most {most} bytes");
        HubError::new(ErrorCode::MessageTooLarge, message)
    };
    let length = head.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|text| text.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limits::D2C_MESSAGE_BYTES) {
        return Err(too_large());
    }
    let body = Timely::new(body, patience, Spoiled::default());
    match Limited::new(body, limits::D2C_MESSAGE_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(HubError::new(ErrorCode::ArgumentInvalid, status::SPOILED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_of_a_device_are_taken_from_the_rest_api() {
        #[track_caller]
        fn check(path: &str, want: Option<(&str, Option<&str>, Place)>) {
            let got = target(&path.parse().expect("a uri"));
            let want = want.map(|(device, module, place)| Target {
                device: device.to_owned(),
                module: module.map(str::to_owned),
                place,
            });
            assert_eq!(got, want, "{path}");
        }
        let lock = || "a-b".to_owned();
        check("/devices/d/messages/events?api-version=1", Some(("d", None, Place::Events)));
        check("/devices/a%2Bb/messages/events", Some(("a+b", None, Place::Events)));
        check("/devices/d%2Fm/messages/events", Some(("d/m", None, Place::Events)));
        check("/devices/d/modules/m/messages/events", Some(("d", Some("m"), Place::Events)));
        check("/devices/d/messages/deviceBound", Some(("d", None, Place::Queue)));
        check("/devices/d/messages/devicebound", Some(("d", None, Place::Queue)));
        check("/devices/d/messages/DeviceBound/a-b", Some(("d", None, Place::Locked(lock()))));
        check(
            "/devices/d/messages/devicebound/a%2Db/abandon",
            Some(("d", None, Place::Abandon(lock()))),
        );
        check("/devices/modules/messages/events", Some(("modules", None, Place::Events)));
        for rest in [
            "/devices/d",
            "/devices/d/commands",
            "/devices/d/modules/m",
            "/devices/d/messages",
            "/devices/d/messages/events/x",
            "/devices/d/messages/devicebound/a/complete",
            "/devices/d/messages/devicebound/a/abandon/b",
            "/dunlin/v1/devices/d/messages/devicebound",
            "/devices//d/messages/events",
            "/messages/events",
            "/",
        ] {
            check(rest, None);
        }
        assert!(target(&Uri::from_static("*")).is_none());
    }

    #[test]
    fn a_slash_in_a_device_id_names_no_module() {
        let uri = Uri::from_static("/devices/d%2Fm/messages/events");
        assert!(target(&uri).expect("a target").identity().is_err());
    }
}
