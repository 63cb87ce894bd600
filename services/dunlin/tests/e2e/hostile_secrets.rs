//! No secret in a log: the real binary logs all it can while devices and back ends come with good
//! and bad credentials; then what it wrote is searched for every key and token they used.

use std::collections::BTreeMap;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dunlin::test_hub::TestHub;
use dunlin_auth::connection_string::{ConnectionString, Signer};
use dunlin_auth::{Key, Permissions, Policy, sas};
use dunlin_model::Identity;
use dunlin_registry::MasterKey;
use dunlin_registry::testing::expired_query_token;
use dunlin_runtime::clock;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::hostile_kit::{Answer, Place, Prey, Victim};
use crate::raw::{Connect, Raw, connack, within};
use crate::websocket_kit::{TARGET, TEXT, Ws, frame, handshake};

/// What may never be found, with what it is.
#[derive(Default)]
struct Secrets(BTreeMap<String, String>);

impl Secrets {
    /// A secret, and its first characters: a log may have cut it off. `+`, `/` and `=` are written
    /// in more than one way, so the part up to the first of them is searched for as well, if it is
    /// long enough to be no accident.
    fn add(&mut self, what: &str, secret: &str) {
        let start: String = secret.chars().take(16).collect();
        let plain: String = secret.chars().take_while(char::is_ascii_alphanumeric).collect();
        for part in [secret.to_owned(), start, plain] {
            if part.len() >= 8 {
                self.0.insert(part, what.to_owned());
            }
        }
    }

    fn key(&mut self, what: &str, key: &Key) {
        self.add(what, &key.to_base64());
    }

    /// A token's signature.
    fn token(&mut self, what: &str, token: &str) {
        match token.split(['&', ' ']).find_map(|part| part.strip_prefix("sig=")) {
            Some(signature) => self.add(what, signature),
            None => drop(self.0.insert(token.to_owned(), what.to_owned())),
        }
    }

    /// All keys in a JSON answer, of which there must be so many.
    fn keys_in(&mut self, what: &str, answer: &Answer, count: usize) {
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
        let (mut left, mut found) =
            (vec![serde_json::from_slice::<Value>(&answer.body).expect("JSON")], 0);
        while let Some(value) = left.pop() {
            match value {
                Value::Array(items) => left.extend(items),
                Value::Object(members) => {
                    for (name, member) in members {
                        match member {
                            Value::String(key) if name.ends_with("Key") && key.len() > 20 => {
                                self.add(what, &key);
                                found += 1;
                            }
                            other => left.push(other),
                        }
                    }
                }
                _ => {}
            }
        }
        assert_eq!(found, count, "{what}");
    }

    fn search(&self, place: &str, text: &str) {
        for (secret, what) in &self.0 {
            if let Some(at) = text.find(secret.as_str()) {
                let line = text[..at].matches('\n').count();
                let around = text.lines().nth(line).unwrap_or_default();
                let around: String = around.chars().take(400).collect();
                panic!("{what} is in {place}, line {}: {around}", line + 1);
            }
        }
    }
}

fn token(resource: &str, policy: Option<&str>, key: &Key) -> String {
    sas::sign(resource, policy, key, clock::unix_seconds() + 3_600)
}

async fn dial(place: &Place) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(place.https).await.expect("a connection");
    let name = ServerName::try_from("localhost").expect("a name");
    place.tls.connect(name, tcp).await.expect("TLS")
}

async fn ask(place: &Place, request: &str) -> Answer {
    let mut tls = dial(place).await;
    tls.write_all(request.as_bytes()).await.expect("sent");
    let mut came = Vec::new();
    let _ = within("an answer", tls.read_to_end(&mut came)).await;
    Answer::take(&mut came).expect("an answer")
}

async fn rest(place: &Place, method: &str, target: &str, token: &str, body: &str) -> Answer {
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    ask(place, &request).await
}

/// Devices that come with what is and with what is not theirs.
async fn devices(place: &Place, secrets: &mut Secrets, victim: &Victim) {
    let (mut raw, _) = victim.enter().await;
    victim.deliver(&mut raw, b"hello").await;
    let host = victim.login.hostname();
    let resource = format!("{host}/devices/{}", victim.id);
    let stranger = Key::generate();
    let wrong = token(&resource, None, &stranger);
    let elsewhere = token("other.example/devices/d", None, &victim.login.key);
    let expired = sas::sign(&resource, None, &victim.login.key, 1_000_000_000);
    let good = victim.token();
    let cut = good[..good.len() - 20].to_owned();
    let no_scheme = good.replace("SharedAccessSignature ", "");
    let twice = format!("{good}&{}", good.replace("SharedAccessSignature ", ""));
    // People do send these: the key itself, and the whole connection string.
    let bare = victim.login.key.to_base64();
    let connection_string = victim.login.to_string();
    secrets.key("a stranger's key", &stranger);
    for password in [wrong, elsewhere, expired, cut, no_scheme, twice, bare, connection_string] {
        secrets.token("a device's token", &password);
        // Its beginning is no secret, but the words of the form.
        secrets.0.insert(password.clone(), "a password".to_owned());
        let mut raw = Raw::open(place.mqtt, &place.tls).await;
        raw.send(&victim.connect_with(&password).bytes()).await;
        raw.expect(&connack(5)).await;
    }
    secrets.token("a device's token", &good);
    // In the wrong field, and in packets that are malformed.
    let named = Connect { username: Some(good.clone()), ..victim.connect() };
    let malformed = Connect { flags: 1, ..victim.connect() };
    let old = Connect { level: 3, protocol: "MQIsdp", ..victim.connect() };
    for connect in [named, malformed, old] {
        let mut raw = Raw::open(place.mqtt, &place.tls).await;
        raw.send(&connect.bytes()).await;
        raw.rest().await;
    }
}

/// Back ends with good, bad and malformed tokens, and bodies with keys in good and bad places.
async fn back_ends(place: &Place, secrets: &mut Secrets, owner: &ConnectionString) {
    let target = "/devices/rest?api-version=2021-04-12";
    let good = token(owner.hostname(), Some("iothubowner"), &owner.key);
    secrets.token("the owner's token", &good);
    let stranger = Key::generate();
    secrets.key("a stranger's policy key", &stranger);
    let cut = good[..good.len() - 30].to_owned();
    for bad in [
        token(owner.hostname(), Some("iothubowner"), &stranger),
        token(owner.hostname(), Some("nobody"), &owner.key),
        token("other.example", Some("iothubowner"), &owner.key),
        format!("Bearer {}", owner.key.to_base64()),
        owner.key.to_base64(),
        owner.to_string(),
        cut,
    ] {
        secrets.token("a back end's token", &bad);
        let answer = rest(place, "GET", target, &bad, "").await;
        assert_eq!(answer.status, 401, "{answer:?}");
    }
    let (primary, secondary) = (Key::generate(), Key::generate());
    secrets.key("a key that was set", &primary);
    secrets.key("a key that was set", &secondary);
    let (first, second) = (primary.to_base64(), secondary.to_base64());
    let keys = |first: &str, second: &str| {
        format!(
            r#"{{"authentication":{{"type":"sas","symmetricKey":{{"primaryKey":"{first}","secondaryKey":"{second}"}}}}}}"#
        )
    };
    assert_eq!(rest(place, "PUT", target, &good, &keys(&first, &second)).await.status, 200);
    assert_eq!(rest(place, "GET", target, &good, "").await.status, 200);
    for body in [
        keys(&first, &format!("{second}?")),
        keys(&first, ""),
        format!(r#"{{"authentication":"{first}"}}"#),
        format!(r#"{{"authentication":{{"type":"{first}"}}}}"#),
        format!(r#"{{"status":"{first}"}}"#),
        format!(r#"{{"deviceId":"{first}"}}"#),
        keys(&first, &second)[..80].to_owned(),
    ] {
        let answer = rest(place, "PUT", target, &good, &body).await;
        assert_eq!(answer.status / 100, 4, "{answer:?}");
    }
    // A token where it does not belong, and a request that is none.
    ask(place, &format!("GET /{good} HTTP/1.1\r\n\r\n")).await;
    ask(place, &format!("GET / HTTP/9.9\r\nAuthorization: {good}\r\n\r\n")).await;
    let query = good.replace(' ', "%20");
    rest(place, "GET", &format!("/devices?api-version=2021-04-12&token={query}"), "x", "").await;
    rest(place, "GET", "/dunlin/v1/events?device=%00", &good, "").await;
}

/// Keys that the hub makes or is given otherwise than with one device: of modules, in bulk, renewed,
/// of policies.
async fn keys(place: &Place, secrets: &mut Secrets, owner: &ConnectionString) {
    const VERSION: &str = "api-version=2021-04-12";
    let good = token(owner.hostname(), Some("iothubowner"), &owner.key);
    secrets.token("the owner's token", &good);
    let call = async |method: &str, path: &str, body: &Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        rest(place, method, &format!("{path}?{VERSION}"), &good, &body).await
    };
    let module = call("PUT", "/devices/rest/modules/m", &json!({})).await;
    secrets.keys_in("a module's key", &module, 2);
    let (primary, secondary) = (Key::generate(), Key::generate());
    secrets.key("a key of a bulk call", &primary);
    secrets.key("a key of a bulk call", &secondary);
    let symmetric =
        json!({"primaryKey": primary.to_base64(), "secondaryKey": secondary.to_base64()});
    let sas = json!({"type": "sas", "symmetricKey": symmetric});
    let row = |id: &str, mode: &str| json!({"id": id, "importMode": mode, "authentication": sas});
    let own = json!({"id": "bulk2", "importMode": "create"});
    let good_rows = json!([row("bulk", "create"), own]);
    assert_eq!(call("POST", "/devices", &good_rows).await.status, 200);
    // The second time both fail, and so does what is no key.
    assert_eq!(call("POST", "/devices", &good_rows).await.status, 400);
    let mut bad = row("bulk3", "create");
    bad["authentication"]["symmetricKey"]["secondaryKey"] = "".into();
    assert_eq!(call("POST", "/devices", &json!([bad, row("bulk", "fly")])).await.status, 400);
    for id in ["bulk", "bulk2"] {
        let read = call("GET", &format!("/devices/{id}"), &Value::Null).await;
        secrets.keys_in("a key made in bulk", &read, 2);
    }
    let targets = json!([{"id": "bulk"}, {"id": "rest", "moduleId": "m"}]);
    for which in ["primaryKey", "both"] {
        let body = json!({"policyKey": which, "devices": targets});
        let renewed = call("POST", "/devices/keys/regenerate", &body).await;
        secrets.keys_in("a renewed key", &renewed, 4);
    }
    let policy = json!({"name": "tests", "permissions": "RegistryRead"});
    let made = rest(place, "POST", "/dunlin/v1/policies", &good, &policy.to_string()).await;
    assert_eq!(made.status, 201, "{made:?}");
    secrets.keys_in("a policy's key", &Answer { status: 200, ..made }, 2);
    for which in ["primary", "secondary", "swap"] {
        let (path, body) = ("/dunlin/v1/policies/tests/renew-key", json!({"key": which}));
        let renewed = rest(place, "POST", path, &good, &body.to_string()).await;
        secrets.keys_in("a policy's renewed key", &renewed, 2);
    }
}

/// MQTT's password in a frame of a WebSocket: a good one, a bad one, and one in a frame that is none.
async fn web_sockets(place: &Place, secrets: &mut Secrets, victim: &Victim) {
    let open = async || {
        let mut ws = Ws::over(dial(place).await);
        ws.send(handshake(TARGET, &[]).as_bytes()).await;
        assert_eq!(ws.answer().await.status, 101);
        ws
    };
    let good = victim.token();
    let resource = format!("{}/devices/{}", victim.login.hostname(), victim.id);
    let bad = token(&resource, None, &Key::generate());
    for (password, code) in [(&good, 0), (&bad, 5)] {
        secrets.token("a password over WebSocket", password);
        let mut raw = open().await.into_raw();
        raw.send(&victim.connect_with(password).bytes()).await;
        raw.expect(&connack(code)).await;
    }
    let mut ws = open().await;
    ws.send(&frame(TEXT, &victim.connect_with(&bad).bytes())).await;
    while ws.frame().await.is_some() {}
    let mut ws = Ws::over(dial(place).await);
    let target = format!("{TARGET}?{}", good.replace(' ', "%20"));
    ws.send(handshake(&target, &[("Sec-WebSocket-Protocol", "amqp")]).as_bytes()).await;
    ws.answer().await;
}

/// Tokens for URLs: issued, used, used where and when they are not good, and not for what they are.
async fn browsers(
    place: &Place,
    secrets: &mut Secrets,
    owner: &ConnectionString,
    master_key: &MasterKey,
) {
    const EVENTS: &str = "/dunlin/v1/events";
    let good = token(owner.hostname(), Some("iothubowner"), &owner.key);
    secrets.token("the owner's token", &good);
    let mut issued = Vec::new();
    for _ in 0..2 {
        let answer = rest(place, "POST", &format!("{EVENTS}/token"), &good, "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        issued.push(body["token"].as_str().expect("a token").to_owned());
    }
    let policies = rest(place, "GET", "/dunlin/v1/policies/iothubowner", &good, "").await;
    let shown: Value = serde_json::from_slice(&policies.body).expect("JSON");
    let key = |name: &str| Key::from_base64(shown[name].as_str().expect("a key")).expect("a key");
    let policy = Policy {
        name: "iothubowner".to_owned(),
        permissions: Permissions::NONE,
        primary: key("primaryKey"),
        secondary: key("secondaryKey"),
    };
    secrets.key("the owner's second key", &policy.secondary);
    let expired = expired_query_token(master_key, EVENTS, &policy);
    let damaged = format!("x{}", issued[0]);
    for (what, token) in [
        ("a token for a URL", &issued[0]),
        ("another token for a URL", &issued[1]),
        ("an expired token for a URL", &expired),
        ("a damaged token for a URL", &damaged),
    ] {
        // All of them begin alike with what says the form; what follows is each one's own.
        secrets.0.insert(token[2..18].to_owned(), what.to_owned());
        secrets.0.insert(token.to_owned(), what.to_owned());
    }
    let by_url = |target: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    };
    // As it is meant: the stream opens, and is left.
    let mut tls = dial(place).await;
    let target = format!("{EVENTS}?from=end&access_token={}", issued[0]);
    tls.write_all(by_url(&target).as_bytes()).await.expect("sent");
    let mut came = Vec::new();
    while !String::from_utf8_lossy(&came).contains("id: ") {
        let read = within("the stream", tls.read_buf(&mut came)).await.expect("read");
        assert!(read > 0, "{}", String::from_utf8_lossy(&came));
    }
    drop(tls);
    for (target, status) in [
        (format!("{EVENTS}?access_token={expired}"), 401),
        (format!("{EVENTS}?access_token={damaged}"), 401),
        (format!("{EVENTS}?access_token={}&access_token={damaged}", issued[0]), 401),
        (format!("{EVENTS}?from=x&access_token={}", issued[1]), 400),
        (format!("{EVENTS}?last-event-id={0}&access_token={0}", issued[1]), 400),
        (format!("{EVENTS}/{}", issued[1]), 404),
        (format!("{EVENTS}/token?access_token={}", issued[1]), 405),
        (format!("/devices?api-version=2021-04-12&access_token={}", issued[1]), 401),
    ] {
        let answer = ask(place, &by_url(&target)).await;
        assert_eq!(answer.status, status, "{target}: {answer:?}");
    }
    for header in [issued[1].clone(), format!("Bearer {}", issued[1])] {
        assert_eq!(rest(place, "GET", EVENTS, &header, "").await.status, 401);
    }
}

async fn no_secret_is_logged_at(level: &str, json: bool) {
    let prey = match json {
        false => Prey::start(&[("DUNLIN_LOG", level)]).await,
        true => Prey::start_json(&[("DUNLIN_LOG", level)]).await,
    };
    let mut secrets = Secrets::default();
    let text = prey.info()["owner_connection_string"].as_str().expect("a string");
    let owner = ConnectionString::parse(text).expect("a connection string");
    secrets.key("the owner's key", &owner.key);
    let victim = prey.create_device("d").await;
    secrets.key("a device's key", &victim.login.key);
    let shown = prey.run(&["device", "show", "-d", "d", "--json"]).await.stdout;
    let shown: Value = serde_json::from_slice(&shown).expect("JSON");
    for name in ["primaryKey", "secondaryKey"] {
        let key = shown["authentication"]["symmetricKey"][name].as_str().expect("a key");
        secrets.add(name, key);
    }
    devices(&prey.place(), &mut secrets, &victim).await;
    web_sockets(&prey.place(), &mut secrets, &victim).await;
    back_ends(&prey.place(), &mut secrets, &owner).await;
    keys(&prey.place(), &mut secrets, &owner).await;
    let text = std::fs::read_to_string(prey.data().join("master.key")).expect("the master key");
    let bytes = STANDARD.decode(text.trim()).expect("base64").try_into().expect("32 bytes");
    browsers(&prey.place(), &mut secrets, &owner, &MasterKey::new(&bytes)).await;
    // The command line, and its mistakes.
    prey.run(&["device", "list"]).await;
    for login in
        [owner.to_string().replace("SharedAccessKey=", "SharedAccessKey=x"), owner.key.to_base64()]
    {
        let failed = prey.run(&["device", "list", "--login", &login]).await;
        assert!(!failed.status.success());
        secrets.search("a command's errors", &String::from_utf8_lossy(&failed.stderr));
    }
    for entry in walk(&prey.data()) {
        if entry.file_name().is_some_and(|name| name == "master.key") {
            let bytes = std::fs::read(&entry).expect("the master key");
            let text = String::from_utf8_lossy(&bytes).trim().to_owned();
            secrets.add("the master key", &text);
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            secrets.add("the master key", &hex);
        }
    }
    assert!(secrets.0.values().any(|what| what == "the master key"), "it was not found");
    let printed = prey.stdout();
    let folder = prey.stop().await;
    let log = std::fs::read(folder.path().join("stderr")).expect("the log");
    let log = String::from_utf8_lossy(&log).into_owned();
    assert!(log.contains("connection refused"), "there is no log to search");
    secrets.search("the log", &log);
    // The banner tells the owner's connection string, once and on purpose.
    let banner = printed.replacen(&owner.to_string(), "", 1);
    secrets.search("what it printed", &banner);
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test]
async fn no_secret_is_logged_as_a_hub_is_run() {
    no_secret_is_logged_at("info", true).await;
}

/// Our own crates and all that they use.
#[tokio::test]
async fn no_secret_is_logged_at_the_finest_level() {
    no_secret_is_logged_at("trace", false).await;
}

/// Set in the process that the next test starts: this very test, run there.
const ROLE_APART: &str = "DUNLIN_TEST_LOGS_ALL";
/// What begins the lines in which that process tells which secrets it used.
const TOLD: &str = "secret: ";

/// Roles that call one another over HTTP/2 log to the end of what they can.
#[test]
fn no_secret_is_logged_between_roles() {
    if std::env::var_os(ROLE_APART).is_some() {
        return log_all();
    }
    let name = "hostile_secrets::no_secret_is_logged_between_roles";
    let output = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args([name, "--exact", "--nocapture"])
        .env(ROLE_APART, "1")
        .output()
        .expect("it runs");
    let [told, log] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("text"));
    let tail: String = log.lines().rev().take(20).map(|line| format!("{line}\n")).collect();
    assert!(output.status.success(), "{told}{tail}");
    assert!(
        log.contains("h2::") && log.contains("connection refused"),
        "there is no log to search"
    );
    let told = told.lines().filter_map(|line| line.split_once(TOLD)?.1.split_once('\t'));
    let secrets =
        Secrets(told.map(|(what, secret)| (secret.to_owned(), what.to_owned())).collect());
    assert!(secrets.0.len() > 20);
    secrets.search("the log", &log);
}

fn log_all() {
    tracing_subscriber::fmt()
        .with_env_filter("trace")
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let secrets = runtime.expect("a runtime").block_on(async {
        let hub = TestHub::split().await;
        let place = Place {
            mqtt: hub.mqtt_addr(),
            https: hub.https_addr(),
            tls: crate::raw::connector(hub.ca_pem()),
        };
        let mut secrets = Secrets::default();
        let owner = hub.owner_connection_string().clone();
        secrets.key("the owner's key", &owner.key);
        let key = hub.create_device("d").await;
        secrets.key("a device's key", &key);
        let id = Identity::device("d").expect("an id");
        let login =
            ConnectionString { host: owner.host.clone(), signer: Signer::Identity(id), key };
        let victim = Victim::new("d", login, &place);
        devices(&place, &mut secrets, &victim).await;
        web_sockets(&place, &mut secrets, &victim).await;
        back_ends(&place, &mut secrets, &owner).await;
        keys(&place, &mut secrets, &owner).await;
        browsers(&place, &mut secrets, &owner, &MasterKey::new(&[7; MasterKey::BYTES])).await;
        hub.stop().await;
        secrets
    });
    let mut out = std::io::stdout();
    for (secret, what) in &secrets.0 {
        writeln!(out, "\n{TOLD}{what}\t{secret}").expect("written");
    }
}
