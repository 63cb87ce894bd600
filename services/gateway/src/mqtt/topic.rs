//! HOT PATH: topics a device publishes to.

use dunlin_model::Identity;

/// A request's own name: our own limit. SDKs send a GUID or a number.
const RID_BYTES: usize = 1_024;

/// What a PUBLISH is about.
#[derive(Debug, PartialEq, Eq)]
pub enum Topic<'a> {
    /// Telemetry, with its property bag (not yet read).
    Events { bag: &'a str },
    /// A twin is read. `rid` is the device's own and comes back as it is.
    TwinGet { rid: &'a str },
    /// Reported properties; only if they have this version (not yet read).
    TwinReported { rid: &'a str, version: Option<&'a str> },
    /// The answer to a method call. The status is any integer; `None`: one beyond 64 bits.
    MethodAnswer { status: Option<i64>, rid: &'a str },
}

/// Reads a topic as `id` may use it. `None`: not a topic of the hub, or another identity's.
pub fn parse<'a>(topic: &'a str, id: &Identity) -> Option<Topic<'a>> {
    match topic.strip_prefix("$iothub/") {
        None => events(own(topic, id)?),
        Some(rest) => request(rest),
    }
}

/// What follows `devices/{d}/` or `devices/{d}/modules/{m}/` of one's own.
pub(super) fn own<'a>(topic: &'a str, id: &Identity) -> Option<&'a str> {
    let rest = topic.strip_prefix("devices/")?.strip_prefix(id.device_id())?.strip_prefix('/')?;
    match id.module_id() {
        Some(module) => rest.strip_prefix("modules/")?.strip_prefix(module)?.strip_prefix('/'),
        None => Some(rest),
    }
}

fn events(rest: &str) -> Option<Topic<'_>> {
    let bag = match rest.strip_prefix("messages/events")? {
        "" => "",
        // The Java SDK's modules write `events//`.
        rest => rest.strip_prefix('/').map(|rest| rest.strip_prefix('/').unwrap_or(rest))?,
    };
    Some(Topic::Events { bag })
}

fn request(rest: &str) -> Option<Topic<'_>> {
    let (path, query) = rest.split_once("/?")?;
    let item = |name: &str| {
        let mut items = query.split('&').filter_map(|item| item.split_once('='));
        items.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    // It comes back in a topic, which has an end.
    let rid = item("$rid").filter(|rid| rid.len() <= RID_BYTES)?;
    match path {
        "twin/GET" => Some(Topic::TwinGet { rid }),
        "twin/PATCH/properties/reported" => {
            Some(Topic::TwinReported { rid, version: item("$version") })
        }
        _ => {
            let status = integer(path.strip_prefix("methods/res/")?)?;
            Some(Topic::MethodAnswer { status, rid })
        }
    }
}

/// `None`: it is no integer. `Some(None)`: it is one beyond 64 bits.
fn integer(text: &str) -> Option<Option<i64>> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_integer.then(|| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telemetry_topics_of_ones_own_identity_only() {
        #[track_caller]
        fn check(topic: &str, id: &str, bag: Option<&str>) {
            let id = Identity::parse(id).expect("an id");
            let want = bag.map(|bag| Topic::Events { bag });
            assert_eq!(parse(topic, &id), want, "{topic} of {id}");
        }
        check("devices/d/messages/events", "d", Some(""));
        check("devices/d/messages/events/", "d", Some(""));
        check("devices/d/messages/events/a=b&c=d/", "d", Some("a=b&c=d/"));
        check("devices/d/messages/events/?a=b", "d", Some("?a=b"));
        check("devices/d/modules/m/messages/events//", "d/m", Some(""));
        check("devices/d/modules/m/messages/events//$.on=o", "d/m", Some("$.on=o"));
        check("devices/a+b%/messages/events/", "a+b%", Some(""));
        check("devices/e/messages/events/", "d", None);
        check("devices/dd/messages/events/", "d", None);
        check("devices/d/modules/m/messages/events/", "d", None);
        check("devices/d/messages/events/", "d/m", None);
        check("devices/d/modules/n/messages/events/", "d/m", None);
        check("devices/d/messages/eventsx", "d", None);
        check("devices/d/messages/devicebound/", "d", None);
        check("devices/d", "d", None);
        check("", "d", None);
        check("some/topic", "d", None);
    }

    #[test]
    fn requests_and_answers_name_their_request() {
        let id = Identity::parse("d/m").expect("an id");
        for (topic, want) in [
            ("$iothub/twin/GET/?$rid=a-1", Some(Topic::TwinGet { rid: "a-1" })),
            ("$iothub/twin/GET/?$rid=", Some(Topic::TwinGet { rid: "" })),
            ("$iothub/twin/GET/?x=1&$rid=7", Some(Topic::TwinGet { rid: "7" })),
            (
                "$iothub/twin/PATCH/properties/reported/?$rid=7",
                Some(Topic::TwinReported { rid: "7", version: None }),
            ),
            (
                "$iothub/twin/PATCH/properties/reported/?$rid=7&$version=x",
                Some(Topic::TwinReported { rid: "7", version: Some("x") }),
            ),
            (
                "$iothub/methods/res/-1/?$rid=7&p=q",
                Some(Topic::MethodAnswer { status: Some(-1), rid: "7" }),
            ),
            (
                "$iothub/methods/res/-9223372036854775808/?$rid=7",
                Some(Topic::MethodAnswer { status: Some(i64::MIN), rid: "7" }),
            ),
            (
                "$iothub/methods/res/9223372036854775808/?$rid=7",
                Some(Topic::MethodAnswer { status: None, rid: "7" }),
            ),
            (
                "$iothub/methods/res/-99999999999999999999/?$rid=7",
                Some(Topic::MethodAnswer { status: None, rid: "7" }),
            ),
            ("$iothub/twin/GET/", None),
            ("$iothub/twin/GET/?rid=7", None),
            ("$iothub/twin/GET?$rid=7", None),
            ("$iothub/twin/PATCH/properties/desired/?$rid=7", None),
            ("$iothub/twin/res/200/?$rid=7", None),
            ("$iothub/methods/POST/a/?$rid=7", None),
            ("$iothub/methods/res/ok/?$rid=7", None),
            ("$iothub/methods/res//?$rid=7", None),
            ("$iothub/methods/res/-/?$rid=7", None),
            ("$iothub/methods/res/99999999999999999999x/?$rid=7", None),
            ("$iothub/", None),
            (&format!("$iothub/twin/GET/?$rid={}", "r".repeat(1_025)), None),
        ] {
            assert_eq!(parse(topic, &id), want, "{topic}");
        }
    }
}
