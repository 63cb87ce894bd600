//! One event as JSON, in the shape `az iot hub monitor-events` prints.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dunlin_model::event::{Event, SYSTEM_PREFIX, header};
use serde_json::{Map, Value, json};

pub(super) fn event(event: &Event) -> Value {
    let (mut annotations, mut system) = (Map::new(), Map::new());
    for property in event.system_properties() {
        let name = property.name.strip_prefix(SYSTEM_PREFIX).unwrap_or(&property.name);
        // As on AMQP: what the hub or a plug-and-play device says of a message annotates it, what
        // AMQP knows itself is a property.
        let place = if name.starts_with("iothub-") || name.starts_with("dt-") {
            &mut annotations
        } else {
            &mut system
        };
        place.insert(name.to_owned(), property.value.clone().into());
    }
    annotations.insert("iothub-enqueuedtime".to_owned(), event.enqueued.into());
    let application: Map<_, _> = event
        .application_properties()
        .map(|property| (property.name.clone(), property.value.clone().into()))
        .collect();
    let origin = match event.header(header::CONNECTION_DEVICE_ID) {
        Some(device) => device.into(),
        None => String::from_utf8_lossy(&event.key),
    };
    let enqueued = jiff::Timestamp::from_millisecond(event.enqueued).unwrap_or_default();
    let mut shown = json!({
        "origin": origin,
        "module": event.header(header::CONNECTION_MODULE_ID).unwrap_or_default(),
        "partition": event.partition,
        "offset": event.offset,
        // Always milliseconds: times then sort as text.
        "enqueued": format!("{enqueued:.3}"),
        "annotations": annotations,
        "properties": {"system": system, "application": application},
        "payload_base64": STANDARD.encode(&event.body),
    });
    if let Some(payload) = payload(event) {
        shown["payload"] = payload;
    }
    json!({ "event": shown })
}

/// The body as JSON where it says it is and is, else as text where it is that.
fn payload(event: &Event) -> Option<Value> {
    let content_type = event.header(header::CONTENT_TYPE).unwrap_or_default();
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json")
        && let Ok(value) = serde_json::from_slice(&event.body)
    {
        return Some(value);
    }
    std::str::from_utf8(&event.body).ok().map(Value::from)
}

#[cfg(test)]
mod tests {
    use dunlin_model::event::Property;

    use super::*;

    fn made(headers: &[(&str, Option<&str>)], body: &[u8]) -> Event {
        Event {
            partition: 3,
            offset: 42,
            enqueued: 1_489_442_989_100,
            key: b"d".to_vec(),
            headers: headers
                .iter()
                .map(|(name, value)| Property {
                    name: (*name).to_owned(),
                    value: value.map(str::to_owned),
                })
                .collect(),
            body: body.to_vec(),
        }
    }

    #[test]
    fn every_property_has_its_place() {
        let made = made(
            &[
                (header::MESSAGE_ID, Some("m1")),
                (header::CONNECTION_DEVICE_ID, Some("d")),
                (header::CONNECTION_MODULE_ID, Some("m")),
                (header::SUBJECT, Some("thermostat")),
                (header::ENQUEUED_TIME, Some("whatever")),
                ("level", Some("storage")),
                ("flag", None),
            ],
            b"hi",
        );
        let want = json!({"event": {
            "origin": "d",
            "module": "m",
            "partition": 3,
            "offset": 42,
            "enqueued": "2017-03-13T22:09:49.100Z",
            "annotations": {
                "iothub-connection-device-id": "d",
                "iothub-connection-module-id": "m",
                "dt-subject": "thermostat",
                "iothub-enqueuedtime": 1_489_442_989_100_i64,
            },
            "properties": {
                "system": {"message-id": "m1"},
                "application": {"level": "storage", "flag": null},
            },
            "payload": "hi",
            "payload_base64": "aGk=",
        }});
        assert_eq!(event(&made), want);
    }

    #[test]
    fn a_payload_is_json_only_where_it_says_so() {
        #[track_caller]
        fn check(content_type: &str, body: &[u8], want: Option<Value>) {
            let made = made(&[(header::CONTENT_TYPE, Some(content_type))], body);
            assert_eq!(event(&made)["event"].get("payload"), want.as_ref());
        }
        check("application/json", br#"{"a":1}"#, Some(json!({"a": 1})));
        check("Application/JSON; charset=utf-8", b"[1]", Some(json!([1])));
        check("application/json", b"{", Some(json!("{")));
        check("text/plain", b"{}", Some(json!("{}")));
        check("application/json", b"\xff", None);
        check("application/json", b"", Some(json!("")));
        let deep = "[".repeat(100_000);
        check("application/json", deep.as_bytes(), Some(json!(deep)));
    }
}
