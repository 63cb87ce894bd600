//! Topics: made with their partitions, or found to have them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::{Instant, interval, timeout_at};

use super::context::Logged;
use super::url::{ANSWER, Place};
use super::{KafkaLogConfig, blocking, unavailable};
use crate::StoreError;

/// How long brokers may take to agree on a topic that is new.
const SETTLED: Duration = Duration::from_secs(20);

/// Makes the topic unless it is there. Several processes may do so at once.
pub(super) async fn ensure(
    place: &Place,
    config: &KafkaLogConfig,
    meta: &Arc<BaseConsumer<Logged>>,
    topic: &str,
) -> Result<(), StoreError> {
    if ready(place, config, meta, topic).await? {
        return Ok(());
    }
    create(place, config, topic).await?;
    let deadline = Instant::now() + SETTLED;
    let mut look = interval(Duration::from_millis(20));
    loop {
        look.tick().await;
        let usable = async {
            Ok(ready(place, config, meta, topic).await? && leads(config, meta, topic).await?)
        };
        match timeout_at(deadline, usable).await {
            Ok(Ok(false)) => {}
            Ok(done) => return done.map(drop),
            Err(_) => {
                return Err(unavailable(format!(
                    "Kafka topic {topic} has no leader for each partition after {SETTLED:?}: look \
                     at the brokers' logs"
                )));
            }
        }
    }
}

/// Whether it is there, as it must be, and each of its partitions has a leader.
async fn ready(
    place: &Place,
    config: &KafkaLogConfig,
    meta: &Arc<BaseConsumer<Logged>>,
    topic: &str,
) -> Result<bool, StoreError> {
    let (meta, name) = (Arc::clone(meta), topic.to_owned());
    // A consumer's question makes no topic, whatever the broker does for a producer.
    let fetched = blocking(move || meta.fetch_metadata(Some(&name), ANSWER)).await;
    let metadata = fetched.map_err(|source| {
        let servers = &place.servers;
        unavailable(format!(
            "no Kafka broker of {servers} answers within {ANSWER:?} ({source}): is it running, and \
             does stores.events name it?"
        ))
    })?;
    let Some(found) = metadata.topics().iter().find(|known| known.name() == topic) else {
        return Ok(false);
    };
    if let Some(error) = found.error() {
        return match RDKafkaErrorCode::from(error) {
            RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::LeaderNotAvailable => Ok(false),
            code => Err(unavailable(format!("Kafka topic {topic} cannot be used: {code}"))),
        };
    }
    let (count, asked) = (found.partitions().len(), config.partitions);
    if count != 0 && count != asked as usize {
        return Err(unavailable(format!(
            "Kafka topic {topic} has {count} partitions, not {asked}: a device's messages would \
             change their partition, so set stores.event_partitions = {count}, or another prefix"
        )));
    }
    Ok(count != 0 && found.partitions().iter().all(|partition| partition.leader() >= 0))
}

/// Whether each leader knows that it is one: they hear of it later than others do.
async fn leads(
    config: &KafkaLogConfig,
    meta: &Arc<BaseConsumer<Logged>>,
    topic: &str,
) -> Result<bool, StoreError> {
    let (meta, name, partitions) = (Arc::clone(meta), topic.to_owned(), config.partitions);
    let ask = move || {
        let mut all =
            (0..partitions.cast_signed()).map(|n| meta.fetch_watermarks(&name, n, ANSWER));
        all.try_for_each(|answer| answer.map(drop))
    };
    match blocking(ask).await.map_err(|error| (error.rdkafka_error_code(), error)) {
        Ok(()) => Ok(true),
        Err((
            Some(
                RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ),
            _,
        )) => Ok(false),
        Err((_, error)) => Err(unavailable(error)),
    }
}

async fn create(place: &Place, config: &KafkaLogConfig, topic: &str) -> Result<(), StoreError> {
    let admin = AdminClient::from_config_and_context(&place.client, Logged).map_err(unavailable)?;
    let age = i64::try_from(config.retention_age.as_millis()).unwrap_or(-1);
    let bytes = (config.retention_bytes / u64::from(config.partitions)).max(1);
    let settings = [
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", age.to_string()),
        ("retention.bytes", i64::try_from(bytes).unwrap_or(-1).to_string()),
        // Only whole segments go: they must not be much younger than what is to be kept.
        ("segment.ms", if age < 0 { i64::MAX } else { (age / 4).max(60_000) }.to_string()),
        ("message.timestamp.type", "CreateTime".to_owned()),
        // The hub's clock is the one that counts.
        ("message.timestamp.before.max.ms", i64::MAX.to_string()),
        ("message.timestamp.after.max.ms", i64::MAX.to_string()),
        // An acknowledged record survives the loss of a broker, if there are enough of them.
        ("min.insync.replicas", if place.replication > 2 { "2" } else { "1" }.to_owned()),
    ];
    let replicas = TopicReplication::Fixed(place.replication.cast_signed());
    let new = NewTopic::new(topic, config.partitions.cast_signed(), replicas);
    let new = settings.iter().fold(new, |new, (name, value)| new.set(name, value));
    let options =
        AdminOptions::new().request_timeout(Some(SETTLED)).operation_timeout(Some(SETTLED));
    let created = admin.create_topics([&new], &options).await;
    // It waits for a thread of its own.
    tokio::task::spawn_blocking(move || drop(admin));
    for result in created.map_err(unavailable)? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => {
                return Err(unavailable(format!(
                    "cannot create Kafka topic {topic} with {} replicas ({code}): create it by \
                     hand, or give the URL another replication",
                    place.replication
                )));
            }
        }
    }
    Ok(())
}

/// For tests: asks, and removes. One for all, since its end takes a tenth of a second.
fn administrator(place: &Place) -> Result<&'static AdminClient<Logged>, StoreError> {
    static ADMIN: OnceLock<AdminClient<Logged>> = OnceLock::new();
    if let Some(admin) = ADMIN.get() {
        return Ok(admin);
    }
    let admin = AdminClient::from_config_and_context(&place.client, Logged).map_err(unavailable)?;
    Ok(ADMIN.get_or_init(|| admin))
}

/// Every topic under the URL's prefix.
pub(crate) async fn topics(url: &str) -> Result<Vec<String>, StoreError> {
    let place = Place::parse(url)?;
    let admin = administrator(&place)?;
    let metadata = blocking(|| admin.inner().fetch_metadata(None, ANSWER)).await;
    let metadata = metadata.map_err(unavailable)?;
    let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
    Ok(names.filter(|name| name.starts_with(&place.name(""))).collect())
}

/// Deletes them, and so what groups have committed of them.
pub(crate) async fn topics_remove(url: &str, topics: &[String]) -> Result<(), StoreError> {
    let topics: Vec<_> = topics.iter().map(String::as_str).collect();
    let admin = administrator(&Place::parse(url)?)?;
    let deleted = admin.delete_topics(&topics, &AdminOptions::new()).await;
    let refused = deleted.map_err(unavailable)?.into_iter().find_map(Result::err);
    refused.map_or(Ok(()), |(_, code)| Err(unavailable(code)))
}
