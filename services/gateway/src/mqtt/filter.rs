//! Topic filters: what a device may subscribe to. The hub is no broker: it knows a handful of
//! filters, and no topic of anybody else.

use dunlin_model::Identity;
use dunlin_model::session::Topic;

use super::topic::own;

#[derive(Debug, PartialEq, Eq)]
pub enum Filter {
    Known(Topic),
    /// Nothing the hub ever publishes to: refused by SUBACK.
    Unknown,
    /// Closes the connection, as at IoT Hub; which rule it broke.
    Forbidden(&'static str),
}

pub fn parse(filter: &str, id: &Identity) -> Filter {
    // Ids may hold `+` and `#`: what is left of the filter is looked at for wildcards.
    let rest = match filter.strip_prefix("$iothub/") {
        Some(rest) => rest,
        None => match own(filter, id) {
            Some(rest) => rest,
            None if filter.starts_with("devices/") => {
                return Filter::Forbidden("filter of another identity");
            }
            None => filter,
        },
    };
    let hubs = filter.len() - rest.len() == "$iothub/".len() && filter.starts_with('$');
    let known = match rest {
        "methods/POST/#" if hubs => Some(Topic::Methods),
        "twin/res/#" if hubs => Some(Topic::TwinAnswers),
        "twin/PATCH/properties/desired/#" if hubs => Some(Topic::Desired),
        _ if hubs || rest.len() == filter.len() => None,
        "messages/devicebound/#" => Some(Topic::Commands),
        "inputs/#" if id.module_id().is_some() => Some(Topic::Inputs),
        "#" if id.module_id().is_some() => Some(Topic::Module),
        _ => None,
    };
    match known {
        Some(topic) => Filter::Known(topic),
        None if own(filter, id).is_some_and(|rest| rest.starts_with("modules/")) => {
            Filter::Forbidden("filter of another identity")
        }
        None if rest.contains('+') => Filter::Forbidden("filter with a + wildcard"),
        None if rest != "#" && rest.strip_suffix("/#").unwrap_or(rest).contains('#') => {
            Filter::Forbidden("filter with a # that is not its last level")
        }
        None => Filter::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_of_the_sdks_and_no_others() {
        #[track_caller]
        fn check(id: &str, filter: &str, want: Filter) {
            let id = Identity::parse(id).expect("an id");
            let got = parse(filter, &id);
            match (&got, &want) {
                (Filter::Forbidden(_), Filter::Forbidden(_)) => {}
                _ => assert_eq!(got, want, "{filter} of {id}"),
            }
        }
        let forbidden = || Filter::Forbidden("");
        for id in ["d", "d/m", "a+b#"] {
            check(id, "$iothub/methods/POST/#", Filter::Known(Topic::Methods));
            check(id, "$iothub/twin/res/#", Filter::Known(Topic::TwinAnswers));
            check(id, "$iothub/twin/PATCH/properties/desired/#", Filter::Known(Topic::Desired));
            check(id, "$iothub/#", Filter::Unknown);
            check(id, "$iothub/methods/POST/reboot/#", Filter::Unknown);
            check(id, "$iothub/twin/res/200/?$rid=1", Filter::Unknown);
            check(id, "$iothub/+/res/#", forbidden());
            check(id, "$iothub/twin/#/res", forbidden());
            check(id, "$iothub/twin/res#", forbidden());
            check(id, "#", Filter::Unknown);
            check(id, "a/#", Filter::Unknown);
            check(id, "some/topic", Filter::Unknown);
            check(id, "methods/POST/#", Filter::Unknown);
            check(id, "messages/devicebound/#", Filter::Unknown);
            check(id, "+/topic", forbidden());
            check(id, "a/#/b", forbidden());
            check(id, "a/#/#", forbidden());
            check(id, "##", forbidden());
            check(id, "devices/#", forbidden());
            check(id, "devices/+/messages/devicebound/#", forbidden());
            check(id, "devices/other/messages/devicebound/#", forbidden());
            check(id, "devices/d/modules/other/#", forbidden());
        }
        check("d", "devices/d/messages/devicebound/#", Filter::Known(Topic::Commands));
        check("a+b#", "devices/a+b#/messages/devicebound/#", Filter::Known(Topic::Commands));
        check("a+b#", "devices/a+b#/messages/events/", Filter::Unknown);
        check("d", "devices/d/messages/#", Filter::Unknown);
        check("d", "devices/d/#", Filter::Unknown);
        check("d", "devices/d/inputs/#", Filter::Unknown);
        check("d", "devices/d/+/devicebound/#", forbidden());
        check("d", "devices/d/modules/m/#", forbidden());
        let bound = "devices/d/modules/m/messages/devicebound/#";
        check("d/m", bound, Filter::Known(Topic::Commands));
        check("d/m", "devices/d/modules/m/inputs/#", Filter::Known(Topic::Inputs));
        check("d/m", "devices/d/modules/m/#", Filter::Known(Topic::Module));
        check("d/m", "devices/d/messages/devicebound/#", forbidden());
    }
}
