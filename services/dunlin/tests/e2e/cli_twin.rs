//! `dunlin twin …` and `dunlin method …`.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{Up, ask, bad, good};

#[track_caller]
fn told(output: &Output) -> Value {
    serde_json::from_str(&good(output)).expect("JSON")
}

fn file(folder: &Path, content: &str) -> String {
    let path = folder.join("input.json");
    std::fs::write(&path, content).expect("written");
    path.display().to_string()
}

#[test]
fn twins_are_shown_changed_and_replaced_from_the_command_line() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path().join("data");
    let hub = Up::start(&data, &[]);
    good(&ask(&data, &["device", "create", "-d", "d"]));
    good(&ask(&data, &["module", "create", "-d", "d", "-m", "m"]));
    for module in [&[][..], &["-m", "m"][..]] {
        let twin = |command: &str, more: &[&str]| {
            ask(&data, &[&["twin", command, "-d", "d"], more, module].concat())
        };
        let new = told(&twin("show", &[]));
        assert_eq!((&new["deviceId"], &new["tags"]), (&json!("d"), &json!({})));
        assert_eq!(new.get("moduleId").is_some(), !module.is_empty());
        let etag = new["etag"].as_str().expect("an ETag");

        bad(&twin("update", &[]), 2, "--tags or --desired");
        bad(&twin("update", &["--tags", "{a:1}"]), 2, "--tags: that is neither JSON nor");
        bad(&twin("update", &["--desired", "{\"a.b\":1}"]), 1, "ArgumentInvalid");
        bad(&twin("update", &["--desired", "{\"a\":1,\"a\":2}"]), 1, "properties.desired.a");
        let tags = file(folder.path(), "{\"site\": {\"floor\": 2}}");
        let some = ["--tags", &tags, "--desired", "{\"interval\":10,\"gone\":1}", "--etag", etag];
        let updated = told(&twin("update", &some));
        assert_eq!(updated["tags"], json!({"site": {"floor": 2}}));
        assert_eq!(updated["properties"]["desired"]["interval"], 10);
        bad(&twin("update", &some), 1, "`show` tells the current ETag");
        let updated = told(&twin("update", &["--desired", "{\"gone\":null}", "--json"]));
        assert_eq!(updated["properties"]["desired"].get("gone"), None);
        assert_eq!(told(&twin("show", &["--json"])), updated);

        bad(&twin("replace", &[]), 2, "--json");
        bad(&twin("replace", &["--json", "no-such.json"]), 2, "neither JSON nor");
        bad(&twin("replace", &["-j", "{}", "--etag", etag]), 1, "PreconditionFailed");
        let replaced = told(&twin("replace", &["-j", &file(folder.path(), &updated.to_string())]));
        assert_eq!(replaced["tags"], updated["tags"]);
        assert_eq!(replaced["properties"]["desired"]["interval"], 10);
        let replaced = told(&twin("replace", &["--json", "{\"tags\":{\"a\":1}}"]));
        assert_eq!(replaced["tags"], json!({"a": 1}));
        assert_eq!(replaced["properties"]["desired"].get("interval"), None);
    }
    bad(&ask(&data, &["twin", "show"]), 2, "--device-id");
    bad(&ask(&data, &["twin", "show", "-d", "a b"]), 2, "device id");
    bad(&ask(&data, &["twin", "show", "-d", "nobody"]), 1, "dunlin device list");
    bad(&ask(&data, &["twin", "show", "-d", "d", "-m", "n"]), 1, "dunlin module list");

    let show = || told(&ask(&data, &["twin", "show", "-d", "d"]));
    let before = show();
    // Killed, not asked; and asked.
    drop(hub);
    let hub = Up::start(&data, &[]);
    assert_eq!(show(), before);
    assert_eq!(hub.stop(), Some(0));
    let hub = Up::start(&data, &[]);
    assert_eq!(show(), before);
    assert_eq!(hub.stop(), Some(0));
}

#[test]
fn methods_are_called_from_the_command_line() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path();
    let hub = Up::start(data, &[]);
    good(&ask(data, &["device", "create", "-d", "d"]));
    let invoke = |more: &[&str]| ask(data, &[&["method", "invoke", "-d", "d"], more].concat());
    bad(&invoke(&[]), 2, "--method-name");
    bad(&invoke(&["-n", "x", "--mp", "{a"]), 2, "--method-payload: that is neither JSON nor");
    bad(&invoke(&["-n", "x", "--timeout", "long"]), 2, "--timeout");
    bad(&invoke(&["-n", "a b"]), 1, "methodName");
    bad(&invoke(&["-n", "x", "--timeout", "4"]), 1, "responseTimeoutInSeconds");
    bad(&invoke(&["-n", "x", "--method-payload", "{}"]), 1, "--connect-timeout");
    bad(&invoke(&["--method-name", "x", "--connect-timeout", "1"]), 1, "DeviceNotOnline");
    bad(&invoke(&["-n", "x", "-m", "m"]), 1, "dunlin module list");
    bad(&ask(data, &["method", "invoke", "-d", "nobody", "-n", "x"]), 1, "dunlin device list");
    assert_eq!(hub.stop(), Some(0));
}
