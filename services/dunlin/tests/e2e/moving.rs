//! A hub moves from its data folder to servers, and back: its devices come back with the keys and
//! certificates they have, and are served where they were left.

use std::collections::BTreeMap;
use std::path::Path;

use dunlin::client::{Client, CommandMessage, TwinPatch};
use dunlin_auth::{Key, sas};
use dunlin_model::command::Disposition;
use dunlin_runtime::clock::{unix_millis, unix_seconds};
use dunlin_storage::event_log::partition_of;
use dunlin_storage::testing::Place;
use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::good;
use crate::moving_kit::{Site, known};
use crate::mqtt_twin::{DESIRED, report};
use crate::process::Hub;
use crate::raw::{
    self, CONNACK_PRESENT, Connect, DISCONNECT, Published, Raw, connack, puback, suback, subscribe,
    within,
};
use crate::x509_ca::{by_ca, vouch};
use crate::x509_kit::{Card, authority, connect as by_card, named, thumbprints};

const FILTER: &str = "devices/sas/messages/devicebound/#";

/// What the devices themselves hold, and take from one hub to the next.
struct Fleet {
    keys: BTreeMap<&'static str, Key>,
    thumb: Card,
    /// Of a CA that vouches for it.
    vouched: Card,
    /// The lock of a C2D message, held over HTTPS.
    lock: String,
}

fn token(device: &str, key: &Key) -> String {
    sas::sign(&format!("localhost/devices/{device}"), None, key, unix_seconds() + 3_600)
}

async fn connect(hub: &Hub, id: &str, key: &Key, want: [u8; 4]) -> Raw {
    let username = format!("localhost/{id}/?api-version=2021-04-12");
    let connect = Connect::new(id, &username, &token(id, key));
    let mut raw = Raw::open(hub.mqtt_address(), &raw::connector(&hub.ca_pem())).await;
    raw.send(&connect.bytes()).await;
    raw.expect(&want).await;
    raw
}

impl Fleet {
    /// One of everything.
    async fn make(hub: &Hub) -> Self {
        let client = hub.client();
        let put = async |id: &str, body: Value| {
            client.device_put(id, &body, None).await.expect("created")
        };
        let mut keys = BTreeMap::new();
        for (id, body) in [
            ("sas", json!({})),
            ("other", json!({"capabilities": {"iotEdge": true}})),
            ("off", json!({"status": "disabled", "statusReason": "stolen"})),
        ] {
            let made = put(id, body).await;
            let key = made["authentication"]["symmetricKey"]["primaryKey"].as_str().expect("one");
            keys.insert(id, Key::from_base64(key).expect("a key"));
        }
        let (thumb, ca) =
            (Card::self_signed(named("thumb")), Card::self_signed(authority("factory")));
        put("thumb", thumbprints(&thumb.sha256(), "")).await;
        vouch(&client, "factory", &ca).await;
        put("vouched", by_ca()).await;
        put("sas/module", json!({"managedBy": "me"})).await;
        client.policy_create("mine", &json!({"permissions": "RegistryRead"})).await.expect("made");
        client.policy_renew_key("service", "primary").await.expect("renewed");
        let raw = |json: &str| RawValue::from_string(json.to_owned()).expect("JSON");
        let (tags, desired) =
            (raw(r#"{"a":{"b":1.50}}"#), raw(r#"{"interval":10,"x":"ü\u0001😀"}"#));
        for id in ["sas", "sas/module", "off"] {
            let patch = TwinPatch::new(Some(&tags), Some(&desired));
            client.twin_update(id, &patch, None).await.expect("updated");
            client.twin_update(id, &patch, None).await.expect("updated again");
        }
        let mut fleet =
            Self { keys, thumb, vouched: ca.sign(named("vouched")), lock: String::new() };
        fleet.queue(&client).await;
        fleet
    }

    /// C2D messages in every state but one, for `other`, which takes them by HTTPS.
    async fn queue(&mut self, client: &Client) {
        let token = token("other", &self.keys["other"]);
        for id in ["done", "again", "locked", "waiting"] {
            send(client, "other", id, None).await;
        }
        let take = async || client.c2d_receive("other", &token).await.expect("asked").expect("one");
        let settle = async |lock: &str, disposition| {
            client.c2d_settle("other", &token, lock, disposition).await.expect("settled");
        };
        settle(&take().await.lock_token, Disposition::Complete).await;
        // It comes first again.
        settle(&take().await.lock_token, Disposition::Abandon).await;
        let (again, locked) = (take().await, take().await);
        settle(&again.lock_token, Disposition::Abandon).await;
        self.lock = locked.lock_token;
        send(client, "off", "brief", Some(unix_millis() + 2_000)).await;
    }

    async fn connect(&self, hub: &Hub, id: &str, want: [u8; 4]) -> Raw {
        connect(hub, id, &self.keys[id], want).await
    }

    /// Those that have a certificate are let in with it, and who was disabled is not.
    async fn is_known(&self, hub: &Hub) {
        for (id, card) in [("thumb", &self.thumb), ("vouched", &self.vouched)] {
            let chain = card.chain.clone();
            let tls = raw::connector_showing(&hub.ca_pem(), chain, card.key.clone());
            let mut raw = Raw::open(hub.mqtt_address(), &tls).await;
            raw.send(&by_card(id).bytes()).await;
            raw.expect(&connack(0)).await;
        }
        self.connect(hub, "off", connack(5)).await.expect_close().await;
    }
}

async fn send(client: &Client, device: &str, id: &str, expires: Option<i64>) {
    let mut headers = HeaderMap::new();
    let expires = expires.map(|at| Timestamp::from_millisecond(at).expect("a time"));
    let expires = expires.map(|at| ("iothub-expiry", at.to_string()));
    let given = [("iothub-messageid", id.to_owned()), ("iothub-ack", "full".to_owned())];
    for (name, value) in given.into_iter().chain(expires) {
        headers.insert(HeaderName::from_static(name), HeaderValue::try_from(value).expect("text"));
    }
    let message = CommandMessage { headers, body: id.into() };
    client.c2d_send(device, message).await.expect("sent");
}

async fn leave(mut raw: Raw) {
    raw.send(&DISCONNECT).await;
    raw.expect_close().await;
}

async fn acknowledge(raw: &mut Raw, message: &Published) {
    raw.send(&puback(message.packet_id)).await;
}

/// `message: outcome`, once there are so many.
async fn feedback(client: &Client, count: usize) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    let all = async {
        let mut again = tokio::time::interval(std::time::Duration::from_millis(50));
        while told.len() < count {
            again.tick().await;
            let Some(batch) = client.feedback_receive().await.expect("asked") else { continue };
            let records: Vec<Value> = serde_json::from_slice(&batch.body).expect("JSON");
            for record in records {
                let text = |name: &str| record[name].as_str().expect("text").to_owned();
                told.insert(text("originalMessageId"), text("statusCode"));
            }
            client.feedback_complete(&batch.lock_token).await.expect("completed");
        }
    };
    within("feedback", all).await;
    told
}

fn counts(output: &std::process::Output) -> Value {
    serde_json::from_str(&good(output)).expect("JSON")
}

/// A hub that had another device, whose key was sealed with another master key, before this one
/// came. Presence has counted epochs for that device and `sas` together, in its first generation.
async fn try_out(servers: &Site) {
    let bucket = |id: &str| partition_of(id.as_bytes(), 256);
    let id = (0..).map(|n| format!("try-{n}")).find(|id| bucket(id) == bucket("sas"));
    let id = id.expect("one of so many");
    let hub = servers.start().await;
    let made = hub.client().device_put(&id, &json!({}), None).await.expect("created");
    let key = made["authentication"]["symmetricKey"]["primaryKey"].as_str().expect("one");
    let key = Key::from_base64(key).expect("a key");
    leave(connect(&hub, &id, &key, connack(0)).await).await;
    hub.client().device_delete(&id, "*").await.expect("deleted");
    hub.stop().await;
}

fn master_key(data: &Path) -> String {
    let key = std::fs::read_to_string(data.join("master.key")).expect("a key");
    key.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_moves_to_servers_and_back() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let home = Site::embedded(path("home"));
    // Generations of epochs that the servers have not come to.
    for _ in 0..3 {
        home.start().await.stop().await;
    }
    let hub = home.start().await;
    let fleet = Fleet::make(&hub).await;
    let mut raw = fleet.connect(&hub, "sas", connack(0)).await;
    raw.send(&subscribe(1, &[(FILTER, 1), (DESIRED, 1)])).await;
    raw.expect(&suback(1, &[1, 1])).await;
    raw.send(&report("1", r#"{"was":1e16}"#)).await;
    for id in ["held", "queued"] {
        send(&hub.client(), "sas", id, None).await;
        // One after the other: neither is acknowledged.
        assert_eq!(raw.published().await.text(), id);
    }
    let before = known(&hub.client()).await;
    assert_eq!(before["twin of sas"]["properties"]["reported"]["was"], json!(1e16));
    // It holds what it was sent, and cannot give it back.
    hub.kill().await;

    let moved = path("there.export");
    let exported = counts(&home.export(&moved).await);
    let numbers = ["devices", "modules", "commands", "feedback", "settings"].map(|n| &exported[n]);
    // Of an edge device, two modules are the hub's.
    assert_eq!(numbers, [5, 3, 6, 1, 2]);
    let place = Place::create().await;
    let mut servers = Site::on_servers(path("servers"), &place);
    servers.set("DUNLIN_MASTER_KEY", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=");
    try_out(&servers).await;
    servers.set("DUNLIN_MASTER_KEY", &master_key(&home.data));
    assert_eq!(counts(&servers.import(&moved).await), exported);
    servers.holds(&moved).await;

    let hub = servers.start().await;
    assert_eq!(known(&hub.client()).await, before);
    fleet.is_known(&hub).await;
    // It is subscribed, and handed first what it was handed last.
    let mut raw = fleet.connect(&hub, "sas", CONNACK_PRESENT).await;
    let held = raw.published().await;
    assert_eq!(held.text(), "held");
    assert_eq!(raw.published().await.text(), "queued");
    acknowledge(&mut raw, &held).await;
    let desired = RawValue::from_string(r#"{"interval":20}"#.to_owned()).expect("JSON");
    let patch = TwinPatch::new(None, Some(&desired));
    let updated = hub.client().twin_update("sas", &patch, None).await.expect("updated");
    let version = &before["twin of sas"]["properties"]["desired"]["$version"];
    let told = &updated["properties"]["desired"]["$version"];
    assert_eq!(told.as_u64(), version.as_u64().map(|version| version + 1));
    let told = raw.published().await;
    assert!(told.topic.contains("desired") && told.text().contains("20"), "{told:?}");
    leave(raw).await;
    let (client, other) = (hub.client(), token("other", &fleet.keys["other"]));
    client.c2d_settle("other", &other, &fleet.lock, Disposition::Complete).await.expect("held");
    let again = client.c2d_receive("other", &other).await.expect("asked").expect("one");
    assert_eq!(again.body, b"again");
    assert_eq!(again.headers["iothub-deliverycount"], "2");
    let before = known(&client).await;
    hub.stop().await;

    let moved = path("back.export");
    let exported = counts(&servers.export(&moved).await);
    let home = Site::embedded(path("new home"));
    std::fs::create_dir(&home.data).expect("a folder");
    let key = path("home").join("master.key");
    std::fs::copy(key, home.data.join("master.key")).expect("the key goes along");
    assert_eq!(counts(&home.import(&moved).await), exported);
    home.holds(&moved).await;
    let hub = home.start().await;
    assert_eq!(known(&hub.client()).await, before);
    fleet.is_known(&hub).await;
    let mut raw = fleet.connect(&hub, "sas", CONNACK_PRESENT).await;
    let queued = raw.published().await;
    assert_eq!(queued.text(), "queued");
    acknowledge(&mut raw, &queued).await;
    let told = feedback(&hub.client(), 5).await;
    let told: Vec<_> = told.iter().map(|(id, end)| (&**id, &**end)).collect();
    let done = "Success";
    let all = [("done", done), ("held", done), ("locked", done), ("queued", done)];
    assert_eq!(told, [&[("brief", "Expired")], &all[..]].concat());
    leave(raw).await;
    hub.stop().await;
    place.remove().await;
}
