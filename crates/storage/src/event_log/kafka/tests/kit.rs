//! Logs in Kafka for tests: on the broker of the run, or on one of a test's own.

use std::time::Duration;

use crate::event_log::{KafkaLog, KafkaLogConfig};
pub use crate::testing::kafka::Broker;
use crate::testing::kafka::under_a_prefix;
pub use crate::testing::process::free_port;
use crate::testing::variable;

/// The run's broker, under a prefix that no other test has.
pub fn of_the_run() -> String {
    under_a_prefix(&variable("DUNLIN_TEST_KAFKA"))
}

/// The clock is the real one, the records' times are not: none is too old.
pub fn config() -> KafkaLogConfig {
    KafkaLogConfig { retention_age: Duration::MAX, ..KafkaLogConfig::default() }
}

pub async fn open(url: &str) -> KafkaLog {
    KafkaLog::open(url, config()).await.expect("open")
}
