//! Acknowledged records a second and what each costs in CPU time, by `KafkaLog` and by a bare
//! librdkafka producer, on the broker of `DUNLIN_TEST_KAFKA`.
//!
//! `cargo run --release -p dunlin-storage --example kafka_rate [RECORDS]`

use std::error::Error;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dunlin_model::event::header;
use dunlin_storage::event_log::{
    Completion, Completions, EventLog, Header, KafkaLog, KafkaLogConfig, Record, TOPIC_D2C, Token,
    partition_of,
};
use rdkafka::ClientConfig;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const BODY: usize = 256;
const DEVICES: usize = 1_000;
const PARTITIONS: u32 = 4;
/// As the gateway stamps them.
const HEADERS: [(&str, &str); 4] = [
    (header::CONNECTION_DEVICE_ID, "device-1"),
    (header::AUTH_GENERATION_ID, "638000000000000000"),
    (header::AUTH_METHOD, r#"{"scope":"device","type":"sas","issuer":"iothub"}"#),
    (header::MESSAGE_SOURCE, "Telemetry"),
];

#[derive(Default)]
struct Counter {
    durable: AtomicUsize,
    batches: AtomicUsize,
}

impl Completions for Counter {
    fn complete(&self, batch: &[Completion]) {
        self.durable.fetch_add(batch.iter().filter(|c| c.durable).count(), Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let records = std::env::args().nth(1).map_or(Ok(1_000_000), |count| count.parse())?;
    let server = std::env::var("DUNLIN_TEST_KAFKA")?;
    let prefix = format!("rate-{}", std::process::id());
    let keys: Vec<_> = (0..DEVICES).map(|n| format!("device-{n}")).collect();
    let body = vec![0x20; BODY];
    let config = KafkaLogConfig { partitions: PARTITIONS, ..KafkaLogConfig::default() };
    let url = format!("{server}?prefix={prefix}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let now = i64::try_from(now.as_millis())?;
    for _ in 0..3 {
        let log = KafkaLog::open(&url, config.clone()).await?;
        let counter = Arc::new(Counter::default());
        let sink: Arc<dyn Completions> = counter.clone();
        let headers = HEADERS.map(|(name, value)| Header { name, value: Some(value) });
        let run = Run::start();
        for n in 0..records {
            let key = keys[n % DEVICES].as_bytes();
            let record = Record { key, headers: &headers, body: &body, enqueued: now };
            let token = Token { connection: 0, sequence: n as u64 };
            while log.append(TOPIC_D2C, record, token, Some(&sink)).is_err() {
                log.writable().await;
            }
        }
        log.close().await;
        let batches = counter.batches.load(Ordering::Relaxed);
        run.end("KafkaLog", counter.durable.load(Ordering::Relaxed), batches)?;

        let bare: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", server.trim_start_matches("kafka://"))
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("queue.buffering.max.messages", "150000")
            .create()?;
        let topic = format!("{prefix}.{TOPIC_D2C}");
        let run = Run::start();
        for n in 0..records {
            let key = keys[n % DEVICES].as_bytes();
            let headers = OwnedHeaders::new_with_capacity(HEADERS.len());
            let headers = HEADERS.iter().fold(headers, |headers, (key, value)| {
                headers.insert(rdkafka::message::Header { key, value: Some(*value) })
            });
            let mut record = BaseRecord::to(&topic)
                .partition(partition_of(key, PARTITIONS).cast_signed())
                .key(key)
                .payload(&body)
                .timestamp(now)
                .headers(headers);
            while let Err((_, back)) = bare.send(record) {
                bare.poll(Duration::from_millis(1));
                record = back;
            }
        }
        bare.flush(Duration::from_secs(60))?;
        run.end("bare", records, 0)?;
    }
    Ok(())
}

struct Run {
    since: Instant,
    cpu: f64,
}

impl Run {
    fn start() -> Self {
        Self { since: Instant::now(), cpu: cpu().unwrap_or_default() }
    }

    fn end(self, name: &str, records: usize, batches: usize) -> Result<(), Box<dyn Error>> {
        let (wall, cpu) = (self.since.elapsed().as_secs_f64(), cpu()? - self.cpu);
        let (rate, each) = (records as f64 / wall, cpu * 1e6 / records as f64);
        eprintln!(
            "{name}: {records} durable, {rate:.0}/s, {each:.2} µs of CPU each, {batches} batches"
        );
        Ok(())
    }
}

/// CPU seconds of this process: user and system, in ticks of 10 ms.
fn cpu() -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
