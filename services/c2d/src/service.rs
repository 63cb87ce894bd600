//! The gRPC face of C2D. The store makes each call one transaction; what is left is to make up
//! tokens, to know the time, and to tell the device.

use std::sync::Arc;

use dunlin_model::command::{Disposition, LockToken};
use dunlin_model::{Command, ErrorCode, HubError, Identity};
use dunlin_proto::status::to_status;
use dunlin_proto::v1;
use dunlin_runtime::Clock;
use dunlin_runtime::telemetry::carried;
use dunlin_storage::command_queue::{FeedbackBatch, FeedbackRecord, Leased, Rules};
use dunlin_storage::{CommandQueue, StoreError};
use tonic::{Request, Response, Status};
use tracing::error;

use crate::metrics::Metrics;
use crate::tells::Tells;
use crate::{BuildError, Context, millis, random};

type Answer<T> = Result<Response<T>, Status>;

/// Messages in one answer at most, whatever is asked for.
const LEASE: u32 = 1_000;

/// Bytes after which an answer has no further message. They are what a device that takes nothing
/// leaves in its gateway's memory, and a queue may hold 3 MB.
const LEASE_BYTES: usize = 128 << 10;

#[derive(Clone)]
pub(crate) struct Service(Arc<Shared>);

struct Shared {
    rules: Rules,
    default_ttl: i64,
    store: Arc<dyn CommandQueue>,
    tells: Tells,
    clock: Clock,
    metrics: Metrics,
}

fn answer<T>(result: Result<T, HubError>) -> Answer<T> {
    result.map(Response::new).map_err(to_status)
}

#[tonic::async_trait]
impl v1::c2d_server::C2d for Service {
    async fn send_command(
        &self,
        request: Request<v1::SendCommandRequest>,
    ) -> Answer<v1::SendCommandResponse> {
        let v1::SendCommandRequest { device_id, command } = request.into_inner();
        let send = async {
            let device = device(&device_id)?;
            let command = command.unwrap_or_default().try_into()?;
            // A task of its own, which goes on when the caller goes away: of what has been queued
            // the device must also be told.
            let sent = tokio::spawn(carried(self.clone().send(device, command)));
            let message_id = sent.await.map_err(|error| {
                error!(%error, "a C2D message died: please report this");
                HubError::new(ErrorCode::ServerError, "the call died")
            })??;
            Ok(v1::SendCommandResponse { message_id })
        };
        answer(send.await)
    }

    async fn lease_commands(
        &self,
        request: Request<v1::LeaseCommandsRequest>,
    ) -> Answer<v1::LeaseCommandsResponse> {
        let v1::LeaseCommandsRequest { device_id, epoch, most } = request.into_inner();
        let lease = async {
            let device = device(&device_id)?;
            let tokens = random::tokens(most.min(LEASE));
            let asked = tokens.len();
            let (now, rules) = (self.now(), self.rules());
            let leased =
                self.store().command_lease(device.as_str(), epoch, tokens, LEASE_BYTES, now, rules);
            let leased = leased.await.map_err(|error| self.failed(&device, error))?;
            if leased.returned {
                self.tells().tell(device.as_str());
            }
            self.metrics().count("delivered", leased.messages.len());
            let bytes: usize = leased.messages.iter().map(|one| one.command.weight()).sum();
            Ok(v1::LeaseCommandsResponse {
                more: leased.messages.len() == asked || bytes >= LEASE_BYTES,
                commands: leased.messages.into_iter().map(leased_wire).collect(),
                lock_seconds: u32::try_from(rules.lock / 1_000).unwrap_or(u32::MAX),
            })
        };
        answer(lease.await)
    }

    async fn settle_commands(
        &self,
        request: Request<v1::SettleCommandsRequest>,
    ) -> Answer<v1::SettleCommandsResponse> {
        let request = request.into_inner();
        let settle = async {
            let device = device(&request.device_id)?;
            let disposition = Disposition::try_from(request.disposition())?;
            let tokens: Vec<Option<LockToken>> =
                request.lock_tokens.iter().map(|text| text.parse().ok()).collect();
            let known: Vec<_> = tokens.iter().flatten().copied().collect();
            let (store, now, rules) = (self.store(), self.now(), self.rules());
            let settled = store
                .command_settle(device.as_str(), request.epoch, &known, disposition, now, rules)
                .await
                .map_err(|error| self.failed(&device, error))?;
            if settled.returned {
                self.tells().tell(device.as_str());
            }
            self.metrics().settled(disposition, &settled.held);
            let mut settled = settled.held.into_iter();
            let settled =
                tokens.iter().map(|token| token.is_some() && settled.next() == Some(true));
            Ok(v1::SettleCommandsResponse { settled: settled.collect() })
        };
        answer(settle.await)
    }

    async fn release_commands(
        &self,
        request: Request<v1::ReleaseCommandsRequest>,
    ) -> Answer<v1::ReleaseCommandsResponse> {
        let v1::ReleaseCommandsRequest { device_id, epoch, lost } = request.into_inner();
        let release = async {
            let device = device(&device_id)?;
            let (now, rules) = (self.now(), self.rules());
            let released = self.store().command_release(device.as_str(), epoch, lost, now, rules);
            released.await.map_err(|error| self.failed(&device, error))?;
            Ok(v1::ReleaseCommandsResponse {})
        };
        answer(release.await)
    }

    async fn purge_commands(
        &self,
        request: Request<v1::PurgeCommandsRequest>,
    ) -> Answer<v1::PurgeCommandsResponse> {
        let purge = async {
            let device = device(&request.into_inner().device_id)?;
            let purged = self.store().command_purge(device.as_str(), self.now(), self.rules());
            let purged = purged.await.map_err(|error| self.failed(&device, error))?;
            self.metrics().count("purged", purged as usize);
            Ok(v1::PurgeCommandsResponse { purged })
        };
        answer(purge.await)
    }

    async fn count_commands(
        &self,
        request: Request<v1::CountCommandsRequest>,
    ) -> Answer<v1::CountCommandsResponse> {
        let count = async {
            let device = device(&request.into_inner().device_id)?;
            let count = self.store().command_count(device.as_str(), self.now(), self.rules());
            let count = count.await.map_err(|error| self.failed(&device, error))?;
            Ok(v1::CountCommandsResponse { count })
        };
        answer(count.await)
    }

    async fn lease_feedback(
        &self,
        _: Request<v1::LeaseFeedbackRequest>,
    ) -> Answer<v1::LeaseFeedbackResponse> {
        let rules = &self.rules().feedback;
        let leased = self.store().feedback_lease(random::token(), self.now(), rules).await;
        let batch = leased.map(|batch| batch.map(batch_wire)).map_err(store_failed);
        answer(batch.map(|batch| v1::LeaseFeedbackResponse { batch }))
    }

    async fn settle_feedback(
        &self,
        request: Request<v1::SettleFeedbackRequest>,
    ) -> Answer<v1::SettleFeedbackResponse> {
        let request = request.into_inner();
        let settle = async {
            let disposition = Disposition::try_from(request.disposition())?;
            let token = request.lock_token.parse()?;
            let rules = &self.rules().feedback;
            let settled = self.store().feedback_settle(token, disposition, self.now(), rules).await;
            match settled.map_err(store_failed)? {
                true => Ok(v1::SettleFeedbackResponse {}),
                false => Err(lock_lost("the lock of this feedback is over: read it again")),
            }
        };
        answer(settle.await)
    }
}

impl Service {
    pub(crate) fn new(context: Context) -> Result<Self, BuildError> {
        let Context { config, store, links, clock } = context;
        let (rules, default_ttl) = (config.rules()?, millis(config.default_ttl_seconds));
        let (tells, metrics) = (Tells::new(links), Metrics::default());
        Ok(Self(Arc::new(Shared { rules, default_ttl, store, tells, clock, metrics })))
    }

    pub(crate) fn store(&self) -> &dyn CommandQueue {
        &*self.0.store
    }

    pub(crate) fn now(&self) -> i64 {
        self.0.clock.unix_millis()
    }

    pub(crate) fn tells(&self) -> &Tells {
        &self.0.tells
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.0.rules
    }

    /// Returns the id of the message.
    async fn send(self, device: Identity, mut command: Command) -> Result<String, HubError> {
        let now = self.now();
        let given = command.message_id.take().filter(|id| !id.is_empty());
        let message_id = given.unwrap_or_else(|| random::token().to_string());
        command.message_id = Some(message_id.clone());
        command.check(now)?;
        command.expires.get_or_insert(now + self.0.default_ttl);
        let sent = self.store().command_send(device.as_str(), command, now, self.rules()).await;
        sent.map_err(|error| self.failed(&device, error))?;
        self.metrics().count("sent", 1);
        self.tells().tell(device.as_str());
        Ok(message_id)
    }

    fn failed(&self, device: &Identity, error: StoreError) -> HubError {
        match error {
            StoreError::NotFound => {
                let why = format!("the device {device} is not registered");
                HubError::new(ErrorCode::DeviceNotFound, why)
            }
            StoreError::LimitReached => {
                let why = format!(
                    "the queue of {device} is full ({} messages): wait for the device, or purge it",
                    self.rules().depth
                );
                HubError::new(ErrorCode::DeviceMaximumQueueDepthExceeded, why)
            }
            StoreError::PreconditionFailed => lock_lost("a newer connection has the messages"),
            other => store_failed(other),
        }
    }
}

/// Modules have no queue: an id with a slash is no device's.
fn device(id: &str) -> Result<Identity, HubError> {
    Identity::device(id)
}

fn lock_lost(why: &str) -> HubError {
    HubError::new(ErrorCode::DeviceMessageLockLost, why)
}

/// Logs the cause, which the caller is not told.
fn store_failed(error: StoreError) -> HubError {
    error!(error = &error as &dyn std::error::Error, "the C2D store failed");
    error.into()
}

fn leased_wire(leased: Leased) -> v1::LeasedCommand {
    v1::LeasedCommand {
        command: Some(leased.command.into()),
        lock_token: leased.token.to_string(),
        sequence: leased.sequence,
        delivery_count: leased.delivery_count,
        enqueued: leased.enqueued,
    }
}

fn batch_wire(batch: FeedbackBatch) -> v1::FeedbackBatch {
    let record = |record: FeedbackRecord| v1::FeedbackRecord {
        original_message_id: record.message_id,
        enqueued: record.enqueued,
        status: record.outcome.as_str().to_owned(),
        device_id: record.device_id,
        device_generation_id: record.generation_id,
    };
    v1::FeedbackBatch {
        lock_token: batch.token.to_string(),
        sequence: batch.sequence,
        delivery_count: batch.delivery_count,
        enqueued: batch.enqueued,
        records: batch.records.into_iter().map(record).collect(),
    }
}
