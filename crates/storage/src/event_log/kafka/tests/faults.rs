//! Brokers that are not there, die, hang and forget.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::kit::{Broker, free_port};
use super::*;
use crate::event_log::kafka::url::Place;

#[tokio::test]
async fn no_broker_is_said_at_once_and_without_the_password() {
    let url = "kafka://me:secret@127.0.0.1:9?prefix=p";
    let error = chain(&KafkaLog::open(url, config()).await.err().expect("nobody is there"));
    assert!(error.contains("127.0.0.1:9 ") && error.contains("stores.events"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

/// Appends `count` records to each of five devices; their bodies count on from `first`.
async fn append(log: &KafkaLog, sink: &Arc<dyn Completions>, first: u64, count: u64) {
    for n in first..first + count {
        for device in 0..5 {
            let (key, body) = (format!("device-{device}"), n.to_string());
            // A broker that starts forgets producers whose last record is a day old.
            let record = Record { enqueued: now(), ..record(&key, &body) };
            while log.append(TOPIC_D2C, record, token(device, n), Some(sink)).is_err() {
                log.writable().await;
            }
        }
    }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    now.as_millis().try_into().expect("a time")
}

/// What is in the log, by device.
async fn read_back(log: &KafkaLog) -> HashMap<String, Vec<u64>> {
    let mut found: HashMap<String, Vec<u64>> = HashMap::new();
    for partition in 0..log.partitions() {
        for event in read_all(log, partition).await {
            let (key, body) = (String::from_utf8(event.key), String::from_utf8(event.body));
            let number = body.expect("text").parse().expect("a number");
            found.entry(key.expect("text")).or_default().push(number);
        }
    }
    found
}

/// Killed without a warning, and started on what it left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_broker_that_is_killed() {
    let mut broker = Broker::start().await;
    let log = Arc::new(open(&format!("{}&delivery_timeout=300", broker.url())).await);
    let collector = Collector::new();
    let sink: Arc<dyn Completions> = collector.clone();
    let appending = {
        let (log, sink) = (Arc::clone(&log), Arc::clone(&sink));
        tokio::spawn(async move { append(&log, &sink, 0, 20_000).await })
    };
    for kill in 1..=2 {
        collector.wait(kill * 10_000).await;
        broker.kill();
        broker.start_again().await;
    }
    appending.await.expect("appended");
    log.close().await;
    let told = collector.wait(0).await;
    assert_eq!(told.len(), 100_000);
    let found = read_back(&log).await;
    for device in 0..5 {
        let mine = told.iter().filter(|c| c.token.connection == device);
        let mine: Vec<_> = mine.map(|c| (c.token.sequence, c.durable)).collect();
        assert!(mine.iter().map(|(n, _)| *n).eq(0..20_000), "each once, in order");
        let durable: Vec<_> =
            mine.iter().filter(|(_, durable)| *durable).map(|(n, _)| *n).collect();
        let found = &found[&format!("device-{device}")];
        assert!(found.is_sorted_by(|a, b| a < b), "in order, and none of them twice");
        let lost = durable.iter().filter(|n| found.binary_search(n).is_err()).count();
        assert_eq!(lost, 0, "acknowledged and lost");
        assert!(durable.len() > 10_000, "only {} were acknowledged", durable.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_acknowledges_in_time_has_failed_and_appending_goes_on() {
    let mut broker = Broker::start().await;
    let log = open(&format!("{}&delivery_timeout=2", broker.url())).await;
    let collector = Collector::new();
    let sink: Arc<dyn Completions> = collector.clone();
    append(&log, &sink, 0, 1).await;
    assert!(collector.wait(5).await.iter().all(|c| c.durable));
    log.group_commit(TOPIC_D2C, "a", &[(0, 1)]).await.expect("commit");
    broker.kill();
    append(&log, &sink, 1, 100).await;
    let away = log.range(TOPIC_D2C, 0).await;
    assert!(away.is_err_and(|error| error.retryable()));
    let away = log.group_commit(TOPIC_D2C, "a", &[(0, 1)]).await;
    assert!(away.is_err_and(|error| error.retryable()));
    let told = collector.wait(505).await;
    assert!(told[5..].iter().all(|c| !c.durable), "nobody was there");
    broker.start_again().await;
    // Its first may be too late still.
    let mut next = 101;
    loop {
        append(&log, &sink, next, 1).await;
        next += 1;
        let told = collector.wait(next as usize * 5).await;
        if told[told.len() - 5..].iter().all(|c| c.durable) {
            break;
        }
    }
    let told = collector.wait(0).await;
    for device in 0..5 {
        let mine = told.iter().filter(|c| c.token.connection == device);
        assert!(mine.map(|c| c.token.sequence).eq(0..next), "each once, in order");
        assert!(read_back(&log).await[&format!("device-{device}")].is_sorted_by(|a, b| a < b));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hangs_holds_back_those_who_append() {
    let broker = Broker::start().await;
    let config = KafkaLogConfig { pending_bytes: 64 << 10, ..config() };
    let url = format!("{}&delivery_timeout=300", broker.url());
    let log = KafkaLog::open(&url, config).await.expect("open");
    append_durably(&log, &[record("other", "0")]).await;
    broker.signal("STOP");
    let collector = Collector::new();
    let sink: Arc<dyn Completions> = collector.clone();
    let mut taken = 0;
    while log
        .append(TOPIC_D2C, record("device", &taken.to_string()), token(0, taken), Some(&sink))
        .is_ok()
    {
        taken += 1;
    }
    assert!(taken > 10 && taken < 1_000, "{taken} records in 64 KiB");
    {
        let writable = log.writable();
        tokio::pin!(writable);
        assert!((&mut writable).now_or_never().is_none());
        assert!(collector.wait(0).await.is_empty());
        broker.signal("CONT");
        writable.await;
    }
    for n in taken..taken + 100 {
        while log
            .append(TOPIC_D2C, record("device", &n.to_string()), token(0, n), Some(&sink))
            .is_err()
        {
            log.writable().await;
        }
    }
    log.close().await;
    let told = collector.wait(0).await;
    assert!(told.iter().all(|c| c.durable));
    assert!(told.iter().map(|c| c.token.sequence).eq(0..taken + 100));
    assert!(read_back(&log).await["device"].iter().copied().eq(0..taken + 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_gone_is_an_error() {
    let url = format!("{}&delivery_timeout=5", of_the_run());
    let log = open(&url).await;
    append_durably(&log, &[record("device", "x")]).await;
    let place = Place::parse(&url).expect("a place");
    let admin: AdminClient<DefaultClientContext> = place.client.create().expect("an admin client");
    let topic = place.name(TOPIC_D2C);
    let deleted = admin.delete_topics(&[&topic], &AdminOptions::new()).await.expect("asked");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    let collector = Collector::new();
    let sink: Arc<dyn Completions> = collector.clone();
    log.append(TOPIC_D2C, record("device", "y"), token(0, 0), Some(&sink)).expect("room");
    assert!(!collector.wait(1).await[0].durable);
    let partition = partition_of(b"device", 4);
    let range = log.range(TOPIC_D2C, partition).await;
    assert!(range.is_err_and(|error| error.retryable()));
    let read = log.read(TOPIC_D2C, partition, 1, ALL, Duration::from_secs(600)).await;
    assert!(read.is_err_and(|error| error.retryable()));
}

/// A producer that has lost its sequence is of no use any more; the hub is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_fatal_error_another_producer_follows() {
    let cluster = MockCluster::new(1).expect("a cluster");
    cluster.create_topic("fatal.d2c", 4, 1).expect("a topic");
    let url = format!("kafka://{}?prefix=fatal", cluster.bootstrap_servers());
    let log = open(&url).await;
    let collector = Collector::new();
    let sink: Arc<dyn Completions> = collector.clone();
    append(&log, &sink, 0, 1).await;
    assert!(collector.wait(5).await.iter().all(|c| c.durable));
    let first = log.producer.current();
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
    append(&log, &sink, 1, 20).await;
    let told = collector.wait(105).await;
    assert!(told.iter().any(|c| !c.durable), "the one that met the error");
    append(&log, &sink, 21, 1).await;
    let told = collector.wait(110).await;
    assert!(told[105..].iter().all(|c| c.durable));
    assert!(!Arc::ptr_eq(&first, &log.producer.current()), "it was not fatal");
    for device in 0..5 {
        let mine = told.iter().filter(|c| c.token.connection == device);
        assert!(mine.map(|c| c.token.sequence).eq(0..22), "each once, in order");
    }
}

/// By TLS, with a password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guarded_broker_lets_in_who_knows_the_password() {
    let broker = Broker::with(|folder, port| {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        let (cert, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
        std::fs::write(folder.join("ca.pem"), &cert).expect("written");
        std::fs::write(folder.join("server.pem"), key + &cert).expect("written");
        let (inner, controller) = (free_port(), free_port());
        format!(
            "listeners=SASL_SSL://127.0.0.1:{port},PLAINTEXT://127.0.0.1:{inner},\
             CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=SASL_SSL://localhost:{port},PLAINTEXT://127.0.0.1:{inner}\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
             inter.broker.listener.name=PLAINTEXT\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,\
             SASL_SSL:SASL_SSL\nsasl.enabled.mechanisms=PLAIN\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config=\
             org.apache.kafka.common.security.plain.PlainLoginModule required user_me=\"p@ss\";\n\
             ssl.keystore.type=PEM\nssl.keystore.location=server.pem\n"
        )
    });
    let broker = broker.await;
    let tls = format!("sasl=PLAIN&tls=true&sslrootcert={}", broker.path("ca.pem").display());
    let log = open(&broker.url_with("me:p%40ss@", &tls)).await;
    append_durably(&log, &[record("device", "x")]).await;
    assert_eq!(read_all(&log, partition_of(b"device", 4)).await.len(), 1);
    log.group_commit(TOPIC_D2C, "a", &[(0, 1)]).await.expect("commit");
    for (login, options) in [
        ("me:secret@", tls.as_str()),
        ("me:secret@", "sasl=PLAIN"),
        ("me:p%40ss@", "sasl=PLAIN&tls=true"),
    ] {
        let refused = KafkaLog::open(&broker.url_with(login, options), config()).await;
        let error = chain(&refused.err().expect("refused"));
        assert!(!error.contains("secret") && !error.contains("p@ss"), "{error}");
    }
}
