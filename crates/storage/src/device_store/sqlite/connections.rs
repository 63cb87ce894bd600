//! Rows of `device_state`.

use dunlin_model::{Session, Subscriptions};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::StoreError;
use crate::device_store::ConnectionReport;

pub(super) fn record(
    db: &Connection,
    report: &ConnectionReport,
) -> Result<Option<Session>, StoreError> {
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
        ConnectionReport::Session { id, generation_id, epoch, session, keep_subscriptions } => {
            let sql = "INSERT INTO device_state
                           (device_id, module_id, epoch, connected, connection_updated,
                            last_activity, session_epoch, subscriptions, model_id)
                       SELECT device_id, module_id, 0, 0, 0, 0, ?4, CASE WHEN ?7 THEN 0 ELSE ?5 END, ?6
                           FROM identity
                           WHERE device_id = ?1 AND module_id = ?2 AND generation_id = ?3
                       ON CONFLICT (device_id, module_id) DO UPDATE SET
                           session_epoch = excluded.session_epoch,
                           subscriptions =
                               CASE WHEN ?7 THEN subscriptions ELSE excluded.subscriptions END,
                           model_id = excluded.model_id
                       WHERE session_epoch <= excluded.session_epoch
                       RETURNING subscriptions, model_id";
            let told = params![
                id.device_id(),
                id.module_id().unwrap_or_default(),
                generation_id,
                epoch.cast_signed(),
                session.subscriptions.bits(),
                session.model_id,
                keep_subscriptions,
            ];
            let stored = |row: &Row<'_>| {
                Ok(Session {
                    subscriptions: Subscriptions::from_bits(row.get("subscriptions")?),
                    model_id: row.get("model_id")?,
                })
            };
            return Ok(db.prepare_cached(sql)?.query_row(told, stored).optional()?);
        }
        ConnectionReport::EndBefore { epoch, at } => {
            let sql = "UPDATE device_state SET connected = 0, connection_updated = ?2
                       WHERE connected = 1 AND epoch < ?1";
            db.prepare_cached(sql)?.execute(params![epoch.cast_signed(), at])?;
        }
    }
    Ok(None)
}
