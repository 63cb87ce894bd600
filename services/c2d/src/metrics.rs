//! What is told of C2D messages (docs/observability.md).

use dunlin_model::command::Disposition;
use dunlin_runtime::metrics::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct By {
    event: &'static str,
}

#[derive(Clone, Default)]
pub(crate) struct Metrics(Family<By, Counter>);

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "dunlin_c2d_messages",
            "C2D messages that back ends sent, devices were handed and settled, and were purged",
            self.0.clone(),
        );
    }

    pub fn count(&self, event: &'static str, messages: usize) {
        if messages > 0 {
            self.0.get_or_create(&By { event }).inc_by(messages as u64);
        }
    }

    /// Those of which the lock was held.
    pub fn settled(&self, disposition: Disposition, held: &[bool]) {
        let event = match disposition {
            Disposition::Complete => "completed",
            Disposition::Abandon => "abandoned",
            Disposition::Reject => "rejected",
        };
        self.count(event, held.iter().filter(|held| **held).count());
    }
}
