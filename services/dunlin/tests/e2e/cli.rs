//! The real binary: `dunlin up` and the commands beside it.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use dunlin_auth::ConnectionString;
use serde_json::Value;
use tempfile::TempDir;

pub fn dunlin(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
    command.args(arguments);
    for variable in ["DUNLIN_LOGIN", "DUNLIN_CA", "DUNLIN_MASTER_KEY", "DUNLIN_LOG"] {
        command.env_remove(variable);
    }
    command
}

/// Runs a command to its end on the hub of that folder.
pub fn ask(data: &Path, arguments: &[&str]) -> Output {
    dunlin(arguments).arg("--data").arg(data).output().expect("it runs")
}

#[track_caller]
pub fn good(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[track_caller]
pub fn bad(output: &Output, code: i32, says: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(says), "{says:?} is not in {stderr}");
}

/// A running `dunlin up`, killed when dropped.
pub struct Up {
    child: Child,
    banner: String,
}

impl Up {
    pub fn start(data: &Path, more: &[&str]) -> Self {
        let mut child = up(data, more).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut banner = String::new();
        // The last line it prints.
        while !banner.contains("events monitor") {
            match lines.next() {
                Some(line) => banner.push_str(&format!("{}\n", line.expect("UTF-8"))),
                None => {
                    let mut stderr = String::new();
                    child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("UTF-8");
                    panic!("it ended: {stderr}");
                }
            }
        }
        Self { child, banner }
    }

    /// Asks it to stop and waits for its exit code.
    pub fn stop(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("sh")
                .args(["-c", "kill -TERM $0", &pid])
                .status()
                .expect("kill")
                .success()
        );
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn up(data: &Path, more: &[&str]) -> Command {
    let mut command = dunlin(&["up", "--mqtt-port", "0", "--https-port", "0", "--admin-port", "0"]);
    command.args(more).arg("--data").arg(data);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn a_hub_and_the_commands_beside_it() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path().join("data");
    bad(&ask(&data, &["device", "list"]), 3, "dunlin up");
    let hub = Up::start(&data, &["--hostname", "hub.example.com"]);

    let path = data.join("hub.json");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    for name in ["hub.json", "master.key", "tls/ca.key", "tls/server.key"] {
        assert_eq!(mode(&data.join(name)), 0o600, "{name}");
    }
    let file: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
    assert_eq!(file["hostname"], "hub.example.com");
    assert_eq!(file["pid"], hub.child.id());
    let owner = file["owner_connection_string"].as_str().expect("a string");
    for said in [owner, "hub.example.com", "ca.pem", &file["mqtt_port"].to_string()] {
        assert!(hub.banner.contains(said), "{said} is not in {}", hub.banner);
    }
    // Found by the environment, as in a container, or by what is said; no certificate is wanted.
    let admin = file["admin_port"].to_string();
    let health = |flags: &[&str]| {
        let none = [("SSL_CERT_FILE", "/none"), ("SSL_CERT_DIR", "/none")];
        let mut health = dunlin(&["health"]);
        health.args(flags).env("DUNLIN__ADMIN__PORT", &admin).envs(none).output().expect("it runs")
    };
    let address = format!("127.0.0.1:{admin}");
    for flags in [&[][..], &["--address", &address]] {
        assert!(good(&health(flags)).contains("gateway ready"), "{flags:?}");
    }
    bad(&health(&["--address", "127.0.0.1:1"]), 3, "refused");
    let login = ConnectionString::parse(owner).expect("a connection string");
    assert_eq!(login.host, format!("hub.example.com:{}", file["https_port"]));

    assert!(
        good(&ask(&data, &["device", "create", "-d", "d1"])).contains("connection-string -d d1")
    );
    bad(&ask(&data, &["device", "create", "-d", "d1"]), 1, "DeviceAlreadyExists");
    bad(&ask(&data, &["device", "create", "-d", "a b"]), 2, "device id");
    bad(&ask(&data, &["device", "create"]), 2, "--device-id");
    bad(&ask(&data, &["device", "show", "-d", "nobody"]), 1, "DeviceNotFound");
    let shown: Value =
        serde_json::from_str(&good(&ask(&data, &["device", "show", "-d", "d1"]))).expect("JSON");
    let key = shown["authentication"]["symmetricKey"]["primaryKey"].as_str().expect("a key");
    assert_eq!(
        good(&ask(&data, &["device", "connection-string", "-d", "d1"])),
        format!("HostName={};DeviceId=d1;SharedAccessKey={key}\n", login.hostname())
    );
    let token = good(&ask(&data, &["device", "sas-token", "-d", "d1", "--duration", "60"]));
    let token = dunlin_auth::SasToken::parse(token.trim()).expect("a token");
    assert!(token.policy().is_none());

    let args =
        ["device", "update", "-d", "d1", "--status", "disabled", "--status-reason", "stolen"];
    assert_eq!(good(&ask(&data, &args)), "d1 is disabled\n");
    bad(&ask(&data, &["device", "update", "-d", "d1"]), 2, "--status");
    let list = good(&ask(&data, &["device", "list"]));
    let words: Vec<_> = list.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(words, ["d1", "disabled", "Disconnected", "sas", "stolen"]);
    let list: Value =
        serde_json::from_str(&good(&ask(&data, &["device", "list", "--json", "--top", "5"])))
            .expect("JSON");
    assert_eq!(list[0]["statusReason"], "stolen");
    assert_eq!(list[0]["authentication"], shown["authentication"], "an update keeps the keys");

    let monitor = ["events", "monitor", "--from-start", "--timeout", "0", "--json"];
    assert_eq!(good(&ask(&data, &monitor)), "");
    let args = ["device", "delete", "-d", "d1", "--etag", "x"];
    bad(&ask(&data, &args), 1, "PreconditionFailed");
    good(&ask(&data, &["device", "delete", "-d", "d1"]));
    bad(&ask(&data, &["device", "delete", "-d", "d1"]), 1, "DeviceNotFound");

    // From elsewhere, with the connection string and the CA. The name does not resolve there, so
    // one that does takes its place: the hub goes by all of its names.
    let elsewhere = owner.replace("hub.example.com", "localhost");
    let ca = file["ca"].as_str().expect("a path");
    let ask = |login: &str, ca: Option<&str>| {
        let mut command = dunlin(&["device", "list"]);
        command.env("DUNLIN_LOGIN", login);
        ca.into_iter().for_each(|ca| {
            command.env("DUNLIN_CA", ca);
        });
        command.output().expect("it runs")
    };
    good(&ask(&elsewhere, Some(ca)));
    bad(&ask(&elsewhere, None), 3, "DUNLIN_CA");
    bad(&ask("nonsense", Some(ca)), 2, "connection string");
    let wrong = elsewhere.replace(&login.key.to_base64(), &"A".repeat(44));
    bad(&ask(&wrong, Some(ca)), 1, "IotHubUnauthorized");
    assert_eq!(hub.stop(), Some(0));
    bad(&ask(&elsewhere, Some(ca)), 3, "dunlin up");
}

#[test]
fn a_folder_has_one_hub() {
    let folder = TempDir::new().expect("a folder");
    let hub = Up::start(folder.path(), &[]);
    let second = up(folder.path(), &[]).output().expect("it runs");
    bad(&second, 1, &format!("in use by process {}", hub.child.id()));
}

#[test]
fn identities_and_keys_survive_a_stop_and_a_kill() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path();
    let hub = Up::start(data, &[]);
    good(&ask(data, &["device", "create", "-d", "d1"]));
    let shown = good(&ask(data, &["device", "show", "-d", "d1"]));
    let ca = std::fs::read(data.join("tls/ca.pem")).expect("the CA");
    let policy =
        |hub: &Up| hub.banner.split_once("SharedAccessKey=").map(|(_, key)| key[..44].to_owned());
    let owner = policy(&hub);
    assert_eq!(hub.stop(), Some(0));
    for _ in 0..2 {
        let hub = Up::start(data, &[]);
        assert_eq!(good(&ask(data, &["device", "show", "-d", "d1"])), shown);
        assert_eq!(std::fs::read(data.join("tls/ca.pem")).expect("the CA"), ca);
        assert_eq!(policy(&hub), owner);
        // Killed, not asked.
        drop(hub);
    }
}

#[test]
fn what_cannot_start_says_why() {
    let folder = TempDir::new().expect("a folder");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port().to_string();
    for flag in ["--mqtt-port", "--https-port", "--admin-port"] {
        let mut command = dunlin(&["up"]);
        for other in ["--mqtt-port", "--https-port", "--admin-port"] {
            command.args([other, if other == flag { &port } else { "0" }]);
        }
        let output = command.arg("--data").arg(folder.path()).output().expect("it runs");
        bad(&output, 1, &port);
        bad(&output, 1, flag);
    }
    let run = |name: &str, value: &str| {
        up(folder.path(), &[]).env(name, value).output().expect("it runs")
    };
    bad(&run("DUNLIN__STORES__DEVICES", "postgres://me:secret@host/db"), 1, "stores.devices");
    bad(&run("DUNLIN__GATEWAY__MQTTPORT", "1"), 1, "mqttport");
    bad(&run("DUNLIN_MASTER_KEY", "AA=="), 1, "DUNLIN_MASTER_KEY");
    bad(&run("DUNLIN_LOG", "=="), 1, "DUNLIN_LOG");
    let missing = up(folder.path(), &["--config", "/no/such.toml"]).output().expect("it runs");
    bad(&missing, 1, "/no/such.toml");
    let half = up(folder.path(), &["--tls-cert", "x.pem"]).output().expect("it runs");
    bad(&half, 2, "--tls-key");
    bad(&dunlin(&["run", "--roles", "registry,fridge"]).output().expect("it runs"), 2, "fridge");
    let part = dunlin(&["run", "--roles", "registry"]).output().expect("it runs");
    bad(&part, 1, "stores.devices = \"embedded:\"");
    let told = dunlin(&["run", "--roles", "api", "--announce", "file"]).output().expect("it runs");
    bad(&told, 2, "needs the role gateway");
    // Another master key than the one its secrets are sealed with.
    let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    drop(Up::start(folder.path(), &[]));
    bad(&run("DUNLIN_MASTER_KEY", key), 1, "master key");
}

#[test]
fn the_configuration_can_be_printed_and_read_back() {
    let folder = TempDir::new().expect("a folder");
    let text = good(&dunlin(&["config", "--print"]).output().expect("it runs"));
    let path = folder.path().join("hub.toml");
    std::fs::write(&path, text).expect("written");
    let config = path.display().to_string();
    drop(Up::start(&folder.path().join("data"), &["--config", &config]));
}
