//! Rows of `device_state`.

use rusqlite::{Connection, params};

use crate::StoreError;
use crate::device_store::ConnectionReport;

pub(super) fn record(db: &Connection, report: &ConnectionReport) -> Result<(), StoreError> {
    match report {
        ConnectionReport::State { id, generation_id, epoch, state } => {
            // Of two reports of one epoch, "it has ended" is the later one, whatever their order.
            let sql = "INSERT INTO device_state
                           (device_id, module_id, epoch, connected, connection_updated,
                            last_activity)
                       SELECT device_id, module_id, ?4, ?5, ?6, ?7 FROM identity
                           WHERE device_id = ?1 AND module_id = ?2 AND generation_id = ?3
                       ON CONFLICT (device_id, module_id) DO UPDATE SET
                           connected = CASE
                               WHEN epoch < excluded.epoch THEN excluded.connected
                               WHEN epoch = excluded.epoch THEN min(connected, excluded.connected)
                               ELSE connected END,
                           connection_updated = CASE
                               WHEN epoch < excluded.epoch
                                    OR epoch = excluded.epoch AND connected > excluded.connected
                               THEN excluded.connection_updated ELSE connection_updated END,
                           epoch = max(epoch, excluded.epoch),
                           last_activity = max(last_activity, excluded.last_activity)";
            db.prepare_cached(sql)?.execute(params![
                id.device_id(),
                id.module_id().unwrap_or_default(),
                generation_id,
                epoch.cast_signed(),
                state.connected,
                state.updated,
                state.last_activity,
            ])?;
        }
        ConnectionReport::Session { id, generation_id, epoch, session } => {
            let sql = "INSERT INTO device_state
                           (device_id, module_id, epoch, connected, connection_updated,
                            last_activity, session_epoch, subscriptions, model_id)
                       SELECT device_id, module_id, 0, 0, 0, 0, ?4, ?5, ?6 FROM identity
                           WHERE device_id = ?1 AND module_id = ?2 AND generation_id = ?3
                       ON CONFLICT (device_id, module_id) DO UPDATE SET
                           session_epoch = excluded.session_epoch,
                           subscriptions = excluded.subscriptions,
                           model_id = excluded.model_id
                       WHERE session_epoch <= excluded.session_epoch";
            db.prepare_cached(sql)?.execute(params![
                id.device_id(),
                id.module_id().unwrap_or_default(),
                generation_id,
                epoch.cast_signed(),
                session.subscriptions.bits(),
                session.model_id,
            ])?;
        }
        ConnectionReport::EndBefore { epoch, at } => {
            let sql = "UPDATE device_state SET connected = 0, connection_updated = ?2
                       WHERE connected = 1 AND epoch < ?1";
            db.prepare_cached(sql)?.execute(params![epoch.cast_signed(), at])?;
        }
    }
    Ok(())
}
