//! The topic of a C2D message, which carries its properties: what all official SDKs can take apart
//! (docs/mqtt.md). The C# SDK ends its connection over one pair that it does not understand.

use dunlin_model::Identity;
use dunlin_model::event::SYSTEM_PREFIX;
use dunlin_proto::v1::Command;
use percent_encoding::utf8_percent_encode;

use crate::commands::{ENCODED, ack, time};

/// The longest topic [MQTT-4.7.3-3].
const MAX_TOPIC: usize = 65_535;

/// Not encoded, unlike all others, and so not for an application.
const ACK: &str = "iothub-ack";

/// `None`: its properties do not fit a topic.
pub fn topic(id: &Identity, command: &Command) -> Option<String> {
    let device = id.device_id();
    let mut topic = format!("devices/{device}/messages/devicebound/");
    // First, and always there: C# looks for a property bag without asking.
    put(&mut topic, "$.to", &format!("/devices/{device}/messages/deviceBound"));
    let expires = command.expires.and_then(time);
    for (name, value) in [
        ("$.mid", &command.message_id),
        ("$.cid", &command.correlation_id),
        ("$.uid", &command.user_id),
        ("$.exp", &expires),
        ("$.ct", &command.content_type),
        ("$.ce", &command.content_encoding),
    ] {
        put(&mut topic, name, value.as_deref().unwrap_or_default());
    }
    put(&mut topic, ACK, ack(command.ack()).unwrap_or_default());
    for property in &command.properties {
        // Nothing of an application's may pass for the hub's.
        if !property.name.starts_with(SYSTEM_PREFIX) && property.name != ACK {
            put(&mut topic, &property.name, &property.value);
        }
    }
    (topic.len() <= MAX_TOPIC).then_some(topic)
}

/// Without a name or a value there is no pair: Java takes a topic with one for an error.
fn put(topic: &mut String, name: &str, value: &str) {
    if name.is_empty() || value.is_empty() {
        return;
    }
    if !topic.ends_with('/') {
        topic.push('&');
    }
    topic.extend(utf8_percent_encode(name, ENCODED));
    topic.push('=');
    topic.extend(utf8_percent_encode(value, ENCODED));
}

#[cfg(test)]
mod tests {
    use dunlin_model::event::header;
    use dunlin_proto::v1::{Ack, CommandProperty};
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    use super::*;
    use crate::mqtt::bag::Bag;

    fn of(id: &str, command: &Command) -> Option<String> {
        topic(&Identity::parse(id).expect("an id"), command)
    }

    fn properties(pairs: &[(&str, &str)]) -> Vec<CommandProperty> {
        let property = |(name, value): &(&str, &str)| CommandProperty {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        };
        pairs.iter().map(property).collect()
    }

    #[test]
    fn what_every_sdk_can_take_apart() {
        #[track_caller]
        fn check(what: &str, command: Command, want: &str) {
            let to =
                "devices/d/messages/devicebound/%24.to=%2Fdevices%2Fd%2Fmessages%2FdeviceBound";
            assert_eq!(of("d", &command).expect(what), format!("{to}{want}"), "{what}");
        }
        let text = |text: &str| Some(text.to_owned());
        let with = |pairs| Command { properties: properties(pairs), ..Command::default() };
        check("there is a bag in any case", Command::default(), "");
        check(
            "system properties before an application's, times with seven digits",
            Command {
                message_id: text("m/1"),
                correlation_id: text("c 1"),
                user_id: text("u+1"),
                content_type: text("application/json"),
                content_encoding: text("utf-8"),
                expires: Some(1_763_600_000_123),
                ack: Ack::Full.into(),
                properties: properties(&[("myKey", "myValue")]),
                body: b"x".to_vec(),
            },
            "&%24.mid=m%2F1&%24.cid=c%201&%24.uid=u%2B1\
             &%24.exp=2025-11-20T00%3A53%3A20.1230000Z&%24.ct=application%2Fjson&%24.ce=utf-8\
             &iothub-ack=full&myKey=myValue",
        );
        for (kind, want) in [
            (Ack::None, ""),
            (Ack::Positive, "&iothub-ack=positive"),
            (Ack::Negative, "&iothub-ack=negative"),
        ] {
            check("feedback", Command { ack: kind.into(), ..Command::default() }, want);
        }
        check(
            "no pair without a name or a value",
            with(&[("a", ""), ("", "b"), ("c", "d")]),
            "&c=d",
        );
        let empty = Command { message_id: text(""), ..Command::default() };
        check("nor of the hub's own", empty, "");
        check(
            "a time out of range is none",
            Command { expires: Some(i64::MAX), ..Command::default() },
            "",
        );
        check(
            "the hub's names",
            with(&[("$.mid", "1"), ("iothub-ack", "x"), ("$x", "1")]),
            "&%24x=1",
        );
        check(
            "what would end a pair, a bag or a level",
            with(&[("a=b&c", "d=e&f"), ("#+/?", "\u{e9} %"), ("-._~", "-._~")]),
            "&a%3Db%26c=d%3De%26f&%23%2B%2F%3F=%C3%A9%20%25&-._~=-._~",
        );
    }

    #[test]
    fn a_topic_has_an_end() {
        let long = |length| Command {
            properties: properties(&[("a", &"x".repeat(length))]),
            ..Command::default()
        };
        let room = MAX_TOPIC - of("d", &Command::default()).expect("short").len() - "&a=".len();
        assert_eq!(of("d", &long(room)).expect("fits").len(), MAX_TOPIC);
        assert_eq!(of("d", &long(room + 1)), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            device in "[A-Za-z0-9.+%_#*?!(),=@;$':-]{1,40}",
            message_id in proptest::option::of(".{1,20}"),
            pairs in proptest::collection::vec((".{0,10}", ".{0,10}"), 0..6),
        ) {
            let pairs: Vec<_> = pairs.iter().map(|(n, v)| (&**n, &**v)).collect();
            let command =
                Command { message_id, properties: properties(&pairs), ..Command::default() };
            let written = of(&device, &command).expect("short");
            // As SDKs do it: the sixth level, pairs, each in two.
            let levels: Vec<_> = written.split('/').collect();
            prop_assert_eq!(levels.len(), 5);
            prop_assert_eq!(&levels[..4], &["devices", &*device, "messages", "devicebound"]);
            let decode = |text: &str| {
                percent_decode_str(text).decode_utf8().expect("UTF-8").into_owned()
            };
            let split: Vec<_> = levels[4].split('&').map(|pair| {
                let (name, value) = pair.split_once('=').expect("a pair");
                assert!(!name.is_empty() && !value.is_empty());
                (decode(name), decode(value))
            }).collect();
            let mut want =
                vec![("$.to".to_owned(), format!("/devices/{device}/messages/deviceBound"))];
            want.extend(command.message_id.clone().map(|id| ("$.mid".to_owned(), id)));
            want.extend(pairs.iter().filter(|(name, value)| {
                !name.is_empty() && !value.is_empty() && !name.starts_with("$.") && *name != ACK
            }).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
            prop_assert_eq!(&split, &want);
            // And our own reader, which knows system properties by their headers.
            let mut bag = Bag::default();
            bag.read(levels[4]);
            let read: Vec<_> = bag.headers().filter(|read| read.name != "$.iothub-operation")
                .map(|read| (read.name.to_owned(), read.value.unwrap_or_default().to_owned()))
                .collect();
            let want: Vec<_> = want.into_iter().filter(|(name, _)| name != "iothub-operation")
                .map(|(name, value)| match &*name {
                    "$.to" => (header::TO.to_owned(), value),
                    "$.mid" => (header::MESSAGE_ID.to_owned(), value),
                    _ => (name, value),
                }).collect();
            prop_assert_eq!(read, want);
        }
    }
}
