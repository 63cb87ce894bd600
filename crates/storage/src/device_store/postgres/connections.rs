//! Rows of `device_state`: what gateways tell, many reports in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use dunlin_model::{ConnectionState, Identity, Session as Kept, Subscriptions};
use tokio::try_join;
use tokio_postgres::Row;

use super::rows;
use crate::StoreError;
use crate::device_store::ConnectionReport;
use crate::postgres::batch::{Keys, Work};
use crate::postgres::session::{Fault, Params, Session};
use crate::postgres::text::{escape_some, unescape};
use crate::presence::Epoch;

/// By which lane a call goes: that of its first device, or a fixed one for all devices.
pub(super) fn device(reports: &[ConnectionReport]) -> Option<&str> {
    reports.first().map(|first| id(first).map_or("", Identity::device_id))
}

fn id(report: &ConnectionReport) -> Option<&Identity> {
    match report {
        ConnectionReport::State { id, .. } | ConnectionReport::Session { id, .. } => Some(id),
        ConnectionReport::EndBefore { .. } => None,
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
        let ended = all.iter().filter_map(|report| match report {
            ConnectionReport::EndBefore { epoch, .. } => Some(*epoch),
            _ => None,
        });
        let ended = ended.max();
        let mut held = hold(session, &all, ended).await?;
        let mut answers = Vec::with_capacity(all.len());
        for report in all {
            if let ConnectionReport::EndBefore { epoch, at } = report {
                write(session, &mut held, false).await?;
                end_before(session, *epoch, *at).await?;
                for state in held.values_mut() {
                    state.end_before(*epoch, *at);
                }
                answers.push(None);
            } else {
                answers.push(id(report).and_then(|id| held.get_mut(id)?.take_in(report)));
            }
        }
        if ended.is_none() && !held.values().any(|state| state.changed) {
            session.trip(session.rollback()).await?;
        } else {
            write(session, &mut held, true).await?;
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
            ConnectionReport::State { generation_id, epoch, state, .. }
                if *generation_id == self.generation_id =>
            {
                let before = (self.epoch, self.connection);
                let now = &mut self.connection;
                // Of two reports of one epoch, "it has ended" is the later one.
                let ends = *epoch == self.epoch && now.connected && !state.connected;
                if *epoch > self.epoch || ends {
                    (now.connected, now.updated) = (state.connected, state.updated);
                }
                self.epoch = self.epoch.max(*epoch);
                now.last_activity = now.last_activity.max(state.last_activity);
                self.changed |= before != (self.epoch, self.connection);
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

    /// As the statement of [`end_before`] has done it.
    fn end_before(&mut self, epoch: Epoch, at: i64) {
        if self.connection.connected && self.epoch < epoch {
            (self.connection.connected, self.connection.updated) = (false, at);
        }
    }
}

/// Begins, and locks the rows in the order of their keys, those that `EndBefore` concerns among
/// them: so no two batches wait for each other.
async fn hold(
    session: &Session,
    reports: &[&ConnectionReport],
    ended: Option<Epoch>,
) -> Result<BTreeMap<Identity, State>, Fault> {
    let all = "SELECT count(*) FROM (
                   SELECT 1 FROM device_state s
                   WHERE connected AND epoch < $3 OR EXISTS (
                       SELECT 1 FROM unnest($1::text[], $2::text[]) AS k (device_id, module_id)
                       WHERE k.device_id = s.device_id AND k.module_id = s.module_id)
                   ORDER BY device_id, module_id FOR UPDATE
               ) locked";
    let named = "SELECT s.device_id, s.module_id, s.generation_id, s.epoch, s.connected,
                     s.connection_updated, s.last_activity, s.session_epoch, s.subscriptions,
                     s.model_id
                 FROM unnest($1::text[], $2::text[]) AS k (device_id, module_id)
                     JOIN device_state s USING (device_id, module_id)
                 ORDER BY s.device_id, s.module_id FOR UPDATE OF s";
    let (all, named) = (session.prepare(all).await?, session.prepare(named).await?);
    let wanted: BTreeSet<_> = reports.iter().filter_map(|report| id(report)).collect();
    let Keys { devices, modules } = wanted.into_iter().collect();
    let lock_all = async {
        let Some(ended) = ended else { return Ok(()) };
        session.query(&all, &[&devices, &modules, &ended.cast_signed()]).await.map(drop)
    };
    let keys: Params<'_> = &[&devices, &modules];
    let trip = async { try_join!(biased; session.begin(), lock_all, session.query(&named, keys)) };
    let (_, _, found) = session.trip(trip).await?;
    let mut held = BTreeMap::new();
    for row in found {
        let id = rows::id(row.get("device_id"), row.get("module_id"))?;
        held.insert(id, State::from_row(&row));
    }
    Ok(held)
}

async fn end_before(session: &Session, epoch: Epoch, at: i64) -> Result<(), Fault> {
    let sql = "UPDATE device_state SET connected = false, connection_updated = $2
               WHERE connected AND epoch < $1";
    let end = session.prepare(sql).await?;
    session.trip(session.execute(&end, &[&epoch.cast_signed(), &at])).await.map(drop)
}

/// Writes what has changed so far, and commits if that was all.
async fn write(
    session: &Session,
    held: &mut BTreeMap<Identity, State>,
    last: bool,
) -> Result<(), Fault> {
    let sql = "UPDATE device_state s SET epoch = n.epoch, connected = n.connected,
                   connection_updated = n.connection_updated, last_activity = n.last_activity,
                   session_epoch = n.session_epoch, subscriptions = n.subscriptions,
                   model_id = n.model_id
               FROM unnest($1::text[], $2::text[], $3::bigint[], $4::boolean[], $5::bigint[],
                   $6::bigint[], $7::bigint[], $8::bigint[], $9::text[])
                   AS n (device_id, module_id, epoch, connected, connection_updated,
                       last_activity, session_epoch, subscriptions, model_id)
               WHERE s.device_id = n.device_id AND s.module_id = n.module_id";
    let update = session.prepare(sql).await?;
    let changed: Vec<_> = held.iter().filter(|(_, state)| state.changed).collect();
    let Keys { devices, modules } = changed.iter().map(|(id, _)| *id).collect();
    fn column<'a, T>(rows: &[(&Identity, &'a State)], of: impl Fn(&'a State) -> T) -> Vec<T> {
        rows.iter().map(|(_, state)| of(state)).collect()
    }
    let writes = async {
        if changed.is_empty() {
            return Ok(());
        }
        let params: Params<'_> = &[
            &devices,
            &modules,
            &column(&changed, |state| state.epoch.cast_signed()),
            &column(&changed, |state| state.connection.connected),
            &column(&changed, |state| state.connection.updated),
            &column(&changed, |state| state.connection.last_activity),
            &column(&changed, |state| state.session_epoch.cast_signed()),
            &column(&changed, |state| i64::from(state.session.subscriptions.bits())),
            &column(&changed, |state| escape_some(state.session.model_id.as_ref())),
        ];
        session.execute(&update, params).await.map(drop)
    };
    let commit = async { if last { session.commit().await } else { Ok(()) } };
    session.trip(async { try_join!(biased; writes, commit) }).await?;
    for state in held.values_mut() {
        state.changed = false;
    }
    Ok(())
}
