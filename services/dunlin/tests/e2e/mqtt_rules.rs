//! `docs/mqtt.md` says of every statement of the standard whether it is kept, and by which test it
//! is shown: it must not name what is not there.

use std::collections::BTreeMap;

const DOC: &str = include_str!("../../../../docs/mqtt.md");

const MODULES: [(&str, &str); 19] = [
    ("c2d_delivery", include_str!("c2d_delivery.rs")),
    ("mqtt_alive", include_str!("mqtt_alive.rs")),
    ("mqtt_auth", include_str!("mqtt_auth.rs")),
    ("mqtt_commands", include_str!("mqtt_commands.rs")),
    ("mqtt_commands_again", include_str!("mqtt_commands_again.rs")),
    ("mqtt_connect", include_str!("mqtt_connect.rs")),
    ("mqtt_faults", include_str!("mqtt_faults.rs")),
    ("mqtt_malformed", include_str!("mqtt_malformed.rs")),
    ("mqtt_order", include_str!("mqtt_order.rs")),
    ("mqtt_packets", include_str!("mqtt_packets.rs")),
    ("mqtt_publish", include_str!("mqtt_publish.rs")),
    ("mqtt_sessions", include_str!("mqtt_sessions.rs")),
    ("mqtt_size", include_str!("mqtt_size.rs")),
    ("mqtt_takeover", include_str!("mqtt_takeover.rs")),
    ("mqtt_twin", include_str!("mqtt_twin.rs")),
    ("mqtt_will", include_str!("mqtt_will.rs")),
    ("websocket", include_str!("websocket.rs")),
    ("websocket_frames", include_str!("websocket_frames.rs")),
    ("websocket_handshake", include_str!("websocket_handshake.rs")),
];

/// How many statements each section of appendix B has. (3.8.3's fourth is written `3-8.3-4` there.)
const STATEMENTS: &[(&str, usize)] = &[
    ("1.5.3", 3),
    ("2.2.2", 2),
    ("2.3.1", 7),
    ("3.1.0", 2),
    ("3.1.2", 24),
    ("3.1.3", 11),
    ("3.1.4", 5),
    ("3.2.0", 1),
    ("3.2.2", 6),
    ("3.3.1", 12),
    ("3.3.2", 3),
    ("3.3.4", 1),
    ("3.3.5", 2),
    ("3.6.1", 1),
    ("3.8.1", 1),
    ("3.8.3", 4),
    ("3.8.4", 6),
    ("3.9.3", 2),
    ("3.10.1", 1),
    ("3.10.3", 2),
    ("3.10.4", 6),
    ("3.12.4", 1),
    ("3.14.1", 1),
    ("3.14.4", 3),
    ("4.1.0", 2),
    ("4.3.1", 1),
    ("4.3.2", 2),
    ("4.3.3", 2),
    ("4.4.0", 1),
    ("4.5.0", 2),
    ("4.6.0", 6),
    ("4.7.1", 3),
    ("4.7.2", 1),
    ("4.7.3", 4),
    ("4.8.0", 2),
    ("6.0.0", 4),
    ("7.0.0", 2),
    ("7.1.1", 1),
    ("7.1.2", 1),
];

/// Rows of the tables: statement, state, test or reason.
fn rows(doc: &str) -> Vec<(&str, &str, &str)> {
    doc.lines()
        .filter(|line| line.starts_with("| MQTT-") || line.starts_with("| RFC6455-"))
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [statement, _, state, reason] = cells[..] else { panic!("four cells: {line}") };
            (statement, state, reason)
        })
        .collect()
}

/// What is wrong with a document, given the sources of the tests.
fn faults(doc: &str, modules: &[(&str, &str)]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (statement, state, reason) in rows(doc) {
        // Of the RFC, which does not number them, there may be any.
        if !statement.starts_with("RFC6455-") {
            *seen.entry(statement.replace("3-8.3", "3.8.3")).or_default() += 1;
        }
        // Between backticks, in whatever row: a test that is named is there.
        let mut named = 0;
        for test in reason.split('`').skip(1).step_by(2) {
            let Some((module, function)) = test.split_once("::") else { continue };
            let source = modules.iter().find(|(name, _)| *name == module).map(|(_, text)| *text);
            if source.is_some_and(|source| is_test(source, function)) {
                named += 1;
            } else {
                faults.push(format!("{statement}: there is no test {test}"));
            }
        }
        match state {
            "kept" | "restricted" if named == 0 => {
                faults.push(format!("{statement}: {state}, but no test is named"));
            }
            "later" | "n/a" if reason.is_empty() => {
                faults.push(format!("{statement}: {state}, but no reason is given"));
            }
            "kept" | "restricted" | "later" | "n/a" => {}
            _ => faults.push(format!("{statement}: no such state as {state:?}")),
        }
    }
    for (section, count) in STATEMENTS {
        for n in 1..=*count {
            match seen.remove(&format!("MQTT-{section}-{n}")) {
                Some(1) => {}
                rows => faults.push(format!("MQTT-{section}-{n}: {} rows", rows.unwrap_or(0))),
            }
        }
    }
    faults.extend(seen.into_keys().map(|unknown| format!("{unknown}: no such statement")));
    faults
}

/// Whether a module has that function, as a test or as a scenario.
fn is_test(source: &str, function: &str) -> bool {
    let head = format!("async fn {function}(");
    let scenario = format!("scenario!({function});");
    source.lines().zip(source.lines().skip(1)).any(|(above, line)| {
        line.starts_with(&head) && (above.starts_with("#[tokio::test") || above == scenario)
    })
}

#[test]
fn every_statement_has_its_test() {
    assert_eq!(faults(DOC, &MODULES), [""; 0]);
    let (standard, websocket): (Vec<_>, Vec<_>) =
        rows(DOC).into_iter().partition(|(statement, ..)| statement.starts_with("MQTT-"));
    assert_eq!((standard.len(), websocket.len()), (141, 19));
}

#[test]
fn what_is_not_there_is_found() {
    let source = [(
        "m",
        "#[tokio::test]\nasync fn one() {}\nscenario!(two);\nasync fn two() {}\nasync fn three() {}\n",
    )];
    #[track_caller]
    fn check(source: &[(&str, &str)], row: &str, want: Option<&str>) {
        let found = faults(row, source);
        let mut found =
            found.iter().filter(|fault| fault.contains("MQTT-9") || fault.contains("1.5.3-1:"));
        assert_eq!(found.next().map(String::as_str), want, "{row}");
    }
    let none = Some("MQTT-1.5.3-1: there is no test m::four");
    check(&source, "| MQTT-1.5.3-1 | x | kept | `m::one` |", None);
    check(&source, "| MQTT-1.5.3-1 | x | restricted | `m::two`; because |", None);
    check(&source, "| MQTT-1.5.3-1 | x | kept | `m::one`, `m::four` |", none);
    check(&source, "| MQTT-1.5.3-1 | x | later | see `m::four` |", none);
    let none = Some("MQTT-1.5.3-1: there is no test m::three");
    check(&source, "| MQTT-1.5.3-1 | x | kept | `m::three` |", none);
    let none = Some("MQTT-1.5.3-1: kept, but no test is named");
    check(&source, "| MQTT-1.5.3-1 | x | kept | surely |", none);
    let none = Some("MQTT-1.5.3-1: no such state as \"maybe\"");
    check(&source, "| MQTT-1.5.3-1 | x | maybe | x |", none);
    check(&source, "", Some("MQTT-1.5.3-1: 0 rows"));
    let both = "| MQTT-1.5.3-1 | x | n/a | x |\n| MQTT-1.5.3-1 | x | n/a | x |";
    check(&source, both, Some("MQTT-1.5.3-1: 2 rows"));
    let unknown = "| MQTT-1.5.3-1 | x | n/a | x |\n| MQTT-9.9.9-1 | x | n/a | x |";
    check(&source, unknown, Some("MQTT-9.9.9-1: no such statement"));
}
