//! What `dunlin export` and `dunlin import` refuse: it is said what to do, and nothing has changed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use dunlin_storage::testing::Place;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::cli::{bad, good};
use crate::moving_kit::Site;
use crate::process::dunlin;

/// A stopped hub with so many devices.
async fn hub(data: &Path, devices: usize) -> Site {
    let site = Site::embedded(data.to_owned());
    let hub = site.start().await;
    for n in 0..devices {
        hub.client().device_put(&format!("d{n}"), &json!({}), None).await.expect("created");
    }
    hub.stop().await;
    site
}

/// A new hub's place, with the master key of another.
fn place(data: &Path, key_of: &Site) -> Site {
    std::fs::create_dir_all(data).expect("a folder");
    std::fs::copy(key_of.data.join("master.key"), data.join("master.key")).expect("copied");
    Site::embedded(data.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_whole_and_good_changes_nothing() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let source = hub(&path("source"), 3).await;
    let file = path("good.export");
    good(&source.export(&file).await);
    let mode = std::fs::metadata(&file).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).expect("text");
    let target = place(&path("target"), &source);
    bad(&target.export(&path("none.export")).await, 1, "no hub in");
    assert!(!path("none.export").exists());
    target.start().await.stop().await;
    let before = target.rows().await;
    let lines: Vec<_> = text.lines().collect();
    let without = |at: usize| [&lines[..at], &lines[at + 1..]].concat().join("\n") + "\n";
    let device = lines.iter().position(|line| line.contains("\"d1\"")).expect("a device");
    for (name, content, says) in [
        ("cut", text[..text.len() / 2].to_owned(), "cut short; export again"),
        ("cut at a line", without(lines.len() - 1), "cut short; export again"),
        ("one less", without(device), "damaged"),
        ("flipped", text.replace("\"auth_version\":1", "\"auth_version\":2"), "damaged"),
        ("newer", text.replacen("export\":1", "export\":2", 1), "version 2"),
        ("garbage", "garbage".to_owned(), "dunlin export"),
        ("empty", String::new(), "dunlin export"),
        ("unknown", text.replacen("{\"twin\":", "{\"win\":", 1), "line"),
        ("long", format!("{}\n{}", lines[0], "x".repeat(17 << 20)), "no row is longer"),
    ] {
        assert!(name == "garbage" || content != text, "{name}");
        let file = path("bad.export");
        std::fs::write(&file, content).expect("written");
        let refused = target.import(&file).await;
        bad(&refused, 1, says);
        bad(&refused, 1, "bad.export");
        assert!(refused.stdout.is_empty(), "{name}");
        assert_eq!(target.rows().await, before, "{name}");
    }
    bad(&target.import(&path("missing.export")).await, 1, "missing.export");
    good(&target.import(&file).await);
    assert_eq!(target.rows().await, source.rows().await, "after all that");
    bad(&target.import(&file).await, 1, "there are devices already");
    assert_eq!(target.rows().await, source.rows().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_key_must_be_that_of_the_source() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let source = hub(&path("source"), 1).await;
    let file = path("hub.export");
    good(&source.export(&file).await);
    let mut target = Site::embedded(path("target"));
    let none = target.import(&file).await;
    bad(&none, 1, "DUNLIN_MASTER_KEY");
    assert!(!target.data.exists(), "nothing was made: {none:?}");
    let other = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    target.set("DUNLIN_MASTER_KEY", other);
    let wrong = target.import(&file).await;
    bad(&wrong, 1, "it must be that of the hub that was exported");
    assert!(!String::from_utf8_lossy(&wrong.stderr).contains(other));
    let key = std::fs::read_to_string(source.data.join("master.key")).expect("a key");
    target.set("DUNLIN_MASTER_KEY", key.trim());
    let mut import = target.command(&["import", "--input"]);
    let said = good(&import.arg(&file).output().await.expect("it runs"));
    assert!(said.contains("devices 1") && said.contains("DUNLIN_MASTER_KEY"), "{said}");
    assert_eq!(target.rows().await, source.rows().await);
    target.start().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_runs_is_left_alone() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let source = hub(&path("source"), 1).await;
    let file = path("hub.export");
    good(&source.export(&file).await);
    let running = source.start().await;
    for refused in [source.export(&path("second.export")).await, source.import(&file).await] {
        bad(&refused, 1, "stop the hub first");
        bad(&refused, 1, "in use by process");
    }
    assert!(!path("second.export").exists());
    running.stop().await;

    let place = Place::create().await;
    let mut servers = Site::on_servers(path("servers"), &place);
    let key = std::fs::read_to_string(source.data.join("master.key")).expect("a key");
    servers.set("DUNLIN_MASTER_KEY", key.trim());
    let running = servers.start().await;
    for refused in [servers.export(&path("second.export")).await, servers.import(&file).await] {
        bad(&refused, 1, "stop all its processes first");
    }
    running.stop().await;
    good(&servers.import(&file).await);
    place.remove().await;
    servers.set("DUNLIN__STORES__DEVICES", "postgres://me:secret@127.0.0.1:1/db");
    let away = servers.export(&path("second.export")).await;
    bad(&away, 3, "127.0.0.1:1/db");
    assert!(!String::from_utf8_lossy(&away.stderr).contains("secret"));
}

/// So many blocks of 512 bytes a process may write to a file; what is more fails, as on a full disk.
fn with_room_for(blocks: u32, site: &Site, arguments: &[&str]) -> tokio::process::Command {
    let inner = site.command(arguments);
    let mut command = tokio::process::Command::new("sh");
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    command.args(["-c", &script, "sh"]).arg(inner.as_std().get_program());
    command.args(inner.as_std().get_args());
    for (name, value) in inner.as_std().get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_nothing_is_left_half_done() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let source = hub(&path("source"), 120).await;
    let (file, out) = (path("hub.export"), path("out"));
    std::fs::create_dir(&out).expect("a folder");
    let output = out.join("hub.export").display().to_string();
    let mut full = with_room_for(100, &source, &["export", "--output", &output]);
    bad(&full.output().await.expect("it runs"), 1, &format!("cannot write {output}"));
    assert_eq!(std::fs::read_dir(&out).expect("listed").count(), 0, "nothing is left over");
    let nowhere = path("no/such/folder/hub.export");
    bad(&source.export(&nowhere).await, 1, "no/such/folder");
    let stdout = std::fs::File::options().write(true).open("/dev/full").expect("a full disk");
    let mut full = source.command(&["export", "--output", "-"]);
    let full = full.stdout(stdout).spawn().expect("it runs").wait_with_output();
    bad(&full.await.expect("it ends"), 1, "cannot write stdout");
    good(&source.export(&file).await);
    bad(&source.export(&file).await, 1, "is there already");

    let target = place(&path("target"), &source);
    target.start().await.stop().await;
    let before = target.rows().await;
    let input = file.display().to_string();
    let mut full = with_room_for(200, &target, &["import", "--input", &input]);
    bad(&full.output().await.expect("it runs"), 1, "nothing was imported");
    assert_eq!(target.rows().await, before);
    good(&target.import(&file).await);
    assert_eq!(target.rows().await, source.rows().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_may_come_and_go_by_a_pipe() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let source = hub(&path("source"), 2).await;
    let mut export = source.command(&["export", "--json", "--output", "-"]);
    let exported = export.output().await.expect("it runs");
    let counts: serde_json::Value = serde_json::from_slice(&exported.stderr).expect("on stderr");
    assert_eq!(counts["devices"], 2);
    let target = place(&path("target"), &source);
    let feed = async |bytes: &[u8]| {
        let mut import = target.command(&["import", "--input", "-"]);
        let mut child = import.stdin(Stdio::piped()).spawn().expect("it runs");
        let mut stdin = child.stdin.take().expect("piped");
        // It may have said no before it has read all.
        let _ = stdin.write_all(bytes).await;
        drop(stdin);
        child.wait_with_output().await.expect("it ends")
    };
    bad(&feed(&exported.stdout[..exported.stdout.len() - 1]).await, 1, "cut short");
    good(&feed(&exported.stdout).await);
    assert_eq!(target.rows().await, source.rows().await);
    bad(&dunlin().arg("export").output().await.expect("it runs"), 2, "--output");
    bad(&dunlin().arg("import").output().await.expect("it runs"), 2, "--input");
}
