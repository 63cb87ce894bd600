//! The ports as a role is given them: each operation is measured, and a span of the request it is
//! done for. What a store does in batches is the wait of each of its callers.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dunlin_model::command::{Disposition, LockToken};
use dunlin_model::event::Event;
use dunlin_model::twin::{Limits, Report, Update};
use dunlin_model::{Command, Identity, Session};
use dunlin_storage::command_queue::{
    FeedbackBatch, FeedbackRules, Lease, Rules, Settlement, Swept,
};
use dunlin_storage::device_store::{
    ConnectionReport, ConnectionStore, IdentityWrite, Statistics, StoredIdentity, Written,
};
use dunlin_storage::event_log::{Completions, Full, Position, Range, ReadLimit, Record, Token};
use dunlin_storage::presence::{Claim, Epoch, Holder, Renewed};
use dunlin_storage::twin_store::{StoredTwin, Updated};
use dunlin_storage::{CommandQueue, DeviceStore, EventLog, Presence, StoreError, TwinStore};
use prometheus_client::encoding::EncodeLabelSet;

use crate::Telemetry;
use crate::metrics::{Latencies, Registry, latencies};
use crate::telemetry::{KeyValue, SpanKind};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    port: &'static str,
    operation: &'static str,
    outcome: &'static str,
}

/// Observes the stores of a process.
pub struct StoreObserver {
    telemetry: Telemetry,
    operations: Latencies<Labels>,
}

impl StoreObserver {
    pub fn new(telemetry: Telemetry) -> Self {
        Self { telemetry, operations: latencies() }
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "dunlin_store_operation_seconds",
            "Operations of this process on stores",
            self.operations.clone(),
        );
    }

    /// `system`: what is behind the port, by OpenTelemetry's name (`db.system.name`).
    pub fn over<P: ?Sized>(
        &self,
        name: &'static str,
        system: &'static str,
        port: Arc<P>,
    ) -> Arc<Observed<P>> {
        let (telemetry, operations) = (self.telemetry.clone(), self.operations.clone());
        Arc::new(Observed { port, name, system, telemetry, operations })
    }
}

/// A port that is observed.
pub struct Observed<P: ?Sized> {
    port: Arc<P>,
    name: &'static str,
    system: &'static str,
    telemetry: Telemetry,
    operations: Latencies<Labels>,
}

impl<P: ?Sized> Observed<P> {
    async fn observe<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let span = self.telemetry.child(SpanKind::Client, || {
            let attributes = vec![
                KeyValue::new("db.system.name", self.system),
                KeyValue::new("db.operation.name", operation),
            ];
            (format!("{} {operation}", self.name), attributes)
        });
        let began = Instant::now();
        let outcome = span.run(work).await;
        let labels = Labels {
            port: self.name,
            operation,
            outcome: outcome.as_ref().err().map_or("ok", StoreError::kind),
        };
        self.operations.get_or_create(&labels).observe(began.elapsed().as_secs_f64());
        outcome
    }
}

/// Methods that differ in nothing but their names and types.
macro_rules! observed {
    ($port:ident { $($methods:tt)* } $($more:tt)*) => {
        observed!($port of $port { $($methods)* } $($more)*);
    };
    // Of a port that another one includes.
    ($port:ident of $whole:ident { $($name:ident($($argument:ident: $type:ty),*) -> $ok:ty;)* } $($more:tt)*) => {
        #[async_trait]
        impl $port for Observed<dyn $whole> {
            $(async fn $name(&self, $($argument: $type),*) -> Result<$ok, StoreError> {
                self.observe(stringify!($name), self.port.$name($($argument),*)).await
            })*
            $($more)*
        }
    };
}

observed!(DeviceStore {
    identity_write(groups: Vec<Vec<IdentityWrite>>) -> Vec<Written>;
    identity_get(id: &Identity) -> Option<StoredIdentity>;
    device_list(after: &str, top: usize) -> Vec<StoredIdentity>;
    module_list(device: &str) -> Vec<StoredIdentity>;
    device_statistics() -> Statistics;
    setting_get(name: &str) -> Option<Vec<u8>>;
    setting_init(name: &str, value: &[u8]) -> Vec<u8>;
    setting_replace(name: &str, old: &[u8], new: &[u8]) -> ();
    epoch_generation_next() -> u32;
});

observed!(ConnectionStore of DeviceStore {
    connections_record(reports: Vec<ConnectionReport>) -> Vec<Option<Session>>;
    node_list() -> Vec<String>;
    node_end(node: &str, at: i64, top: usize) -> usize;
});

observed!(TwinStore {
    twin_get(id: &Identity) -> Option<StoredTwin>;
    twin_update(id: &Identity, update: Update, now: i64, limits: &Limits) -> Updated;
    twin_report(id: &Identity, report: Report, now: i64, limits: &Limits) -> u64;
});

observed!(CommandQueue {
    command_send(device: &str, command: Command, now: i64, rules: &Rules) -> u64;
    command_lease(
        device: &str,
        epoch: Epoch,
        tokens: Vec<LockToken>,
        bytes: usize,
        now: i64,
        rules: &Rules
    ) -> Lease;
    command_settle(
        device: &str,
        epoch: Epoch,
        tokens: &[LockToken],
        disposition: Disposition,
        now: i64,
        rules: &Rules
    ) -> Settlement;
    command_release(device: &str, epoch: Epoch, in_vain: bool, now: i64, rules: &Rules) -> ();
    command_purge(device: &str, now: i64, rules: &Rules) -> u32;
    command_count(device: &str, now: i64, rules: &Rules) -> u32;
    command_sweep(most: usize, now: i64, rules: &Rules) -> Swept;
    feedback_lease(token: LockToken, now: i64, rules: &FeedbackRules) -> Option<FeedbackBatch>;
    feedback_settle(
        token: LockToken,
        disposition: Disposition,
        now: i64,
        rules: &FeedbackRules
    ) -> bool;
});

observed!(Presence {
    claim(id: &Identity, node: &str, auth_version: u64) -> Claim;
    release(id: &Identity, epoch: Epoch) -> ();
    holder(id: &Identity) -> Option<Holder>;
    revoke(id: &Identity, auth_version: u64) -> Option<Holder>;
    node_renew(node: &str) -> Renewed;
    node_lives(node: &str) -> bool;
    lease_take(name: &str, holder: &str) -> bool;
    restore(node: &str, held: &[(Identity, Epoch)]) -> Vec<Identity>;
});

// For who reads. What appends, the hot path, is given the log itself.
observed!(EventLog {
    range(topic: &'static str, partition: u32) -> Range;
    seek(topic: &'static str, partition: u32, position: Position) -> u64;
    read(
        topic: &'static str,
        partition: u32,
        from: u64,
        limit: ReadLimit,
        wait: Duration
    ) -> Vec<Event>;
    group_commit(topic: &'static str, group: &str, next: &[(u32, u64)]) -> ();
    group_positions(topic: &'static str, group: &str) -> Vec<(u32, u64)>;
}
    fn append(
        &self,
        topic: &'static str,
        record: Record<'_>,
        token: Token,
        sink: Option<&Arc<dyn Completions>>,
    ) -> Result<(), Full> {
        self.port.append(topic, record, token, sink)
    }

    async fn writable(&self) {
        self.port.writable().await;
    }

    fn partitions(&self) -> u32 {
        self.port.partitions()
    }

    fn pending_bytes(&self) -> usize {
        self.port.pending_bytes()
    }

    async fn close(&self) {
        self.port.close().await;
    }
);
