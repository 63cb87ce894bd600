//! The gRPC face of twins. The model says what a change does, the store makes it one transaction;
//! what is left is to tell the device.

use std::sync::Arc;
use std::time::Duration;

use dunlin_model::twin::{Limits, Report, Update};
use dunlin_model::{ErrorCode, HubError, Identity};
use dunlin_proto::status::to_status;
use dunlin_proto::v1;
use dunlin_runtime::Turns;
use dunlin_runtime::clock::unix_millis;
use dunlin_runtime::telemetry::carried;
use dunlin_runtime::turns::Turn;
use dunlin_storage::twin_store::{StoredTwin, Updated};
use dunlin_storage::{StoreError, TwinStore};
use tokio::time::timeout;
use tonic::{Request, Response};
use tracing::error;

use crate::tells::Tells;
use crate::{Context, wire};

/// How long an update waits for the device's gateway to have its notification.
const TELLING: Duration = Duration::from_secs(1);

type Answer<T> = Result<Response<T>, tonic::Status>;

#[derive(Clone)]
pub(crate) struct Service(Arc<Shared>);

struct Shared {
    limits: Limits,
    store: Arc<dyn TwinStore>,
    turns: Turns,
    tells: Tells,
}

fn answer<T>(result: Result<T, HubError>) -> Answer<T> {
    result.map(Response::new).map_err(to_status)
}

#[tonic::async_trait]
impl v1::twins_server::Twins for Service {
    async fn get_twin(&self, request: Request<v1::GetTwinRequest>) -> Answer<v1::Twin> {
        let get = async { wire::twin(self.get(&request.into_inner().id).await?) };
        answer(get.await)
    }

    async fn update_twin(&self, request: Request<v1::UpdateTwinRequest>) -> Answer<v1::Twin> {
        let v1::UpdateTwinRequest { id, if_match, replace, tags, desired } = request.into_inner();
        let update = async {
            let id = Identity::parse(&id)?;
            let [tags, desired] = [&tags, &desired].map(|text| text.as_deref().map(str::as_bytes));
            let update = Update::read(if_match, replace, tags, desired, &self.0.limits)?;
            // So that the device is told of versions in their order. A caller that goes away before
            // it is his turn changes nothing.
            let turn = match update.changes_desired() {
                true => Some(self.0.turns.take(&id).await),
                false => None,
            };
            // A task of its own, which goes on when the caller goes away: of what has been stored
            // the device must also be told.
            let apply = tokio::spawn(carried(self.clone().update(id, update, turn)));
            let stored = apply.await.map_err(|error| {
                error!(%error, "an update died: please report this");
                HubError::new(ErrorCode::ServerError, "the update died")
            })??;
            wire::twin(stored)
        };
        answer(update.await)
    }

    async fn get_properties(
        &self,
        request: Request<v1::GetPropertiesRequest>,
    ) -> Answer<v1::PropertiesDocument> {
        let get = async {
            let stored = self.get(&request.into_inner().id).await?;
            let json = wire::text(&stored.twin.properties())?.into_bytes();
            Ok(v1::PropertiesDocument { json })
        };
        answer(get.await)
    }

    async fn update_reported(
        &self,
        request: Request<v1::UpdateReportedRequest>,
    ) -> Answer<v1::UpdateReportedResponse> {
        let v1::UpdateReportedRequest { id, patch, if_version, epoch } = request.into_inner();
        let report = async {
            let id = Identity::parse(&id)?;
            let Shared { limits, store, .. } = &*self.0;
            let report = Report::read(&patch, if_version, limits)?.of_connection(epoch);
            match store.twin_report(&id, report, unix_millis(), limits).await {
                Ok(version) => Ok(v1::UpdateReportedResponse { version }),
                Err(error) => Err(self.failed(&id, error).await),
            }
        };
        answer(report.await)
    }
}

impl Service {
    pub(crate) fn new(context: Context) -> Self {
        let Context { limits, store, links } = context;
        Self(Arc::new(Shared { limits, store, turns: Turns::default(), tells: Tells::new(links) }))
    }

    async fn get(&self, id: &str) -> Result<StoredTwin, HubError> {
        let id = Identity::parse(id)?;
        let found = self.0.store.twin_get(&id).await;
        match found.and_then(|found| found.ok_or(StoreError::NotFound)) {
            Ok(stored) => Ok(stored),
            Err(error) => Err(self.failed(&id, error).await),
        }
    }

    async fn update(
        self,
        id: Identity,
        update: Update,
        turn: Option<Turn>,
    ) -> Result<StoredTwin, HubError> {
        let Shared { limits, store, tells, .. } = &*self.0;
        if turn.is_some() {
            tells.room(&id)?;
        }
        let Updated { stored, told } =
            match store.twin_update(&id, update, unix_millis(), limits).await {
                Ok(updated) => updated,
                Err(error) => return Err(self.failed(&id, error).await),
            };
        let told = match told {
            Some(patch) => Some(tells.tell(&id, stored.twin.desired.version, wire::text(&patch)?)),
            None => None,
        };
        // The next one need not wait for a gateway.
        drop(turn);
        if let Some(told) = told {
            // The change stands, whatever comes of it.
            let _ = timeout(TELLING, told).await;
        }
        Ok(stored)
    }

    async fn failed(&self, id: &Identity, error: StoreError) -> HubError {
        match error {
            StoreError::NotFound => self.missing(id).await.unwrap_or_else(store_failed),
            StoreError::Refused(error) => error,
            other => store_failed(other),
        }
    }

    /// Asked once an identity is known to be missing: is it the module or its device?
    async fn missing(&self, id: &Identity) -> Result<HubError, StoreError> {
        let device = id.device_id();
        if id.module_id().is_some() {
            let device = Identity::device(device).map_err(StoreError::Refused)?;
            if self.0.store.twin_get(&device).await?.is_some() {
                let why = format!("the module {id} is not registered");
                return Ok(HubError::new(ErrorCode::ModuleNotFound, why));
            }
        }
        let why = format!("the device {device} is not registered");
        Ok(HubError::new(ErrorCode::DeviceNotFound, why))
    }
}

/// Logs the cause, which the caller is not told.
fn store_failed(error: StoreError) -> HubError {
    error!(error = &error as &dyn std::error::Error, "the twin store failed");
    error.into()
}
