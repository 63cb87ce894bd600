//! How long a bare librdkafka producer waits for acknowledgements at a steady rate: the peer of
//! target P6. Records are as the hub's telemetry, 256 B and four headers of 1,000 devices, and the
//! settings are those of `KafkaLog`. The last line is JSON.
//!
//! `cargo run --release -p dunlin-storage --example kafka_latency -- URL PER_SECOND SECONDS`

use std::error::Error;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dunlin_model::event::header;
use dunlin_storage::event_log::{EventLog, KafkaLog, KafkaLogConfig, TOPIC_D2C, partition_of};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

const BODY: [u8; 256] = [0x20; 256];
const DEVICES: u64 = 1_000;
/// What is acknowledged before counts for nothing.
const WARM_UP: Duration = Duration::from_secs(2);
/// As the gateway stamps them.
const HEADERS: [(&str, &str); 4] = [
    (header::CONNECTION_DEVICE_ID, "device-1"),
    (header::AUTH_GENERATION_ID, "638000000000000000"),
    (header::AUTH_METHOD, r#"{"scope":"device","type":"sas","issuer":"iothub"}"#),
    (header::MESSAGE_SOURCE, "Telemetry"),
];

/// Of each record, what became of it and how long after it was due.
#[derive(Clone, Default)]
struct Latencies(Arc<Mutex<Vec<Result<Duration, String>>>>);

impl ClientContext for Latencies {}

impl ProducerContext for Latencies {
    type DeliveryOpaque = Box<Instant>;

    fn delivery(&self, result: &DeliveryResult<'_>, due: Box<Instant>) {
        let outcome = match result {
            Ok(_) => Ok(due.elapsed()),
            Err((error, _)) => Err(error.to_string()),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("URL PER_SECOND SECONDS");
    let (server, rate, seconds) = (next()?, next()?.parse::<u32>()?, next()?.parse::<u64>()?);
    let prefix = format!("latency-{}", std::process::id());
    let config = KafkaLogConfig::default();
    let partitions = config.partitions;
    // It makes the topics, as the hub has them.
    KafkaLog::open(&format!("{server}?prefix={prefix}"), config).await?.close().await;

    let latencies = Latencies::default();
    let producer: ThreadedProducer<Latencies> = ClientConfig::new()
        .set("bootstrap.servers", server.trim_start_matches("kafka://"))
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "5")
        .set("queue.buffering.max.messages", "0")
        .set("queue.buffering.max.kbytes", "2147483647")
        .create_with_context(latencies.clone())?;
    let topic = format!("{prefix}.{TOPIC_D2C}");
    let keys: Vec<_> = (0..DEVICES).map(|n| format!("device-{n}")).collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let now = i64::try_from(now.as_millis())?;
    let (begun, length) = (Instant::now(), WARM_UP + Duration::from_secs(seconds));
    let mut sent = 0;
    loop {
        let due = begun + Duration::from_secs(sent) / rate;
        if due >= begun + length {
            break;
        }
        // sleep: the pace. What the system sleeps too long is sent at once, and counted as late.
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let key = keys[usize::try_from(sent % DEVICES)?].as_bytes();
        let headers = OwnedHeaders::new_with_capacity(HEADERS.len());
        let headers = HEADERS.iter().fold(headers, |headers, (key, value)| {
            headers.insert(Header { key, value: Some(*value) })
        });
        let record = BaseRecord::with_opaque_to(&topic, Box::new(due))
            .partition(partition_of(key, partitions).cast_signed())
            .key(key)
            .payload(&BODY)
            .timestamp(now)
            .headers(headers);
        producer.send(record).map_err(|(error, _)| error)?;
        sent += 1;
    }
    producer.flush(Duration::from_secs(60))?;
    let took = begun.elapsed();
    let mut all = std::mem::take(&mut *latencies.0.lock().unwrap_or_else(PoisonError::into_inner));
    let warm = usize::try_from(WARM_UP.as_secs() * u64::from(rate))?.min(all.len());
    let mut measured = all.drain(warm..).collect::<Result<Vec<_>, _>>()?;
    measured.sort();
    let at = |part: f64| {
        let place = (measured.len() as f64 * part) as usize;
        measured.get(place).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1_000.0)
    };
    let achieved = sent as f64 / took.as_secs_f64();
    let line = format!("{{\"rate\":{achieved:.0},\"p50\":{:.3},\"p99\":{:.3}}}", at(0.5), at(0.99));
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}
