//! `dunlin device simulate`.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{Up, ask, bad, dunlin, good};

/// The command, ready to be run; its `--data` is a body, the hub's folder has a longer name.
pub fn simulate(data: &Path, arguments: &[&str]) -> Command {
    let mut command = dunlin(&["device", "simulate"]);
    command.args(arguments).arg("--data-folder").arg(data);
    command
}

fn simulated(data: &Path, arguments: &[&str]) -> Output {
    simulate(data, arguments).output().expect("it runs")
}

/// What is stored, oldest first within a partition.
pub fn stored(data: &Path, more: &[&str]) -> Vec<Value> {
    let arguments = ["events", "monitor", "--from-start", "--timeout", "1", "--json"];
    let text = good(&ask(data, &[&arguments, more].concat()));
    let parse = |line| serde_json::from_str::<Value>(line).expect("JSON")["event"].take();
    text.lines().map(parse).collect()
}

#[test]
fn telemetry_is_sent_as_it_was_asked_for() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path();
    // A name that does not resolve: the hub is found by its address.
    let hub = Up::start(data, &["--hostname", "hub.example.com"]);
    bad(&simulated(data, &["-d", "d"]), 1, "DeviceNotFound");
    good(&ask(data, &["device", "create", "-d", "d"]));
    let arguments =
        ["-d", "d", "--count", "20", "--rate", "0", "--size", "200", "--props", "a b=c/d;e="];
    let said = good(&simulated(data, &arguments));
    assert!(said.starts_with("20 messages of 1 devices acknowledged"), "{said}");
    let events = stored(data, &[]);
    assert_eq!(events.len(), 20);
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["payload"]["number"], number);
        assert_eq!(event["payload"]["device"], "d");
        // 200 bytes.
        assert_eq!(event["payload_base64"].as_str().expect("base64").len(), 268);
        assert_eq!(event["properties"]["application"], json!({"a b": "c/d", "e": ""}));
    }
    let arguments = ["-d", "s", "--devices", "3", "--count", "10", "--data", "hi", "--json"];
    let arguments = [&arguments[..], &["--content-type", "text/plain", "--rate", "1000"]].concat();
    let told: Value = serde_json::from_str(&good(&simulated(data, &arguments))).expect("JSON");
    assert_eq!(told["acknowledged"], 10);
    assert_eq!((&told["devices"], &told["bytes"]), (&json!(3), &json!(20)));
    for (device, count) in [("s-1", 4), ("s-2", 3), ("s-3", 3)] {
        let events = stored(data, &["-d", device]);
        assert_eq!(events.len(), count, "{device}");
        assert!(events.iter().all(|event| event["payload"] == "hi"));
        assert_eq!(events[0]["properties"]["system"]["content-type"], "text/plain");
    }

    for wrong in [
        &["--rate", "-1"][..],
        &["--size", "262145"],
        &["--size", "1", "--data", "x"],
        &["--props", "a"],
        &["--devices", "0"],
        &["--devices", "1001"],
        &["--content-type", "x"],
    ] {
        let output = simulated(data, &[&["-d", "d"], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
    good(&ask(data, &["device", "update", "-d", "d", "--status", "disabled"]));
    bad(&simulated(data, &["-d", "d"]), 1, "dunlin device show -d d");
    bad(&simulated(data, &["-d", "s-1", "--mqtt-port", "1"]), 3, "--mqtt-port");
    assert_eq!(hub.stop(), Some(0));
    bad(&simulated(data, &["-d", "d"]), 3, "dunlin up");
}
