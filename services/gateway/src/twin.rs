//! A session's twin requests, whatever protocol carries them.

use dunlin_model::{HubError, Identity};
use dunlin_proto::status::from_status;
use dunlin_proto::v1::twins_client::TwinsClient;
use dunlin_proto::v1::{GetPropertiesRequest, UpdateReportedRequest};
use dunlin_runtime::telemetry::{SpanKind, identity};
use dunlin_storage::presence::Epoch;

use crate::gateway::Gateway;

pub enum TwinRequest {
    Get,
    /// A merge patch of the reported properties, if they have that version.
    Report {
        patch: Vec<u8>,
        if_version: Option<u64>,
    },
}

pub enum TwinAnswer {
    /// Desired and reported properties, as JSON.
    Properties(Vec<u8>),
    /// The version the reported properties have now.
    Reported(u64),
}

impl Gateway {
    /// `epoch`: of the connection that asks, so that nothing of it counts once a newer one has spoken.
    pub async fn twin(
        &self,
        id: &Identity,
        epoch: Epoch,
        request: TwinRequest,
    ) -> Result<TwinAnswer, HubError> {
        let name = match request {
            TwinRequest::Get => "twin get",
            TwinRequest::Report { .. } => "twin report",
        };
        let span = self.telemetry.span(name, SpanKind::Server, || identity(id));
        span.run(self.ask_twins(id.as_str().to_owned(), epoch, request)).await
    }

    async fn ask_twins(
        &self,
        id: String,
        epoch: Epoch,
        request: TwinRequest,
    ) -> Result<TwinAnswer, HubError> {
        let mut twins = TwinsClient::new(self.twins.clone());
        let answer = match request {
            TwinRequest::Get => twins
                .get_properties(GetPropertiesRequest { id })
                .await
                .map(|answer| TwinAnswer::Properties(answer.into_inner().json)),
            TwinRequest::Report { patch, if_version } => twins
                .update_reported(UpdateReportedRequest { id, patch, if_version, epoch })
                .await
                .map(|answer| TwinAnswer::Reported(answer.into_inner().version)),
        };
        answer.map_err(|status| from_status(&status))
    }
}
