//! What a gateway tells of its devices (docs/observability.md). On the path of a message these are
//! relaxed atomics, and once a batch a histogram's lock; everything with a label is looked up when a connection or request comes or goes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dunlin_runtime::metrics::{Latencies, Registry, latencies};
use dunlin_storage::EventLog;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};

/// What carries a device's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Mqtt,
    MqttWebSocket,
    Https,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::MqttWebSocket => "mqtt_websocket",
            Self::Https => "https",
        }
    }
}

/// The outcome of a connect that was not refused.
pub const ACCEPTED: &str = "accepted";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct By {
    protocol: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Connect {
    protocol: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    operation: &'static str,
    status: u16,
}

#[derive(Default)]
pub struct Metrics {
    connections: Family<By, Gauge>,
    connects: Family<Connect, Counter>,
    messages: Counter,
    bytes: Counter,
    full: Counter,
    failed: Counter,
    durable: Durable,
    requests: Requests,
    presence: Gauge,
}

struct Durable(Latencies<By>);
struct Requests(Latencies<Request>);

impl Default for Durable {
    fn default() -> Self {
        Self(latencies())
    }
}

impl Default for Requests {
    fn default() -> Self {
        Self(latencies())
    }
}

impl Metrics {
    pub fn registry(&self, events: Arc<dyn EventLog>) -> Registry {
        // What has not happened yet is told as 0: a rate needs a value from before.
        for protocol in [Protocol::Mqtt, Protocol::MqttWebSocket] {
            let protocol = protocol.name();
            drop(self.connections.get_or_create(&By { protocol }));
            drop(self.connects.get_or_create(&Connect { protocol, outcome: ACCEPTED }));
        }
        let mut registry = Registry::default();
        registry.register(
            "dunlin_connections",
            "Devices that are connected now",
            self.connections.clone(),
        );
        registry.register(
            "dunlin_connects",
            "Attempts to connect, by the error code they were refused with",
            self.connects.clone(),
        );
        registry.register(
            "dunlin_d2c_messages",
            "Telemetry messages taken from devices",
            self.messages.clone(),
        );
        registry.register("dunlin_d2c_bytes", "Bytes of their bodies", self.bytes.clone());
        registry.register(
            "dunlin_d2c_full",
            "Times that the event log had no room for a message, which then waited",
            self.full.clone(),
        );
        registry.register(
            "dunlin_d2c_failed",
            "Telemetry messages that could not be made durable, and were not acknowledged",
            self.failed.clone(),
        );
        registry.register(
            "dunlin_d2c_durable_seconds",
            "From a message to its acknowledgement; of MQTT, one message at a time is timed",
            self.durable.0.clone(),
        );
        registry.register(
            "dunlin_device_request_seconds",
            "HTTPS requests of devices",
            self.requests.0.clone(),
        );
        registry.register(
            "dunlin_presence_up",
            "Whether presence took this gateway's last sign of life (1) or not (0)",
            self.presence.clone(),
        );
        registry.register_collector(Box::new(Backlog(events)));
        registry
    }

    /// A device is connected for as long as this is kept.
    pub fn connected(&self, protocol: Protocol) -> Connected {
        let connections = self.connections.get_or_create_owned(&By { protocol: protocol.name() });
        connections.inc();
        Connected(connections)
    }

    /// `outcome`: [`ACCEPTED`], or why not.
    pub fn connect(&self, protocol: Protocol, outcome: &'static str) {
        let protocol = protocol.name();
        self.connects.get_or_create(&Connect { protocol, outcome }).inc();
    }

    /// The event log has taken a message. On the hot path.
    pub fn taken(&self, bytes: usize) {
        self.messages.inc();
        self.bytes.inc_by(bytes as u64);
    }

    pub fn full(&self) {
        self.full.inc();
    }

    pub fn failed(&self, messages: u64) {
        self.failed.inc_by(messages);
    }

    pub fn durable(&self, protocol: Protocol, after: Duration) {
        let by = By { protocol: protocol.name() };
        self.durable.0.get_or_create(&by).observe(after.as_secs_f64());
    }

    pub fn request(&self, operation: &'static str, status: u16, took: Duration) {
        let request = Request { operation, status };
        self.requests.0.get_or_create(&request).observe(took.as_secs_f64());
    }

    pub fn presence(&self, up: bool) {
        self.presence.set(i64::from(up));
    }
}

pub struct Connected(Gauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Asks the event log when somebody wants to know.
struct Backlog(Arc<dyn EventLog>);

impl fmt::Debug for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backlog")
    }
}

impl Collector for Backlog {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let bytes = ConstGauge::new(i64::try_from(self.0.pending_bytes()).unwrap_or(i64::MAX));
        let help = "Bytes that wait to become durable";
        let descriptor = encoder.encode_descriptor(
            "dunlin_d2c_pending_bytes",
            help,
            None,
            bytes.metric_type(),
        )?;
        bytes.encode(descriptor)
    }
}
