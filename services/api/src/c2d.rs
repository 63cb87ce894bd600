//! C2D messages: `POST /dunlin/v1/devices/{id}/messages/devicebound` sends one, with the headers that
//! the HTTPS device API has for messages; `DELETE /devices/{id}/commands` empties a queue.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use dunlin_model::command::Ack;
use dunlin_model::{Command, ErrorCode, Identity};
use dunlin_proto::v1;
use dunlin_proto::v1::c2d_client::C2dClient;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::MeshChannel;
use percent_encoding::percent_decode_str;
use serde_json::json;

use crate::error::{ApiError, JSON};
use crate::named::Named;
use crate::routes::Routes;

type C2d = State<C2dClient<MeshChannel>>;
type Answer = Result<Response, ApiError>;

/// Before the name of an application property, which HTTP gives in small letters.
const APPLICATION: &str = "iothub-app-";

/// Application properties as a property bag has them, `name=value&name=value`, percent-encoded: for
/// names whose letter case matters.
const PROPERTIES: &str = "dunlin-properties";

pub(crate) fn routes(registry: RegistryClient<MeshChannel>, c2d: C2dClient<MeshChannel>) -> Routes {
    Routes::new(registry)
        .on(Method::POST, "/dunlin/v1/devices/{id}/messages/devicebound", send)
        .on(Method::DELETE, "/devices/{id}/commands", purge)
        .with_state(c2d)
}

async fn send(
    State(mut c2d): C2d,
    Named(id): Named,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let command = command(&headers, body?.to_vec())?;
    let request =
        v1::SendCommandRequest { device_id: id.as_str().to_owned(), command: Some(command.into()) };
    let v1::SendCommandResponse { message_id } = c2d.send_command(request).await?.into_inner();
    Ok(answer(json!({ "messageId": message_id })))
}

async fn purge(State(mut c2d): C2d, Named(id): Named) -> Answer {
    let request = v1::PurgeCommandsRequest { device_id: id.as_str().to_owned() };
    let v1::PurgeCommandsResponse { purged } = c2d.purge_commands(request).await?.into_inner();
    Ok(answer(json!({
        "totalMessagesPurged": purged, "deviceId": id.device_id(), "moduleId": null,
    })))
}

/// Messages that wait for a device; modules have none.
pub(crate) async fn queued(
    mut c2d: C2dClient<MeshChannel>,
    id: &Identity,
) -> Result<u32, ApiError> {
    if id.module_id().is_some() {
        return Ok(0);
    }
    let request = v1::CountCommandsRequest { device_id: id.as_str().to_owned() };
    Ok(c2d.count_commands(request).await?.into_inner().count)
}

fn answer(body: serde_json::Value) -> Response {
    ([(header::CONTENT_TYPE, JSON)], body.to_string()).into_response()
}

/// What is in the headers; the role `c2d` judges it.
fn command(headers: &HeaderMap, body: Vec<u8>) -> Result<Command, ApiError> {
    let system = |name: &str| headers.get(name).map(|value| text(name, value)).transpose();
    let ack = match system("iothub-ack")? {
        None => Ack::None,
        Some(name) => Ack::parse(&name)
            .ok_or_else(|| invalid("iothub-ack is one of none, positive, negative and full"))?,
    };
    let expires = system("iothub-expiry")?.map(|time| match time.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(time.as_millisecond()),
        Err(_) => Err(invalid("iothub-expiry is a time as 2026-01-31T12:00:00Z")),
    });
    let mut properties = match system(PROPERTIES)? {
        Some(bag) => bag.split('&').filter(|pair| !pair.is_empty()).map(pair).collect(),
        None => Ok(Vec::new()),
    }?;
    for (name, value) in headers {
        if let Some(property) = name.as_str().strip_prefix(APPLICATION) {
            properties.push((property.to_owned(), text(name.as_str(), value)?));
        }
    }
    Ok(Command {
        message_id: system("iothub-messageid")?,
        correlation_id: system("iothub-correlationid")?,
        user_id: system("iothub-userid")?,
        content_type: system("iothub-contenttype")?,
        content_encoding: system("iothub-contentencoding")?,
        expires: expires.transpose()?,
        ack,
        properties,
        body,
    })
}

fn text(name: &str, value: &HeaderValue) -> Result<String, ApiError> {
    let text = std::str::from_utf8(value.as_bytes());
    Ok(text.map_err(|_| invalid(format!("{name} is not UTF-8")))?.to_owned())
}

fn pair(pair: &str) -> Result<(String, String), ApiError> {
    let decoded = |part: &str| {
        let text = percent_decode_str(part).decode_utf8();
        text.map(|text| text.into_owned())
            .map_err(|_| invalid(format!("{PROPERTIES} is not UTF-8")))
    };
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    Ok((decoded(name)?, decoded(value)?))
}

fn invalid(why: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::ArgumentInvalid, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&'static str, &[u8])]) -> Result<Command, String> {
        let pairs = headers.iter().map(|(name, value)| {
            (name.parse().expect("a name"), HeaderValue::from_bytes(value).expect("a value"))
        });
        let headers: HeaderMap = pairs.fold(HeaderMap::new(), |mut map, (name, value)| {
            let _: bool = map.append::<axum::http::HeaderName>(name, value);
            map
        });
        command(&headers, b"body".to_vec()).map_err(|ApiError(error)| {
            assert_eq!(error.code, ErrorCode::ArgumentInvalid);
            error.message
        })
    }

    #[test]
    fn headers_become_properties() {
        let bare = Command { body: b"body".to_vec(), ..Command::default() };
        assert_eq!(read(&[("content-type", b"x"), ("iothub-to", b"x")]), Ok(bare.clone()));
        let text = |text: &str| Some(text.to_owned());
        let all = read(&[
            ("IoTHub-MessageId", b"m"),
            ("iothub-correlationid", b"c"),
            ("iothub-userid", "ü".as_bytes()),
            ("iothub-contenttype", b"text/plain"),
            ("iothub-contentencoding", b"utf-8"),
            ("iothub-expiry", b"2026-01-31T12:00:00.5Z"),
            ("iothub-ack", b"Full"),
            ("iothub-app-Colour", "grün".as_bytes()),
            ("iothub-app-empty", b""),
            ("dunlin-properties", b"Aa=%C3%A4%26+1&&b=&c&d=e=f"),
        ]);
        let pairs =
            [("Aa", "ä&+1"), ("b", ""), ("c", ""), ("d", "e=f"), ("colour", "grün"), ("empty", "")];
        let want = Command {
            message_id: text("m"),
            correlation_id: text("c"),
            user_id: text("ü"),
            content_type: text("text/plain"),
            content_encoding: text("utf-8"),
            expires: Some(1_769_860_800_500),
            ack: Ack::Full,
            properties: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            ..bare
        };
        assert_eq!(all, Ok(want));
    }

    #[test]
    fn strange_headers_are_refused() {
        for (name, value, says) in [
            ("iothub-ack", &b"maybe"[..], "iothub-ack"),
            ("iothub-ack", b"", "iothub-ack"),
            ("iothub-expiry", b"tomorrow", "iothub-expiry"),
            ("iothub-expiry", b"1769860800000", "iothub-expiry"),
            ("iothub-expiry", b"2026-01-31T12:00:00", "iothub-expiry"),
            ("iothub-messageid", b"\xff", "iothub-messageid"),
            ("iothub-app-x", b"\xc0\x80", "iothub-app-x"),
            ("dunlin-properties", b"a=%ff", "dunlin-properties"),
        ] {
            let error = read(&[(name, value)]).expect_err(name);
            assert!(error.contains(says), "{error}");
        }
    }
}
