//! Rows of `device_state`: what gateways tell, many reports in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use dunlin_model::{ConnectionState, Identity, Session as Kept, Subscriptions};
use tokio::try_join;
use tokio_postgres::Row;

use super::{PostgresDeviceStore, rows};
use crate::StoreError;
use crate::device_store::{ConnectionReport, ConnectionStore};
use crate::postgres::batch::{Keys, Work};
use crate::postgres::session::{Fault, Params, Session};
use crate::postgres::text::{escape, escape_some, unescape};
use crate::presence::Epoch;

fn id(report: &ConnectionReport) -> &Identity {
    match report {
        ConnectionReport::State { id, .. } | ConnectionReport::Session { id, .. } => id,
    }
}

#[async_trait]
impl ConnectionStore for PostgresDeviceStore {
    async fn connections_record(
        &self,
        reports: Vec<ConnectionReport>,
    ) -> Result<Vec<Option<Kept>>, StoreError> {
        if reports.is_empty() {
            return Ok(Vec::new());
        }
        self.connections.call(reports).await
    }

    async fn node_list(&self) -> Result<Vec<String>, StoreError> {
        // From one node to the next, by the index.
        let sql = "WITH RECURSIVE held (node) AS (
                       SELECT min(node) FROM device_state WHERE connected
                       UNION ALL
                       SELECT (SELECT min(node) FROM device_state
                               WHERE connected AND node > held.node)
                       FROM held WHERE held.node IS NOT NULL)
                   SELECT node FROM held WHERE node IS NOT NULL";
        self.postgres
            .run("node_list", &sql, |session, sql| {
                Box::pin(async move {
                    let rows = session.read(sql, &[]).await?;
                    Ok(rows.iter().map(|row| unescape(row.get(0))).collect())
                })
            })
            .await
    }

    async fn node_end(&self, node: &str, at: i64, top: usize) -> Result<usize, StoreError> {
        // The rows are locked in the order of their keys, as everywhere.
        let sql = "WITH dead AS (
                       SELECT device_id, module_id FROM device_state
                       WHERE connected AND node = $1
                       ORDER BY device_id, module_id LIMIT $3 FOR UPDATE),
                   ended AS (
                       UPDATE device_state s SET connected = false, connection_updated = $2
                       FROM dead
                       WHERE s.device_id = dead.device_id AND s.module_id = dead.module_id
                       RETURNING 1)
                   SELECT count(*) FROM ended";
        let given = (escape(node), at, i64::try_from(top).unwrap_or(i64::MAX));
        self.postgres
            .run("node_end", &given, |session, (node, at, top)| {
                Box::pin(async move {
                    let rows = session.write(sql, &[node, at, top]).await?;
                    let ended: i64 = rows.first().ok_or(Fault::Raced)?.get(0);
                    Ok(usize::try_from(ended).unwrap_or_default())
                })
            })
            .await
    }
}

pub(super) struct Connections;

#[async_trait]
impl Work for Connections {
    type Call = Vec<ConnectionReport>;
    type Answer = Vec<Option<Kept>>;
    const KIND: &'static str = "connections_record";

    async fn run(
        &self,
        session: &Session,
        calls: &[Vec<ConnectionReport>],
    ) -> Result<Vec<Result<Vec<Option<Kept>>, StoreError>>, Fault> {
        let all: Vec<_> = calls.iter().flatten().collect();
        let mut held = hold(session, &all).await?;
        let answers: Vec<_> =
            all.iter().map(|report| held.get_mut(id(report))?.take_in(report)).collect();
        if held.values().any(|state| state.changed) {
            write(session, &held).await?;
        } else {
            session.trip(session.rollback()).await?;
        }
        let mut answers = answers.into_iter();
        let of = |call: &Vec<_>| Ok(answers.by_ref().take(call.len()).collect());
        Ok(calls.iter().map(of).collect())
    }
}

/// A row that is locked.
struct State {
    generation_id: String,
    epoch: Epoch,
    connection: ConnectionState,
    /// Kept until the node has told of the end: of one epoch, what is told after it is older.
    node: Option<String>,
    session_epoch: Epoch,
    session: Kept,
    changed: bool,
}

impl State {
    fn from_row(row: &Row) -> Self {
        let subscriptions: i64 = row.get("subscriptions");
        let subscriptions = u32::try_from(subscriptions).unwrap_or_default();
        Self {
            generation_id: unescape(row.get("generation_id")),
            epoch: row.get::<_, i64>("epoch").cast_unsigned(),
            connection: ConnectionState {
                connected: row.get("connected"),
                updated: row.get("connection_updated"),
                last_activity: row.get("last_activity"),
            },
            node: row.get::<_, Option<String>>("node").map(unescape),
            session_epoch: row.get::<_, i64>("session_epoch").cast_unsigned(),
            session: Kept {
                subscriptions: Subscriptions::from_bits(subscriptions),
                model_id: row.get::<_, Option<String>>("model_id").map(unescape),
            },
            changed: false,
        }
    }

    /// What the trait says of one report of this identity.
    fn take_in(&mut self, report: &ConnectionReport) -> Option<Kept> {
        match report {
            ConnectionReport::State { generation_id, epoch, state, node, .. }
                if *generation_id == self.generation_id =>
            {
                let before = (self.epoch, self.connection, self.node.clone());
                let now = &mut self.connection;
                // What has ended for its node alone may come back.
                let open = *epoch == self.epoch && self.node.is_some();
                if *epoch > self.epoch || open && now.connected != state.connected {
                    (now.connected, now.updated) = (state.connected, state.updated);
                }
                if *epoch > self.epoch || open {
                    self.node = state.connected.then(|| node.clone());
                }
                self.epoch = self.epoch.max(*epoch);
                now.last_activity = now.last_activity.max(state.last_activity);
                self.changed |= before != (self.epoch, self.connection, self.node.clone());
                None
            }
            ConnectionReport::Session {
                generation_id, epoch, session, keep_subscriptions, ..
            } if *generation_id == self.generation_id && self.session_epoch <= *epoch => {
                self.session_epoch = *epoch;
                if !keep_subscriptions {
                    self.session.subscriptions = session.subscriptions;
                }
                self.session.model_id.clone_from(&session.model_id);
                self.changed = true;
                Some(self.session.clone())
            }
            _ => None,
        }
    }
}

/// Begins, and locks the rows in the order of their keys, so that no two batches wait for each other.
async fn hold(
    session: &Session,
    reports: &[&ConnectionReport],
) -> Result<BTreeMap<Identity, State>, Fault> {
    let sql = "SELECT s.device_id, s.module_id, s.generation_id, s.epoch, s.connected,
                   s.connection_updated, s.last_activity, s.node, s.session_epoch,
                   s.subscriptions, s.model_id
               FROM unnest($1::text[], $2::text[]) AS k (device_id, module_id)
                   JOIN device_state s USING (device_id, module_id)
               ORDER BY s.device_id, s.module_id FOR UPDATE OF s";
    let lock = session.prepare(sql).await?;
    let wanted: BTreeSet<_> = reports.iter().map(|report| id(report)).collect();
    let Keys { devices, modules } = wanted.into_iter().collect();
    let keys: Params<'_> = &[&devices, &modules];
    let trip = async { try_join!(biased; session.begin(), session.query(&lock, keys)) };
    let (_, found) = session.trip(trip).await?;
    let mut held = BTreeMap::new();
    for row in found {
        let id = rows::id(row.get("device_id"), row.get("module_id"))?;
        held.insert(id, State::from_row(&row));
    }
    Ok(held)
}

/// Writes what has changed, and commits.
async fn write(session: &Session, held: &BTreeMap<Identity, State>) -> Result<(), Fault> {
    let sql = "UPDATE device_state s SET epoch = n.epoch, connected = n.connected,
                   connection_updated = n.connection_updated, last_activity = n.last_activity,
                   node = n.node, session_epoch = n.session_epoch,
                   subscriptions = n.subscriptions, model_id = n.model_id
               FROM unnest($1::text[], $2::text[], $3::bigint[], $4::boolean[], $5::bigint[],
                   $6::bigint[], $7::text[], $8::bigint[], $9::bigint[], $10::text[])
                   AS n (device_id, module_id, epoch, connected, connection_updated,
                       last_activity, node, session_epoch, subscriptions, model_id)
               WHERE s.device_id = n.device_id AND s.module_id = n.module_id";
    let update = session.prepare(sql).await?;
    let changed: Vec<_> = held.iter().filter(|(_, state)| state.changed).collect();
    let Keys { devices, modules } = changed.iter().map(|(id, _)| *id).collect();
    fn column<'a, T>(rows: &[(&Identity, &'a State)], of: impl Fn(&'a State) -> T) -> Vec<T> {
        rows.iter().map(|(_, state)| of(state)).collect()
    }
    let params: Params<'_> = &[
        &devices,
        &modules,
        &column(&changed, |state| state.epoch.cast_signed()),
        &column(&changed, |state| state.connection.connected),
        &column(&changed, |state| state.connection.updated),
        &column(&changed, |state| state.connection.last_activity),
        &column(&changed, |state| escape_some(state.node.as_ref())),
        &column(&changed, |state| state.session_epoch.cast_signed()),
        &column(&changed, |state| i64::from(state.session.subscriptions.bits())),
        &column(&changed, |state| escape_some(state.session.model_id.as_ref())),
    ];
    let writes = async { try_join!(biased; session.execute(&update, params), session.commit()) };
    session.trip(writes).await.map(drop)
}
