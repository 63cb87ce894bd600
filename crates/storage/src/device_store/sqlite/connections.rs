//! Rows of `device_state`.

use async_trait::async_trait;
use dunlin_model::{Session, Subscriptions};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::SqliteDeviceStore;
use crate::StoreError;
use crate::device_store::{ConnectionReport, ConnectionStore};

#[async_trait]
impl ConnectionStore for SqliteDeviceStore {
    async fn connections_record(
        &self,
        reports: Vec<ConnectionReport>,
    ) -> Result<Vec<Option<Session>>, StoreError> {
        let all = move |db: &Connection| reports.iter().map(|report| record(db, report)).collect();
        self.sqlite.write(all).await
    }

    async fn node_list(&self) -> Result<Vec<String>, StoreError> {
        let list = |db: &Connection| {
            // From one node to the next, by the index.
            let sql = "WITH RECURSIVE held (node) AS (
                           SELECT min(node) FROM device_state WHERE connected = 1
                           UNION ALL
                           SELECT (SELECT min(node) FROM device_state
                                   WHERE connected = 1 AND node > held.node)
                           FROM held WHERE held.node IS NOT NULL)
                       SELECT node FROM held WHERE node IS NOT NULL";
            let mut rows = db.prepare_cached(sql)?;
            let nodes = rows.query_map([], |row| row.get(0))?;
            Ok(nodes.collect::<Result<_, _>>()?)
        };
        self.sqlite.read(list).await
    }

    async fn node_end(&self, node: &str, at: i64, top: usize) -> Result<usize, StoreError> {
        let (node, top) = (node.to_owned(), i64::try_from(top).unwrap_or(i64::MAX));
        let end = move |db: &Connection| {
            let sql = "UPDATE device_state SET connected = 0, connection_updated = ?2
                       WHERE (device_id, module_id) IN (
                           SELECT device_id, module_id FROM device_state
                           WHERE connected = 1 AND node = ?1
                           ORDER BY device_id, module_id LIMIT ?3)";
            Ok(db.prepare_cached(sql)?.execute(params![node, at, top])?)
        };
        self.sqlite.write(end).await
    }
}

fn record(db: &Connection, report: &ConnectionReport) -> Result<Option<Session>, StoreError> {
    match report {
        ConnectionReport::State { id, generation_id, epoch, state, node } => {
            // A row keeps its node until that has told of the end: of one epoch, what is told after
            // it is older. What has ended for its node alone may come back.
            let sql = "INSERT INTO device_state
                           (device_id, module_id, epoch, connected, connection_updated,
                            last_activity, node)
                       SELECT device_id, module_id, ?4, ?5, ?6, ?7, CASE WHEN ?5 THEN ?8 END
                           FROM identity
                           WHERE device_id = ?1 AND module_id = ?2 AND generation_id = ?3
                       ON CONFLICT (device_id, module_id) DO UPDATE SET
                           connected = CASE
                               WHEN epoch < excluded.epoch
                                    OR epoch = excluded.epoch AND node IS NOT NULL
                               THEN excluded.connected ELSE connected END,
                           connection_updated = CASE
                               WHEN epoch < excluded.epoch
                                    OR epoch = excluded.epoch AND node IS NOT NULL
                                    AND connected <> excluded.connected
                               THEN excluded.connection_updated ELSE connection_updated END,
                           node = CASE
                               WHEN epoch < excluded.epoch
                                    OR epoch = excluded.epoch AND node IS NOT NULL
                               THEN excluded.node ELSE node END,
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
                node,
            ])?;
            Ok(None)
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
            Ok(db.prepare_cached(sql)?.query_row(told, stored).optional()?)
        }
    }
}
