//! What librdkafka says, to our log.

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

/// Of clients that answer for themselves.
pub(super) struct Logged;

impl ClientContext for Logged {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        told(&error, reason);
    }
}

impl ConsumerContext for Logged {}

/// Kafka's word is a warning at most: what it means for the hub is said where it is known.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    if level as i32 <= RDKafkaLogLevel::Warning as i32 {
        tracing::warn!(facility, message, "kafka");
    } else {
        tracing::debug!(facility, message, "kafka");
    }
}

/// That a broker is away, `log` has said already, and less often.
pub(super) fn told(error: &KafkaError, reason: &str) {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve,
        ) => tracing::debug!(%error, reason, "kafka"),
        _ => tracing::warn!(%error, reason, "kafka"),
    }
}
