//! What gateways tell of their connections, on its way to the store.

use dunlin_model::{HubError, Identity};
use dunlin_proto::v1;
use dunlin_storage::DeviceStore;
use dunlin_storage::device_store::ConnectionReport;

use crate::store_failed;

pub(crate) async fn record(
    store: &dyn DeviceStore,
    reports: Vec<v1::ConnectionReport>,
) -> Result<(), HubError> {
    let reports: Result<Vec<_>, HubError> = reports.into_iter().map(report).collect();
    store.connections_record(reports?).await.map_err(store_failed)
}

fn report(wire: v1::ConnectionReport) -> Result<ConnectionReport, HubError> {
    Ok(ConnectionReport::State {
        id: Identity::parse(&wire.identity)?,
        generation_id: wire.generation_id,
        epoch: wire.epoch,
        state: wire.state.unwrap_or_default().into(),
    })
}
