//! `dunlin c2d …` and `dunlin feedback …`.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

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
    bad(&send(&data, &["--data", "x", "--wait"]), 2, "--ack");
    let late = send(&data, &["--data", "x", "--expiry-time-utc", "1"]);
    bad(&late, 1, "InvalidMessageExpiryTime");
    bad(&late, 1, "milliseconds");
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

/// A command that goes on until something comes, killed when dropped.
struct Waiting {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Waiting {
    fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("a line").expect("UTF-8")
    }

    fn ends(mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_end_of_a_message_is_waited_for() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path().join("data");
    let config = folder.path().join("hub.toml");
    std::fs::write(&config, "[c2d]\nfeedback_batch_seconds = 0\n").expect("written");
    let config = config.display().to_string();
    let hub = Up::start(&data, &["--config", &config]);
    good(&ask(&data, &["device", "create", "-d", "d"]));
    let end = |id: &str| {
        good(&send(&data, &["--data", "x", "--mid", id, "--ack", "full"]));
        good(&ask(&data, &["c2d", "purge", "-d", "d"]));
    };
    // Others' records are not what it waits for.
    end("1");
    let mut sent = dunlin(&["c2d", "send", "-d", "d", "--data", "x", "--ack", "full", "--wait"]);
    let mut sent = Waiting::start(sent.args(["--mid", "2", "--data-folder"]).arg(&data));
    assert_eq!(sent.line(), "2");
    assert!(sent.line().ends_with("  d  1  Purged"));
    good(&ask(&data, &["c2d", "purge", "-d", "d"]));
    assert!(sent.line().ends_with("  d  2  Purged"));
    assert_eq!(sent.ends(), Some(0));

    end("3");
    let on = |id: &str| ask(&data, &["feedback", "monitor", "-w", id, "--timeout", "0"]);
    assert!(good(&on("3")).ends_with("  d  3  Purged\n"));
    bad(&on("3"), 1, "no feedback on 3");

    // A hub that goes is waited for, and found where it is then.
    let monitor = || {
        let mut monitor = dunlin(&["feedback", "monitor"]);
        monitor.arg("--data").arg(&data);
        monitor
    };
    let mut watching = Waiting::start(&mut monitor());
    // The second one shows that the first is done with.
    for id in ["4", "5"] {
        end(id);
        assert!(watching.line().ends_with(&format!("  d  {id}  Purged")));
    }
    drop(hub);
    let mut said = BufReader::new(watching.child.stderr.take().expect("piped")).lines();
    let mut said = || said.next().expect("a line").expect("UTF-8");
    assert_eq!(said(), "the hub has gone; waiting for it");
    let hub = Up::start(&data, &["--config", &config]);
    assert_eq!(said(), "the hub is back");
    end("6");
    assert!(watching.line().ends_with("  d  6  Purged"));
    let pid = watching.child.id().to_string();
    let killed = Command::new("sh").args(["-c", "kill -INT $0", &pid]).status();
    assert!(killed.expect("kill").success());
    assert_eq!(watching.ends(), Some(0));
    assert_eq!(hub.stop(), Some(0));
    bad(&monitor().output().expect("it runs"), 3, "dunlin up");
}

#[test]
fn messages_are_received_and_settled_from_the_command_line() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path().join("data");
    let config = folder.path().join("hub.toml");
    std::fs::write(&config, "[c2d]\nfeedback_batch_seconds = 0\n").expect("written");
    let hub = Up::start(&data, &["--config", &config.display().to_string()]);
    good(&ask(&data, &["device", "create", "-d", "d"]));
    let c2d =
        |command: &str, more: &[&str]| ask(&data, &[&["c2d", command, "-d", "d"], more].concat());
    assert_eq!(good(&c2d("receive", &[])), "", "there is none");
    for id in ["1", "2", "3", "4"] {
        let all = ["--data", "hi", "--mid", id, "--ack", "full", "--props", "k=v"];
        good(&send(&data, &all));
    }
    let receive = |more: &[&str]| -> Value {
        serde_json::from_str(&good(&c2d("receive", more))).expect("JSON")
    };
    let first = receive(&[]);
    assert_eq!((&first["data"], &first["properties"]["app"]), (&json!("hi"), &json!({"k": "v"})));
    assert_eq!(first["properties"]["system"]["iothub-messageid"], "1");
    let etag = first["etag"].as_str().expect("a lock");
    assert_eq!(receive(&["--reject"])["properties"]["system"]["iothub-messageid"], "2");
    good(&c2d("abandon", &["--etag", etag]));
    bad(&c2d("complete", &["--etag", etag]), 1, "DeviceMessageLockLost");
    let again = receive(&[]);
    assert_eq!(again["properties"]["system"]["iothub-messageid"], "1");
    good(&c2d("complete", &["-e", &format!("\"{}\"", again["etag"].as_str().expect("a lock"))]));
    let third = receive(&["--abandon"]);
    assert_eq!(third["properties"]["system"]["iothub-messageid"], "3");
    assert_eq!(receive(&["--complete"])["properties"]["system"]["iothub-messageid"], "3");
    let fourth = receive(&[]);
    good(&c2d("reject", &["--etag", fourth["etag"].as_str().expect("a lock")]));
    let told = good(&ask(&data, &["feedback", "monitor", "--timeout", "0", "--json"]));
    let told: Vec<Value> =
        told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let ends: Vec<_> = told
        .iter()
        .map(|one| (one["originalMessageId"].as_str(), one["statusCode"].as_str()))
        .collect();
    let want = [("2", "Rejected"), ("1", "Success"), ("3", "Success"), ("4", "Rejected")];
    assert_eq!(ends, want.map(|(id, end)| (Some(id), Some(end))));
    // Not `d`, which is still known: for a second.
    good(&ask(&data, &["device", "create", "-d", "e"]));
    good(&ask(&data, &["device", "update", "-d", "e", "--status", "disabled"]));
    bad(&ask(&data, &["c2d", "receive", "-d", "e"]), 1, "dunlin device show");
    assert_eq!(hub.stop(), Some(0));
}
