//! Stores on servers whose round trips a test counts, below a hub of any shape.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dunlin::config::Config;
use dunlin::hub::Stores;
use dunlin::test_hub::{Setup, TestHub};
use dunlin_storage::DeviceStore;
use dunlin_storage::command_queue::PostgresCommandQueue;
use dunlin_storage::device_store::PostgresDeviceStore;
use dunlin_storage::event_log::{KafkaLog, KafkaLogConfig};
use dunlin_storage::postgres::{Postgres, PostgresConfig};
use dunlin_storage::presence::RedisPresence;
use dunlin_storage::testing::Place;
use dunlin_storage::twin_store::PostgresTwinStore;

use crate::raw::within;

/// Round trips by kind of operation.
pub type Trips = BTreeMap<&'static str, u64>;

/// A place on all three servers, as one process has opened it.
pub struct Servers {
    pub place: Place,
    pub postgres: Postgres,
    pub redis: Arc<RedisPresence>,
}

/// A hub whose nodes share what these URLs name.
pub async fn hub_on(setup: Setup, devices: &str, events: &str, presence: &str) -> TestHub {
    let mut config = Config::default();
    config.stores.devices = devices.to_owned();
    config.stores.events = events.to_owned();
    config.stores.presence = presence.to_owned();
    let stores = Stores::open(&config).await.expect("stores");
    let stores = Box::new(move |_| stores.clone());
    TestHub::start(Setup { stores, ..setup }).await
}

impl Servers {
    /// A hub on them; its nodes share the connections.
    pub async fn start(setup: Setup) -> (Self, TestHub) {
        let place = Place::create().await;
        let config = PostgresConfig::new(place.postgres());
        let postgres = Postgres::open(&config).await.expect("Postgres");
        let devices: Arc<dyn DeviceStore> = Arc::new(PostgresDeviceStore::new(&postgres));
        let redis = RedisPresence::open(&place.redis(), devices.clone()).await.expect("Redis");
        let redis = Arc::new(redis);
        let events = KafkaLog::open(&place.kafka(), KafkaLogConfig::default()).await;
        let stores = Stores {
            devices,
            twins: Arc::new(PostgresTwinStore::new(&postgres)),
            commands: Arc::new(PostgresCommandQueue::new(&postgres)),
            events: Arc::new(events.expect("Kafka")),
            presence: redis.clone(),
        };
        let stores = Box::new(move |_| stores.clone());
        let hub = TestHub::start(Setup { stores, ..setup }).await;
        (Self { place, postgres, redis }, hub)
    }

    /// Of both: of Postgres, then of Redis.
    pub fn trips(&self) -> [Trips; 2] {
        [self.postgres.round_trips(), self.redis.round_trips()]
    }

    /// Waits until there were as many more of that kind than when it was called.
    pub fn more(&self, kind: &'static str, more: u64) -> impl Future<Output = ()> + '_ {
        let count = move || self.trips().iter().filter_map(|trips| trips.get(kind)).sum::<u64>();
        let want = count() + more;
        let counted = async move {
            let mut look = tokio::time::interval(Duration::from_millis(1));
            while count() < want {
                look.tick().await;
            }
        };
        within(kind, counted)
    }

    pub async fn stop(self, hub: TestHub) {
        hub.stop().await;
        let Self { place, postgres, redis } = self;
        drop((postgres, redis));
        place.remove().await;
    }
}
