//! Cloud-to-device messages: a queue per device, and feedback on what became of them (docs/c2d.md).

use std::ops::RangeInclusive;
use std::sync::Arc;

use dunlin_model::limits;
use dunlin_proto::v1::c2d_server::C2dServer;
use dunlin_runtime::metrics::Registry;
use dunlin_runtime::{Clock, Component, DeviceLinks, Health, Role};
use dunlin_storage::CommandQueue;
use dunlin_storage::command_queue::{FeedbackRules, Rules};
use serde::{Deserialize, Serialize};
use tonic::server::NamedService;

mod metrics;
mod random;
mod service;
mod sweep;
mod tells;

use service::Service;

/// Cloud-to-device messages and feedback on them. The defaults are IoT Hub's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Messages a device may have queued; the next one is refused (403004).
    pub depth: u32,
    /// Seconds a message lives that does not say when it expires: 60 to 172800.
    pub default_ttl_seconds: u32,
    /// Seconds a device may take to settle a message it was handed: 5 to 300.
    pub lock_seconds: u32,
    /// Hand-outs in vain after which a message is dead-lettered: 1 to 100.
    pub max_delivery_count: u32,
    /// Records that make a batch of feedback,
    pub feedback_batch_records: u32,
    /// or seconds for which the oldest of fewer has waited.
    pub feedback_batch_seconds: u32,
    /// Seconds a record of feedback is kept for: 60 to 172800.
    pub feedback_ttl_seconds: u32,
    /// Seconds a back end may take to settle a batch of feedback: 5 to 300.
    pub feedback_lock_seconds: u32,
    /// Hand-outs in vain after which a batch of feedback is dropped: 1 to 100.
    pub feedback_max_delivery_count: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            depth: 50,
            default_ttl_seconds: 3_600,
            lock_seconds: 60,
            max_delivery_count: 10,
            feedback_batch_records: 64,
            feedback_batch_seconds: 15,
            feedback_ttl_seconds: 3_600,
            feedback_lock_seconds: 60,
            feedback_max_delivery_count: 10,
        }
    }
}

/// What C2D needs of its surroundings.
pub struct Context {
    pub config: Config,
    pub store: Arc<dyn CommandQueue>,
    /// The way to connected devices, which are told that there is something for them.
    pub links: DeviceLinks,
    /// By which messages expire and locks end.
    pub clock: Clock,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("c2d.{setting} is {value}; it may be {} to {}", .allowed.start(), .allowed.end())]
    OutOfRange { setting: &'static str, value: u32, allowed: RangeInclusive<u32> },
}

/// Builds the role.
pub fn build(context: Context) -> Result<Component, BuildError> {
    let service = Service::new(context)?;
    let path = format!("/{}/{{*rest}}", C2dServer::<Service>::NAME);
    let routes = axum::Router::new().route_service(&path, C2dServer::new(service.clone()));
    let mut metrics = Registry::default();
    service.metrics().register(&mut metrics);
    let health = Health::new(Role::C2d.name());
    health.set_ready(true);
    let run = Box::new(|shutdown| Box::pin(sweep::run(service, shutdown)) as _);
    Ok(Component { role: Role::C2d, routes, health, metrics, run })
}

impl Config {
    fn rules(&self) -> Result<Rules, BuildError> {
        // Our own: what is in a message between roles, and in the answer to a back end.
        let (many, batch) = (1..=1_000_000, 1..=1_000);
        let (ttl, lock) = (limits::COMMAND_TTL_SECONDS, limits::LOCK_SECONDS);
        let count = limits::DELIVERY_COUNT;
        for (setting, value, allowed) in [
            ("depth", self.depth, many),
            ("default_ttl_seconds", self.default_ttl_seconds, ttl.clone()),
            ("lock_seconds", self.lock_seconds, lock.clone()),
            ("max_delivery_count", self.max_delivery_count, count.clone()),
            ("feedback_batch_records", self.feedback_batch_records, batch),
            ("feedback_batch_seconds", self.feedback_batch_seconds, 0..=*lock.end()),
            ("feedback_ttl_seconds", self.feedback_ttl_seconds, ttl),
            ("feedback_lock_seconds", self.feedback_lock_seconds, lock),
            ("feedback_max_delivery_count", self.feedback_max_delivery_count, count),
        ] {
            if !allowed.contains(&value) {
                return Err(BuildError::OutOfRange { setting, value, allowed });
            }
        }
        Ok(Rules {
            depth: self.depth,
            lock: millis(self.lock_seconds),
            max_delivery_count: self.max_delivery_count,
            feedback: FeedbackRules {
                batch_records: self.feedback_batch_records,
                batch_age: millis(self.feedback_batch_seconds),
                lock: millis(self.feedback_lock_seconds),
                ttl: millis(self.feedback_ttl_seconds),
                max_delivery_count: self.feedback_max_delivery_count,
            },
        })
    }
}

fn millis(seconds: u32) -> i64 {
    i64::from(seconds) * 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_their_bounds() {
        let default = Config::default;
        assert_eq!(default().rules().map(|rules| rules.lock).ok(), Some(60_000));
        for (wrong, says) in [
            (Config { depth: 0, ..default() }, "c2d.depth is 0; it may be 1 to 1000000"),
            (Config { default_ttl_seconds: 59, ..default() }, "it may be 60 to 172800"),
            (Config { lock_seconds: 301, ..default() }, "c2d.lock_seconds is 301"),
            (Config { max_delivery_count: 101, ..default() }, "it may be 1 to 100"),
            (Config { feedback_batch_records: 0, ..default() }, "feedback_batch_records is 0"),
        ] {
            let error = wrong.rules().expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
