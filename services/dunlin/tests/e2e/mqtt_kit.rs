//! What the MQTT tests share: devices with their keys, the door they knock at, and what of theirs
//! has reached the event log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dunlin::config::Config;
use dunlin::hub::{Hub, Settings, Stores};
use dunlin::test_hub::TestHub;
use dunlin_auth::{Key, sas};
use dunlin_gateway::TlsFiles;
use dunlin_model::event::Event;
use dunlin_registry::MasterKey;
use dunlin_runtime::{Clock, Role, clock};
use dunlin_storage::EventLog;
use dunlin_storage::event_log::{ReadLimit, TOPIC_D2C, partition_of};
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;

use crate::raw::{
    self, CONNACK_PRESENT, Connect, QOS1, Raw, Will, connack, puback, publish, within,
};
use crate::websocket_kit::Ws;

/// Everything of a device, or of a module, that a test needs to speak as it.
#[derive(Clone)]
pub struct Device {
    pub id: String,
    pub host: String,
    pub primary: Key,
    pub secondary: Key,
    pub generation: String,
}

impl Device {
    /// Registers `d` or `d/m`.
    pub async fn create(hub: &TestHub, id: &str) -> Self {
        let made = hub.client().device_put(id, &json!({}), None).await.expect("created");
        Self::from_json(hub, id, &made)
    }

    /// One that is registered, with its keys of now.
    pub async fn read(hub: &TestHub, id: &str) -> Self {
        let found = hub.client().device_get(id).await.expect("found");
        Self::from_json(hub, id, &found)
    }

    fn from_json(hub: &TestHub, id: &str, made: &Value) -> Self {
        let key = |name: &str| {
            let text = made["authentication"]["symmetricKey"][name].as_str().expect("a key");
            Key::from_base64(text).expect("a key")
        };
        Self {
            id: id.to_owned(),
            host: hub.hostname().to_owned(),
            primary: key("primaryKey"),
            secondary: key("secondaryKey"),
            generation: made["generationId"].as_str().expect("an id").to_owned(),
        }
    }

    /// `devices/d` or `devices/d/modules/m`.
    pub fn path(&self) -> String {
        match self.id.split_once('/') {
            Some((device, module)) => format!("devices/{device}/modules/{module}"),
            None => format!("devices/{}", self.id),
        }
    }

    pub fn username(&self) -> String {
        format!("{}/{}/?api-version=2021-04-12", self.host, self.id)
    }

    /// Valid for an hour.
    pub fn token(&self) -> String {
        self.token_until(clock::unix_seconds() + 3_600)
    }

    pub fn token_until(&self, expiry: u64) -> String {
        sas::sign(&format!("{}/{}", self.host, self.path()), None, &self.primary, expiry)
    }

    pub fn connect(&self) -> Connect {
        Connect::new(&self.id, &self.username(), &self.token())
    }

    pub fn connect_with(&self, token: &str) -> Connect {
        Connect::new(&self.id, &self.username(), token)
    }

    pub fn topic(&self, bag: &str) -> String {
        format!("{}/messages/events/{bag}", self.path())
    }

    /// A PUBLISH of QoS 1.
    pub fn message(&self, packet_id: u16, body: &[u8]) -> Vec<u8> {
        publish(QOS1, &self.topic(""), packet_id, body)
    }

    pub fn will(&self, body: &[u8]) -> Will {
        Will { topic: self.topic(""), body: body.to_vec(), qos: 1, retain: false }
    }
}

/// A gateway's MQTT port, and what it takes to trust it.
#[derive(Clone)]
pub struct Door {
    pub address: SocketAddr,
    pub tls: TlsConnector,
    /// It is the HTTPS port, and MQTT comes by WebSocket.
    websocket: bool,
}

impl Door {
    pub fn of(hub: &TestHub) -> Self {
        Self::at(hub, hub.mqtt_addr())
    }

    pub fn at(hub: &TestHub, address: SocketAddr) -> Self {
        Self { address, tls: raw::connector(hub.ca_pem()), websocket: false }
    }

    /// The HTTPS port of a hub, for MQTT over WebSocket.
    pub fn websocket(hub: &TestHub) -> Self {
        Self::websocket_at(hub, hub.https_addr())
    }

    pub fn websocket_at(hub: &TestHub, address: SocketAddr) -> Self {
        Self { websocket: true, ..Self::at(hub, address) }
    }

    /// A connection on which nothing has been said.
    pub async fn open(&self) -> Raw {
        if self.websocket {
            return Ws::open(self).await.into_raw();
        }
        Raw::open(self.address, &self.tls).await
    }

    /// A connection that has sent these bytes.
    pub async fn say(&self, bytes: &[u8]) -> Raw {
        let mut raw = self.open().await;
        // The hub may close at the first of them.
        let _ = raw.try_send(bytes).await;
        raw
    }

    /// A connected device, of whom no session is present.
    #[track_caller]
    pub fn enter<'a>(&'a self, connect: &Connect) -> impl Future<Output = Raw> + 'a {
        self.accepted(connect, connack(0))
    }

    /// A connected device, of whom a session is present.
    #[track_caller]
    pub fn resume<'a>(&'a self, connect: &Connect) -> impl Future<Output = Raw> + 'a {
        self.accepted(connect, CONNACK_PRESENT)
    }

    #[track_caller]
    fn accepted<'a>(&'a self, connect: &Connect, want: [u8; 4]) -> impl Future<Output = Raw> + 'a {
        let (bytes, caller) = (connect.bytes(), std::panic::Location::caller());
        async move {
            let mut raw = self.say(&bytes).await;
            let answer = raw.packet().await;
            let answer = answer.unwrap_or_else(|error| panic!("no CONNACK at {caller}: {error}"));
            assert_eq!(answer, want, "at {caller}");
            raw
        }
    }

    /// The CONNECT gets this return code and the connection is closed.
    #[track_caller]
    pub fn refuses<'a>(&'a self, connect: &Connect, code: u8) -> impl Future<Output = ()> + 'a {
        let (bytes, caller) = (connect.bytes(), std::panic::Location::caller());
        async move {
            let mut raw = self.say(&bytes).await;
            let answer = raw.packet().await;
            let answer = answer.unwrap_or_else(|error| panic!("no CONNACK at {caller}: {error}"));
            assert_eq!(answer, connack(code), "at {caller}");
            raw.expect_close().await;
        }
    }

    /// These first bytes get no answer but the end of the connection.
    #[track_caller]
    pub fn ignores<'a>(&'a self, bytes: &'a [u8]) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let rest = self.say(bytes).await.rest().await;
            assert!(rest.is_empty(), "{bytes:x?} got {rest:x?}, at {caller}");
        }
    }
}

/// Publishes one message of QoS 1 and sees it acknowledged.
#[track_caller]
pub fn deliver<'a>(
    raw: &'a mut Raw,
    device: &Device,
    body: &'a [u8],
) -> impl Future<Output = ()> + 'a {
    let (bytes, caller) = (device.message(7, body), std::panic::Location::caller());
    async move {
        raw.send(&bytes).await;
        let answer = raw.packet().await;
        let answer = answer.unwrap_or_else(|error| panic!("no PUBACK at {caller}: {error}"));
        assert_eq!(answer, puback(7), "at {caller}");
    }
}

/// The first `count` events of a device and its modules. It waits for them.
pub async fn events(hub: &TestHub, device: &str, count: usize) -> Vec<Event> {
    events_from(hub, device, 0, count).await
}

/// The first `count` at this offset or behind it.
pub async fn events_from(hub: &TestHub, device: &str, mut from: u64, count: usize) -> Vec<Event> {
    let log = &hub.stores().events;
    let partition = partition_of(device.as_bytes(), log.partitions());
    let mut events: Vec<Event> = Vec::new();
    let all = async {
        while events.len() < count {
            let limit = ReadLimit { records: 1_000, bytes: 1 << 20 };
            let wait = Duration::from_secs(1);
            let read = log.read(TOPIC_D2C, partition, from, limit, wait).await.expect("readable");
            from = read.last().map_or(from, |event| event.offset + 1);
            events.extend(read.into_iter().filter(|event| event.key == device.as_bytes()));
        }
    };
    within("events", all).await;
    events
}

/// All that a device has sent so far: it sends one more message, once in a test, and reads up to
/// that.
pub async fn everything(hub: &TestHub, door: &Door, device: &Device) -> Vec<Event> {
    let mark = format!("everything of {} up to here", device.id);
    let mut raw = door.enter(&device.connect()).await;
    deliver(&mut raw, device, mark.as_bytes()).await;
    let key = device.id.split('/').next().unwrap_or_default();
    let mut count = 1;
    loop {
        let mut read = events(hub, key, count).await;
        if let Some(at) = read.iter().position(|event| event.body == mark.as_bytes()) {
            read.truncate(at);
            return read;
        }
        count = read.len() + 1;
    }
}

pub fn bodies(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| String::from_utf8_lossy(&event.body).into_owned()).collect()
}

/// The headers of an event that the hub did not add, as `name=value` or `name`.
pub fn bag(event: &Event) -> Vec<String> {
    let stamped = ["$.iothub-connection-", "$.iothub-message-source", "$.dt-dataschema"];
    event
        .headers
        .iter()
        .filter(|header| !stamped.iter().any(|name| header.name.starts_with(name)))
        .map(|header| match &header.value {
            Some(value) => format!("{}={value}", header.name),
            None => header.name.clone(),
        })
        .collect()
}

/// Another hub over a test hub's stores: with its own settings, roles, or event log.
pub async fn beside(
    hub: &TestHub,
    roles: &[Role],
    events: Arc<dyn EventLog>,
    edit: impl FnOnce(&mut Config),
) -> Hub {
    let mut config = Config::default();
    config.hub.data = hub.folder().to_owned();
    config.gateway.mqtt_port = 0;
    config.gateway.https_port = 0;
    config.gateway.workers = 2;
    config.admin.port = 0;
    edit(&mut config);
    let tls = hub.folder().join("tls");
    let settings = Settings {
        config,
        https_port_asked: true,
        roles: roles.to_vec(),
        stores: Stores { events, ..hub.stores().clone() },
        master_key: Some(MasterKey::new(&[7; MasterKey::BYTES])),
        tls: Some(TlsFiles { certificate: tls.join("server.pem"), key: tls.join("server.key") }),
        clock: Clock::default(),
    };
    let mut beside = Hub::start(settings).await.expect("another hub");
    beside.ready().await.expect("ready");
    beside
}

/// The MQTT port of a hub beside.
pub fn door_beside(hub: &TestHub, beside: &Hub) -> Door {
    Door::at(hub, beside.gateway.expect("a gateway").mqtt)
}

/// Sets a device's status.
pub async fn set_status(hub: &TestHub, id: &str, status: &str) {
    let mut device: Value = hub.client().device_get(id).await.expect("a device");
    device["status"] = status.into();
    hub.client().device_put(id, &device, Some("*")).await.expect("replaced");
}
