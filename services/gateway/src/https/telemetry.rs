//! Telemetry over HTTPS: one message with its properties in headers, or a batch as JSON. Answered
//! when all of it is durable.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use dunlin_model::event::{SYSTEM_PREFIX, header as stored};
use dunlin_model::{ErrorCode, HubError, Identity, limits};
use dunlin_proto::v1::AuthenticateResponse;
use dunlin_storage::event_log::{Completion, Completions, Header, Token};
use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::gateway::Gateway;
use crate::metrics::Protocol;
use crate::session::Sender;

/// What marks a body as a batch.
const BATCH: &str = "application/vnd.microsoft.iothub.json";

const APPLICATION: &str = "iothub-app-";

/// Names of system properties as headers of a request, or in a batch, and what each becomes.
const SYSTEM: &[(&str, &str)] = &[
    ("iothub-messageid", stored::MESSAGE_ID),
    ("iothub-correlationid", stored::CORRELATION_ID),
    ("iothub-userid", stored::USER_ID),
    ("iothub-to", stored::TO),
    ("iothub-expiry", stored::ABSOLUTE_EXPIRY_TIME),
    ("iothub-ack", stored::ACK),
    ("iothub-contenttype", stored::CONTENT_TYPE),
    ("iothub-contentencoding", stored::CONTENT_ENCODING),
    ("iothub-creationtimeutc", stored::CREATION_TIME),
    ("iothub-creation-time-utc", stored::CREATION_TIME),
    ("iothub-messageschema", stored::MESSAGE_SCHEMA),
    ("iothub-operation", stored::OPERATION),
    ("iothub-interface-id", stored::INTERFACE_ID),
    ("dt-subject", stored::SUBJECT),
];

/// SDKs pad; who does not is understood as well.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How long the event log may take.
const STORED: Duration = Duration::from_secs(10);

struct Message<'a> {
    properties: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    body: Cow<'a, [u8]>,
}

/// Stores what a request carries. All of it is durable when this returns, or an error says that not
/// all of it is; nothing is stored of what is refused.
pub async fn send(
    gateway: &Gateway,
    id: &Identity,
    granted: &AuthenticateResponse,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), HubError> {
    let messages = if is_batch(headers) { batch(body)? } else { vec![single(headers, body)?] };
    let sender = Sender {
        identity: id,
        generation_id: &granted.generation_id,
        scope: granted.scope(),
        model_id: None,
    };
    let began = Instant::now();
    match tokio::time::timeout(STORED, store(gateway, sender, &messages)).await {
        Ok(true) => {
            gateway.metrics.durable(Protocol::Https, began.elapsed());
            Ok(())
        }
        Ok(false) => {
            Err(HubError::new(ErrorCode::ServerError, "not all could be stored: send it again"))
        }
        Err(_) => {
            let message = "the event log has no room, or is slow: send it again later";
            Err(HubError::new(ErrorCode::ServerBusy, message))
        }
    }
}

/// Whether all of it has become durable.
async fn store(gateway: &Gateway, sender: Sender<'_>, messages: &[Message<'_>]) -> bool {
    let (told, mut outcomes) = mpsc::unbounded_channel();
    let sink: Arc<dyn Completions> = Arc::new(Told(told));
    for (sequence, message) in (0..).zip(messages) {
        let token = Token { connection: 0, sequence };
        let append =
            || gateway.append(sender, message.headers(), &message.body, token, Some(&sink));
        while append().is_err() {
            gateway.events.writable().await;
        }
    }
    for _ in messages {
        if outcomes.recv().await != Some(true) {
            gateway.metrics.failed(1);
            return false;
        }
    }
    true
}

/// Passes on, of each record, whether it is durable.
struct Told(mpsc::UnboundedSender<bool>);

impl Completions for Told {
    fn complete(&self, batch: &[Completion]) {
        for completion in batch {
            // Nobody waits any more.
            let _ = self.0.send(completion.durable);
        }
    }
}

impl<'a> Message<'a> {
    /// Takes properties by their names on the wire. As in a property bag, of a system property that
    /// is given twice the first counts, and no application property may pass for one of the hub's.
    fn new(named: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>, body: Cow<'a, [u8]>) -> Self {
        let mut seen = [false; SYSTEM.len()];
        let mut properties = Vec::new();
        for (name, value) in named {
            let system = SYSTEM.iter().zip(&mut seen);
            let system = system.into_iter().find(|((wire, _), _)| wire.eq_ignore_ascii_case(&name));
            match system {
                // Where it is sent to, as SDKs say, is no property of it.
                Some(((_, stored::TO), _)) if value.ends_with("/messages/events") => {}
                Some((_, seen)) if *seen => {}
                Some(((_, header), seen)) => {
                    *seen = true;
                    properties.push((Cow::Borrowed(*header), value));
                }
                None => {
                    let (prefix, own) =
                        name.split_at_checked(APPLICATION.len()).unwrap_or_default();
                    if prefix.eq_ignore_ascii_case(APPLICATION)
                        && !own.is_empty()
                        && !own.starts_with(SYSTEM_PREFIX)
                    {
                        properties.push((Cow::Owned(own.to_owned()), value));
                    }
                }
            }
        }
        Self { properties, body }
    }

    fn headers(&self) -> impl Iterator<Item = Header<'_>> {
        self.properties.iter().map(|(name, value)| Header { name, value: Some(value) })
    }

    /// As MQTT counts it (`Bag::size`).
    fn check_size(self) -> Result<Self, HubError> {
        let names = self.properties.iter().filter(|(name, _)| !name.starts_with(SYSTEM_PREFIX));
        let names: usize = names.map(|(name, _)| name.len()).sum();
        let values: usize = self.properties.iter().map(|(_, value)| value.len()).sum();
        if self.body.len() + names + values > limits::D2C_MESSAGE_BYTES {
            let most = limits::D2C_MESSAGE_BYTES;
            let message = format!("a message has at most {most} bytes with its properties");
            return Err(HubError::new(ErrorCode::MessageTooLarge, message));
        }
        Ok(self)
    }
}

fn is_batch(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(BATCH.as_bytes())
}

fn single<'a>(headers: &'a HeaderMap, body: &'a [u8]) -> Result<Message<'a>, HubError> {
    let named =
        headers.iter().map(|(name, value)| (Cow::Borrowed(name.as_str()), text(value.as_bytes())));
    Message::new(named, Cow::Borrowed(body)).check_size()
}

/// A header's value: UTF-8, or what clients that know one byte a character make of it (Latin-1).
fn text(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => value.iter().map(|byte| char::from(*byte)).collect(),
    }
}

#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    body: Cow<'a, str>,
    #[serde(rename = "base64Encoded")]
    base64: Option<bool>,
    properties: Option<BTreeMap<String, String>>,
}

fn batch(json: &[u8]) -> Result<Vec<Message<'_>>, HubError> {
    let malformed = |message| HubError::new(ErrorCode::ArgumentInvalid, message);
    // Of what it skips, serde would not look whether it is UTF-8.
    let text = std::str::from_utf8(json)
        .map_err(|error| malformed(format!("the batch is not UTF-8: {error}")))?;
    let rows: Vec<&RawValue> = serde_json::from_str(text)
        .map_err(|error| malformed(format!("the batch is no JSON array: {error}")))?;
    if rows.is_empty() {
        return Err(malformed("a batch has a message at least".to_owned()));
    }
    let numbered = rows.into_iter().enumerate();
    numbered
        .map(|(at, row)| {
            message(row.get()).map_err(|why| malformed(format!("message {at} of the batch: {why}")))
        })
        .collect()
}

fn message(json: &str) -> Result<Message<'_>, String> {
    // serde would take a list as well, its elements for the members in their order.
    if !json.starts_with('{') {
        return Err("it is no object".to_owned());
    }
    let row: Row<'_> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let body = if row.base64 == Some(false) {
        row.body.into_owned().into_bytes()
    } else {
        BASE64.decode(row.body.as_bytes()).map_err(|error| {
            format!(
                "the body is not base64 ({error}): where it is text, say \"base64Encoded\": false"
            )
        })?
    };
    let properties = row.properties.unwrap_or_default().into_iter();
    let named = properties.map(|(name, value)| (Cow::Owned(name), Cow::Owned(value)));
    // It is smaller than the batch, which was looked at.
    Ok(Message::new(named, Cow::Owned(body)))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn shown(message: &Message<'_>) -> Vec<String> {
        message.properties.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    fn headers(pairs: &[(&str, &[u8])]) -> HeaderMap {
        let pair = |(name, value): &(&str, &[u8])| {
            let name = HeaderName::try_from(*name).expect("a name");
            (name, HeaderValue::from_bytes(value).expect("a value"))
        };
        let mut map = HeaderMap::new();
        for (name, value) in pairs.iter().map(pair) {
            map.append(name, value);
        }
        map
    }

    #[test]
    fn every_sdks_headers_are_understood() {
        #[track_caller]
        fn check(pairs: &[(&str, &[u8])], want: &[&str]) {
            let headers = headers(pairs);
            let message = single(&headers, b"x").expect("a message");
            assert_eq!(shown(&message), want);
        }
        for (wire, header) in SYSTEM {
            check(&[(wire, b"v")], &[&format!("{header}=v")]);
            check(&[(&wire.to_uppercase(), b"v")], &[&format!("{header}=v")]);
        }
        check(&[("iothub-app-Colour", b"red"), ("iothub-app-a", b"")], &["colour=red", "a="]);
        check(
            &[("iothub-to", b"/devices/d/messages/events"), ("iothub-to", b"elsewhere")],
            &["$.to=elsewhere"],
        );
        check(&[("iothub-messageid", b"1"), ("iothub-messageid", b"2")], &["$.message-id=1"]);
        check(&[("iothub-app-u", "gr\u{fc}n".as_bytes())], &["u=gr\u{fc}n"]);
        check(&[("iothub-app-u", b"gr\xfcn")], &["u=gr\u{fc}n"]);
        check(
            &[
                ("iothub-app-$.iothub-connection-device-id", b"other"),
                ("iothub-connection-device-id", b"other"),
                ("iothub-app-", b"x"),
                ("iothub-unknown", b"x"),
                ("content-type", b"text/plain"),
                ("authorization", b"secret"),
            ],
            &[],
        );
    }

    #[test]
    fn a_batch_is_taken_whole_or_not() {
        let json = br#"[
            {"body":"YWI=","properties":{"iothub-app-Colour":"red","IOTHUB-MESSAGEID":"1"}},
            {"body":"YWI"},
            {"body":"ab","base64Encoded":false,"properties":{},"other":1},
            {"body":"YWI=","base64Encoded":null,"properties":null}
        ]"#;
        let messages = batch(json).expect("a batch");
        assert!(messages.iter().all(|message| *message.body == *b"ab"));
        assert_eq!(shown(&messages[0]), ["$.message-id=1", "Colour=red"]);
        assert!(messages[1..].iter().all(|message| message.properties.is_empty()));
        for bad in [
            "",
            "{}",
            "[]",
            "[1]",
            "[{}]",
            r#"[["YWI=",null,null]]"#,
            r#"[{"body":"YWI=","body":"YWI="}]"#,
            r#"[{"body":"","properties":[["iothub-app-a","1"]]}]"#,
            r#"[{"body":null}]"#,
            r#"[{"body":1}]"#,
            r#"[{"body":"a b"}]"#,
            r#"[{"body":"YQ=="},{"body":"?"}]"#,
            r#"[{"body":"","base64Encoded":"no"}]"#,
            r#"[{"body":"","properties":[]}]"#,
            r#"[{"body":"","properties":{"iothub-app-a":1}}]"#,
            r#"[{"body":""}]x"#,
        ] {
            let error = batch(bad.as_bytes()).map(|messages| messages.len()).expect_err(bad);
            assert_eq!(error.code, ErrorCode::ArgumentInvalid, "{bad}");
        }
        assert!(batch(b"[{\"body\":\"\",\"other\":\"\xff\"}]").is_err());
        let deep = "[".repeat(100_000);
        for bad in [format!("[{deep}"), format!("[{{\"body\":\"\",\"other\":{deep}")] {
            assert!(batch(bad.as_bytes()).is_err());
        }
    }

    #[test]
    fn properties_count_against_the_limit() {
        let headers = headers(&[("iothub-messageid", b"12345"), ("iothub-app-name", b"value")]);
        let room = limits::D2C_MESSAGE_BYTES - 5 - 9;
        assert!(single(&headers, &vec![0; room]).is_ok());
        let error = single(&headers, &vec![0; room + 1]).map(|_| ()).expect_err("too large");
        assert_eq!(error.code, ErrorCode::MessageTooLarge);
    }

    #[test]
    fn a_batch_is_known_by_its_content_type() {
        for (kind, want) in [
            (BATCH, true),
            ("Application/vnd.microsoft.IoTHub.json ; charset=utf-8", true),
            ("application/json", false),
            ("application/vnd.microsoft.iothub.jsonx", false),
        ] {
            assert_eq!(is_batch(&headers(&[("content-type", kind.as_bytes())])), want, "{kind}");
        }
        assert!(!is_batch(&HeaderMap::new()));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = batch(&bytes);
            let _ = text(&bytes);
        }

        #[test]
        fn what_is_taken_of_a_batch_is_no_more_than_it_says(
            edits in proptest::collection::vec((any::<Index>(), any::<bool>(), any::<u8>()), 0..4),
        ) {
            let mut json = br#"[{"body":"YWI=","properties":{"iothub-app-$.a":"1","dt-subject":"s"}},
                {"body":"ab","base64Encoded":false},{"body":"","properties":null}]"#.to_vec();
            for (at, replaced, byte) in edits {
                let at = at.index(json.len());
                if replaced {
                    json[at] = byte;
                } else {
                    json.remove(at);
                }
            }
            let Ok(messages) = batch(&json) else { return Ok(()) };
            prop_assert!(messages.iter().map(|message| message.body.len()).sum::<usize>() < json.len());
            let names = messages.iter().flat_map(|message| &message.properties).map(|(name, _)| name);
            for name in names.filter(|name| name.starts_with(SYSTEM_PREFIX)) {
                prop_assert!(SYSTEM.iter().any(|(_, header)| header == name), "{name}");
            }
        }
    }
}
