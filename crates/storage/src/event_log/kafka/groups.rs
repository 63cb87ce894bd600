//! Consumer groups, as Kafka keeps them: positions are committed under the group's id by a consumer
//! that never joins. So others' tools see them, and no process keeps a list of its own.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use dunlin_model::limits::{CONSUMER_GROUPS, DEFAULT_GROUP};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Mutex as Turn;

use super::context::Logged;
use super::url::{ANSWER, Place};
use super::{blocking, led, unavailable};
use crate::{StoreError, lock};

type Client = Arc<BaseConsumer<Logged>>;

pub(super) struct Groups {
    config: ClientConfig,
    /// Groups that exist: a group stays as long as Kafka keeps its positions.
    known: Mutex<HashSet<String>>,
    /// Of who makes a group: the limit holds in this process. Of two processes each may make one.
    making: Turn<()>,
    /// A client each, the last used at the end, as many as there may be groups of a topic.
    clients: Mutex<Vec<(String, Client)>>,
}

impl Groups {
    pub(super) fn new(place: &Place) -> Self {
        let mut config = place.client.clone();
        config
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Nobody joins; it is how long a commit waits for its coordinator to be found.
            .set("session.timeout.ms", ANSWER.as_millis().to_string())
            .set("heartbeat.interval.ms", "1000");
        let (known, making, clients) = Default::default();
        Self { config, known, making, clients }
    }

    /// `topic` as Kafka has it; it begins the id of its groups.
    pub(super) async fn commit(
        self: &Arc<Self>,
        meta: &Client,
        topic: &str,
        group: &str,
        next: &[(u32, u64)],
    ) -> Result<(), StoreError> {
        let id = id(topic, group);
        let _turn = if lock(&self.known).contains(&id) {
            None
        } else {
            let turn = self.making.lock().await;
            self.look(meta, topic).await?;
            let known = lock(&self.known);
            let (prefix, always) = (self::id(topic, ""), self::id(topic, DEFAULT_GROUP));
            let held = known.iter().filter(|known| known.starts_with(&prefix) && **known != always);
            if id != always && !known.contains(&id) && held.count() + 1 >= CONSUMER_GROUPS {
                return Err(StoreError::LimitReached);
            }
            Some(turn)
        };
        let mut list = TopicPartitionList::with_capacity(next.len());
        for (partition, next) in next {
            let offset = Offset::Offset(next.cast_signed());
            let added = list.add_partition_offset(topic, partition.cast_signed(), offset);
            added.map_err(unavailable)?;
        }
        let (groups, group) = (Arc::clone(self), id.clone());
        blocking(move || led(|| groups.client(&group)?.commit(&list, CommitMode::Sync)))
            .await
            .map_err(unavailable)?;
        lock(&self.known).insert(id);
        Ok(())
    }

    pub(super) async fn positions(
        self: &Arc<Self>,
        topic: &str,
        group: &str,
        partitions: u32,
    ) -> Result<Vec<(u32, u64)>, StoreError> {
        let id = id(topic, group);
        let mut list = TopicPartitionList::with_capacity(partitions as usize);
        list.add_partition_range(topic, 0, partitions.cast_signed() - 1);
        let groups = Arc::clone(self);
        let committed = move || led(|| groups.client(&id)?.committed_offsets(list.clone(), ANSWER));
        let committed: TopicPartitionList = blocking(committed).await.map_err(unavailable)?;
        let mut positions = Vec::new();
        for element in committed.elements() {
            element.error().map_err(unavailable)?;
            if let Offset::Offset(next) = element.offset() {
                positions.push((element.partition().cast_unsigned(), next.cast_unsigned()));
            }
        }
        positions.sort_unstable();
        Ok(positions)
    }

    /// Asks the cluster which groups of the topic there are.
    async fn look(&self, meta: &Client, topic: &str) -> Result<(), StoreError> {
        let (meta, prefix) = (Arc::clone(meta), id(topic, ""));
        let list = move || -> KafkaResult<HashSet<String>> {
            let list = led(|| meta.fetch_group_list(None, ANSWER))?;
            let names = list.groups().iter().map(|group| group.name());
            Ok(names.filter(|name| name.starts_with(&prefix)).map(str::to_owned).collect())
        };
        let found = blocking(list).await.map_err(unavailable)?;
        let mut known = lock(&self.known);
        known.retain(|known| !known.starts_with(&id(topic, "")));
        known.extend(found);
        Ok(())
    }

    fn client(&self, id: &str) -> Result<Client, KafkaError> {
        let mut clients = lock(&self.clients);
        let client = match clients.iter().position(|(known, _)| known == id) {
            Some(place) => clients.remove(place).1,
            None => {
                let mut config = self.config.clone();
                config.set("group.id", id);
                Arc::new(BaseConsumer::from_config_and_context(&config, Logged)?)
            }
        };
        clients.push((id.to_owned(), Arc::clone(&client)));
        let oldest = (clients.len() > CONSUMER_GROUPS).then(|| clients.remove(0));
        drop(clients);
        // It says goodbye to its coordinator: not under the lock.
        drop(oldest);
        while client.poll(std::time::Duration::ZERO).is_some() {}
        Ok(client)
    }
}

/// The topic's groups are apart from those of others, in the cluster's list, too.
fn id(topic: &str, group: &str) -> String {
    format!("{topic}/{group}")
}
