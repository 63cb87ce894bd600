//! `dunlin c2d …` and `dunlin feedback …`.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{Up, ask, bad, dunlin, good};

/// The command's `--data` is a body, the hub's folder has a longer name.
fn send(data: &Path, more: &[&str]) -> Output {
    let arguments = [&["c2d", "send", "-d", "d"], more].concat();
    dunlin(&arguments).arg("--data-folder").arg(data).output().expect("it runs")
}

#[test]
fn messages_are_sent_and_purged_and_their_ends_told() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path().join("data");
    let config = folder.path().join("hub.toml");
    std::fs::write(&config, "[c2d]\ndepth = 3\nfeedback_batch_seconds = 0\n").expect("written");
    let config = config.display().to_string();
    let hub = Up::start(&data, &["--config", &config]);
    bad(&send(&data, &["--data", "x"]), 1, "DeviceNotFound");
    good(&ask(&data, &["device", "create", "-d", "d"]));
    let queued = || {
        let twin = good(&ask(&data, &["twin", "show", "-d", "d"]));
        let mut twin: Value = serde_json::from_str(&twin).expect("JSON");
        twin["cloudToDeviceMessageCount"].take()
    };

    bad(&send(&data, &[]), 2, "--data");
    bad(&send(&data, &["--data", "x", "--ack", "all"]), 2, "--ack");
    bad(&send(&data, &["--data", "x", "--props", "x"]), 2, "--props");
    bad(&send(&data, &["--data", "x", "--message-id", "a\nb"]), 2, "--message-id");
    bad(&send(&data, &["--data", "x", "--expiry-time-utc", "1"]), 1, "InvalidMessageExpiryTime");
    bad(&send(&data, &["--data-file-path", "/no/such"]), 2, "/no/such");
    let all =
        ["--data", "hi", "--mid", "m1", "--ack", "full", "--props", "K=v;b=", "--ct", "text/plain"];
    assert_eq!(good(&send(&data, &all)), "m1\n");
    let file = folder.path().join("body");
    std::fs::write(&file, b"\xff\0").expect("written");
    let file = file.display().to_string();
    let told = good(&send(&data, &["--data-file-path", &file, "--json"]));
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["messageId"].as_str().map(str::len), Some(36));
    good(&send(&data, &["--data", "", "--mid", "m3", "--ack", "negative"]));
    bad(&send(&data, &["--data", "x"]), 1, "dunlin c2d purge");
    assert_eq!(queued(), 3);

    // Killed, not asked.
    drop(hub);
    let hub = Up::start(&data, &["--config", &config]);
    assert_eq!(queued(), 3);
    let monitor = |more: &[&str]| {
        let arguments = ["feedback", "monitor", "--timeout", "0"];
        good(&ask(&data, &[&arguments, more].concat()))
    };
    assert_eq!(monitor(&[]), "");
    assert_eq!(good(&ask(&data, &["c2d", "purge", "-d", "d"])), "d: 3 messages removed\n");
    let told = monitor(&["--json"]);
    let told: Vec<Value> =
        told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let ids: Vec<_> = told.iter().map(|one| &one["originalMessageId"]).collect();
    assert_eq!(ids, [&json!("m1"), &json!("m3")]);
    assert!(told.iter().all(|one| one["statusCode"] == "Purged" && one["deviceId"] == "d"));
    assert_eq!(monitor(&[]), "", "it was taken");
    let purged = good(&ask(&data, &["c2d", "purge", "-d", "d", "--json"]));
    let purged: Value = serde_json::from_str(&purged).expect("JSON");
    assert_eq!(purged, json!({"totalMessagesPurged": 0, "deviceId": "d", "moduleId": null}));
    good(&send(&data, &["--data", "x", "--mid", "m4", "--ack", "full"]));
    good(&ask(&data, &["c2d", "purge", "-d", "d"]));
    let line = monitor(&[]);
    assert!(line.ends_with("  d  m4  Purged\n"), "{line}");
    bad(&ask(&data, &["c2d", "receive", "-d", "x"]), 1, "DeviceNotFound");
    bad(&ask(&data, &["c2d", "complete", "-d", "d"]), 2, "--etag");
    bad(&ask(&data, &["c2d", "receive", "-d", "d", "--complete", "--reject"]), 2, "--reject");
    bad(&ask(&data, &["c2d", "purge", "-d", "x"]), 1, "DeviceNotFound");
    assert_eq!(hub.stop(), Some(0));
}
