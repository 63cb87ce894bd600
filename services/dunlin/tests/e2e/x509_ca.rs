//! CA certificates: uploaded, proved, and then vouching for devices.

use std::time::Duration;

use dunlin::client::{Client, ClientError};
use dunlin::test_hub::TestHub;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::{Up, ask, bad, good};
use crate::hostile_web::{Kept, VERSION};
use crate::mqtt_kit::Door;
use crate::raw::{self, QOS1, puback, publish};
use crate::registry::refused;
use crate::x509_kit::{Card, authority, between, connect, named, register};

const CERTIFICATES: &str = "/dunlin/v1/certificates";

/// Uploads a CA and proves that its key is held.
pub async fn verified(hub: &TestHub, name: &str, ca: &Card) {
    vouch(&hub.client(), name, ca).await;
}

/// Adds a CA, and proves to hold its key.
pub async fn vouch(client: &Client, name: &str, ca: &Card) {
    client.certificate_add(name, &ca.pem).await.expect("added");
    let asked = client.certificate_code(name).await.expect("a code");
    let proof = ca.sign(named(asked["verificationCode"].as_str().expect("a code")));
    let shown = client.certificate_verify(name, &proof.pem).await.expect("verified");
    assert_eq!(shown["isVerified"], true);
}

pub fn by_ca() -> Value {
    json!({"authentication": {"type": "certificateAuthority"}})
}

scenario!(a_verified_ca_vouches_for_devices);
async fn a_verified_ca_vouches_for_devices(hub: &TestHub) {
    let ca = Card::self_signed(authority("ca"));
    let other = Card::self_signed(authority("ca"));
    let middle = ca.sign(authority("between"));
    for id in ["d", "d/m"] {
        register(hub, id, &by_ca()).await;
    }
    let leaf = ca.sign(named("d"));
    let deep = middle.sign(named("d"));
    let module = middle.sign(named("d/m"));
    for door in [Door::of(hub), Door::websocket(hub)] {
        leaf.at(hub, &door).refuses(&connect("d"), 5).await;
        // Uploaded is not enough: whose CA it is has to be proved.
        hub.client().certificate_add("ca", &ca.pem).await.expect("added");
        leaf.at(hub, &door).refuses(&connect("d"), 5).await;
        hub.client().certificate_delete("ca", "*").await.expect("deleted");
        verified(hub, "ca", &ca).await;
        for card in [&leaf, &deep] {
            let mut raw = card.at(hub, &door).enter(&connect("d")).await;
            raw.send(&publish(QOS1, "devices/d/messages/events/", 1, b"x")).await;
            assert_eq!(raw.packet().await.expect("an answer"), puback(1));
        }
        module.at(hub, &door).enter(&connect("d/m")).await;
        // The root need not be shown, an intermediate must.
        leaf.at_showing(hub, &door, 1).enter(&connect("d")).await;
        deep.at_showing(hub, &door, 2).enter(&connect("d")).await;
        deep.at_showing(hub, &door, 1).refuses(&connect("d"), 5).await;
        for (card, id) in [
            (&module, "d"),
            (&leaf, "d/m"),
            (&ca.sign(named("D")), "d"),
            (&ca.sign(between(named("d"), 2020, 2021)), "d"),
            (&ca.sign(between(named("d"), 2080, 2090)), "d"),
            (&ca.sign(between(authority("x"), 2020, 2021)).sign(named("d")), "d"),
            (&leaf.sign(named("d")), "d"),
            (&other.sign(named("d")), "d"),
            (&Card::self_signed(named("d")), "d"),
        ] {
            card.at(hub, &door).refuses(&connect(id), 5).await;
        }
        let mut connected = leaf.at(hub, &door).enter(&connect("d")).await;
        hub.client().certificate_delete("ca", "*").await.expect("deleted");
        // Who is connected stays; who comes is judged anew.
        connected.expect_alive().await;
        leaf.at(hub, &door).refuses(&connect("d"), 5).await;
    }
}

scenario!(a_deleted_ca_vouches_for_no_request);
/// A connection that is kept proves no more than a new one.
async fn a_deleted_ca_vouches_for_no_request(hub: &TestHub) {
    let ca = Card::self_signed(authority("ca"));
    let leaf = ca.sign(authority("between")).sign(named("d"));
    register(hub, "d", &by_ca()).await;
    let door = leaf.at(hub, &Door::websocket(hub));
    let mut kept = Kept::over(raw::open_tls(door.address, &door.tls).await.expect("TLS"));
    let target = format!("/devices/d/messages/deviceBound?{VERSION}");
    assert_eq!(kept.ask("GET", &target, "", "", b"").await.status, 401);
    verified(hub, "ca", &ca).await;
    assert_eq!(kept.ask("GET", &target, "", "", b"").await.status, 204);
    hub.client().certificate_delete("ca", "*").await.expect("deleted");
    let out = async {
        // The answer of before is good for a second yet.
        let mut again = tokio::time::interval(Duration::from_millis(100));
        loop {
            again.tick().await;
            let answer = kept.ask("GET", &target, "", "", b"").await;
            if answer.status != 204 {
                return answer;
            }
        }
    };
    let answer = raw::within("a refusal", out).await;
    assert_eq!((answer.status, &*answer.expect_refusal("deleted")), (401, "IotHubUnauthorized"));
}

scenario!(certificates_are_managed);
async fn certificates_are_managed(hub: &TestHub) {
    let client = hub.client();
    assert_eq!(client.certificate_list().await.expect("listed"), json!([]));
    let ca = Card::self_signed(authority("my ca"));
    let added = client.certificate_add("mine", &ca.pem).await.expect("added");
    assert_eq!(added["subject"], "CN=my ca");
    assert_eq!(added["thumbprint"], ca.sha1().to_uppercase());
    assert_eq!(added["isVerified"], false);
    assert_eq!(added["expiry"], "2090-01-01T00:00:00.000Z");
    assert_eq!(added["verificationCode"], Value::Null);
    assert_eq!(client.certificate_get("MINE").await.expect("found"), added);
    assert_eq!(client.certificate_list().await.expect("listed"), json!([added]));

    // A proof is of the newest code, of that CA, and good once.
    let early = ca.sign(named(""));
    no(client.certificate_verify("mine", &early.pem).await, "generate a verification code");
    let code = |asked: &Value| asked["verificationCode"].as_str().expect("a code").to_owned();
    let old = code(&client.certificate_code("mine").await.expect("a code"));
    let asked = client.certificate_code("mine").await.expect("a code");
    let new = code(&asked);
    assert!(new != old && new.len() == 48, "{new}");
    no(client.certificate_verify("mine", &ca.sign(named(&old)).pem).await, "common name");
    let other = Card::self_signed(authority("my ca"));
    no(client.certificate_verify("mine", &other.sign(named(&new)).pem).await, "not signed by");
    no(client.certificate_verify("mine", &ca.pem).await, "common name");
    no(client.certificate_verify("mine", "nonsense").await, "PEM");
    let proof = ca.sign(named(&new)).pem;
    let path = format!("{CERTIFICATES}/mine/verify");
    let stale = client
        .request(Method::POST, &path)
        .header("if-match", added["etag"].as_str().expect("one"));
    refused(hub, "stale", stale.json(&json!({"certificate": proof})), "PreconditionFailed").await;
    let verified = client.certificate_verify("mine", &proof).await.expect("verified");
    assert_eq!(verified["isVerified"], true);
    assert_eq!(verified["verificationCode"], Value::Null);
    no(client.certificate_verify("mine", &proof).await, "generate a verification code");

    let over = Card::self_signed(between(authority("over"), 2020, 2021));
    let long = "x".repeat(65);
    for (what, name, pem, code) in [
        ("the name again", "Mine", &other.pem, "GenericConflict"),
        ("the certificate again", "again", &ca.pem, "GenericConflict"),
        ("an odd name", "a b", &other.pem, "ArgumentInvalid"),
        ("a long name", &long, &other.pem, "ArgumentInvalid"),
        ("no CA", "leaf", &ca.sign(named("x")).pem, "ArgumentInvalid"),
        ("one that is over", "over", &over.pem, "ArgumentInvalid"),
        ("no PEM", "x", &"MIIB".to_owned(), "ArgumentInvalid"),
    ] {
        let path = format!("{CERTIFICATES}/{}", dunlin::client::encoded(name));
        let request = client.request(Method::PUT, &path).json(&json!({"certificate": pem}));
        refused(hub, what, request, code).await;
    }
    client.certificate_delete("mine", "*").await.expect("deleted");
    for path in ["", "/verify", "/generate-verification-code"] {
        let method = if path.is_empty() { Method::DELETE } else { Method::POST };
        let request = client.request(method, &format!("{CERTIFICATES}/mine{path}"));
        refused(hub, path, request.json(&json!({"certificate": proof})), "CertificateNotFound")
            .await;
    }
    for n in 0..25 {
        let ca = Card::self_signed(authority("many"));
        client.certificate_add(&format!("ca-{n}"), &ca.pem).await.expect("added");
    }
    let more = client.request(Method::PUT, &format!("{CERTIFICATES}/more"));
    refused(hub, "one more", more.json(&json!({"certificate": other.pem})), "IotHubQuotaExceeded")
        .await;
}

#[test]
fn the_command_line_leads_from_a_ca_to_a_device() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let data = folder.path();
    let _hub = Up::start(data, &[]);
    let file = |name: &str, text: &str| {
        let path = data.join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let ca = Card::self_signed(authority("factory ca"));
    let path = file("ca.pem", &ca.pem);
    let said = good(&ask(data, &["ca", "add", "-n", "factory", "--path", &path]));
    assert!(
        said.contains("CN=factory ca") && said.contains("dunlin ca verify -n factory"),
        "{said}"
    );
    let listed = || good(&ask(data, &["ca", "list"]));
    let row =
        |listed: &str| listed.lines().find(|line| line.starts_with("factory")).map(str::to_owned);
    assert!(row(&listed()).is_some_and(|row| row.ends_with("no")), "{}", listed());

    let said = good(&ask(data, &["ca", "verify", "-n", "factory"]));
    let code = said.lines().next().and_then(|line| line.split(' ').next_back()).expect("a code");
    assert!(said.contains(&format!("/CN={code}")), "{said}");
    assert!(said.contains("dunlin ca verify -n factory --path proof.pem"), "{said}");
    let wrong = file("wrong.pem", &ca.sign(named("x")).pem);
    bad(&ask(data, &["ca", "verify", "-n", "factory", "--path", &wrong]), 1, "common name");
    let proof = file("proof.pem", &ca.sign(named(code)).pem);
    good(&ask(data, &["ca", "verify", "-n", "factory", "--path", &proof]));
    assert!(row(&listed()).is_some_and(|row| row.ends_with("yes")), "{}", listed());
    let shown: Value =
        serde_json::from_str(&good(&ask(data, &["ca", "show", "-n", "factory"]))).expect("JSON");
    assert_eq!(shown["isVerified"], true);

    good(&ask(data, &["device", "create", "-d", "d", "--auth-method", "x509_ca"]));
    let said = good(&ask(data, &["device", "connection-string", "-d", "d"]));
    assert_eq!(said.trim_end(), "HostName=localhost;DeviceId=d;x509=true");

    bad(&ask(data, &["ca", "add", "-n", "x", "--path", "/no/such.pem"]), 2, "cannot read");
    bad(&ask(data, &["ca", "add", "-n", "factory", "--path", &path]), 1, "already");
    bad(&ask(data, &["ca", "show", "-n", "nobody"]), 1, "dunlin ca list");
    bad(&ask(data, &["ca", "verify", "-n", "factory", "--path", &proof]), 1, "without --path");
    bad(&ask(data, &["ca", "delete", "-n", "factory", "--etag", "x"]), 1, "PreconditionFailed");
    good(&ask(data, &["ca", "delete", "-n", "factory"]));
    assert_eq!(row(&listed()), None);
}

/// The hub's words say what is wrong.
#[track_caller]
fn no(outcome: Result<Value, ClientError>, word: &str) {
    match outcome {
        Err(ClientError::Refused { status: 400, message, .. }) => {
            assert!(message.contains(word), "{message}");
        }
        other => panic!("{other:?}"),
    }
}
