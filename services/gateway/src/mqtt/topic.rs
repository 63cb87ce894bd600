//! HOT PATH: topics a device publishes to.

use dunlin_model::Identity;

/// What a PUBLISH is about.
#[derive(Debug, PartialEq, Eq)]
pub enum Topic<'a> {
    /// Telemetry, with its property bag (not yet read).
    Events { bag: &'a str },
}

/// Reads a topic as `id` may use it. `None`: not a topic of the hub, or another identity's.
pub fn parse<'a>(topic: &'a str, id: &Identity) -> Option<Topic<'a>> {
    let rest = topic.strip_prefix("devices/")?.strip_prefix(id.device_id())?.strip_prefix('/')?;
    let rest = match id.module_id() {
        Some(module) => rest.strip_prefix("modules/")?.strip_prefix(module)?.strip_prefix('/')?,
        None => rest,
    };
    let bag = match rest.strip_prefix("messages/events")? {
        "" => "",
        // The Java SDK's modules write `events//`.
        rest => rest.strip_prefix('/').map(|rest| rest.strip_prefix('/').unwrap_or(rest))?,
    };
    Some(Topic::Events { bag })
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
        check("$iothub/twin/GET/?$rid=1", "d", None);
        check("", "d", None);
        check("some/topic", "d", None);
    }
}
