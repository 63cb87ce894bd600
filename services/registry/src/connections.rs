//! What gateways tell of their connections, on its way to the store.

use dunlin_model::{HubError, Identity};
use dunlin_proto::v1;
use dunlin_storage::DeviceStore;
use dunlin_storage::device_store::ConnectionReport;

use crate::store_failed;

pub(crate) async fn record(
    store: &dyn DeviceStore,
    request: v1::RecordConnectionsRequest,
) -> Result<v1::RecordConnectionsResponse, HubError> {
    let v1::RecordConnectionsRequest { reports, sessions, node } = request;
    let told = reports.len();
    let reports = reports.into_iter().map(|wire| report(wire, &node));
    let reports = reports.chain(sessions.into_iter().map(session));
    let reports: Result<Vec<_>, HubError> = reports.collect();
    let recorded = store.connections_record(reports?).await.map_err(store_failed)?;
    let sessions = recorded.into_iter().skip(told);
    let sessions = sessions.map(|session| v1::SessionOutcome { session: session.map(Into::into) });
    Ok(v1::RecordConnectionsResponse { sessions: sessions.collect() })
}

fn report(wire: v1::ConnectionReport, node: &str) -> Result<ConnectionReport, HubError> {
    Ok(ConnectionReport::State {
        id: Identity::parse(&wire.identity)?,
        generation_id: wire.generation_id,
        epoch: wire.epoch,
        state: wire.state.unwrap_or_default().into(),
        node: node.to_owned(),
    })
}

fn session(wire: v1::SessionReport) -> Result<ConnectionReport, HubError> {
    Ok(ConnectionReport::Session {
        id: Identity::parse(&wire.identity)?,
        generation_id: wire.generation_id,
        epoch: wire.epoch,
        session: wire.session.unwrap_or_default().into(),
        keep_subscriptions: wire.keep_subscriptions,
    })
}
