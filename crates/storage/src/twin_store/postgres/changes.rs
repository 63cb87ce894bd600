//! Changes of twins, many in one transaction: lock and read, apply in memory, write and commit.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_trait::async_trait;
use dunlin_model::twin::{Limits, Report, Update};
use dunlin_model::{Identity, Twin};
use tokio::try_join;

use super::rows;
use crate::StoreError;
use crate::device_store::StoredIdentity;
use crate::device_store::postgres::rows as identities;
use crate::postgres::batch::{Keys, Work};
use crate::postgres::session::{Fault, Params, Session};
use crate::postgres::unavailable;
use crate::twin_store::{StoredTwin, Updated};

pub(super) struct Change {
    id: Identity,
    what: What,
    now: i64,
    limits: Limits,
}

enum What {
    Update(Update),
    Report(Report),
}

pub(super) enum Changed {
    Updated(Box<Updated>),
    Reported(u64),
}

pub(super) fn mixed_up() -> StoreError {
    unavailable("an answer was of another kind than its call")
}

impl Change {
    pub(super) fn update(id: &Identity, update: Update, now: i64, limits: &Limits) -> Self {
        Self { id: id.clone(), what: What::Update(update), now, limits: limits.clone() }
    }

    pub(super) fn report(id: &Identity, report: Report, now: i64, limits: &Limits) -> Self {
        Self { id: id.clone(), what: What::Report(report), now, limits: limits.clone() }
    }

    fn is_update(&self) -> bool {
        matches!(self.what, What::Update(_))
    }
}

/// A row that is locked. Of one that is only reported to, nothing else is read.
struct Held {
    twin: Twin,
    updated: bool,
    reported: bool,
}

pub(super) struct Changes;

#[async_trait]
impl Work for Changes {
    type Call = Change;
    type Answer = Changed;
    const KIND: &'static str = "twin_change";

    async fn run(
        &self,
        session: &Session,
        calls: &[Change],
    ) -> Result<Vec<Result<Changed, StoreError>>, Fault> {
        let (mut held, identities) = hold(session, calls).await?;
        let answers: Result<Vec<_>, _> =
            calls.iter().map(|call| apply(call, &mut held, &identities)).collect();
        let answers = answers?;
        let (update, report) =
            (session.prepare(rows::UPDATE).await?, session.prepare(rows::REPORT).await?);
        let changed = |which: fn(&Held) -> bool| -> Vec<(&Identity, &Twin)> {
            let held = held.iter().filter(|(_, held)| which(held));
            held.map(|(id, held)| (id, &held.twin)).collect()
        };
        let (updated, reported) = (changed(|held| held.updated), changed(|held| held.reported));
        if updated.is_empty() && reported.is_empty() {
            session.trip(session.rollback()).await?;
            return Ok(answers);
        }
        let writes = async {
            try_join!(
                biased;
                rows::update(session, &update, &updated),
                rows::report(session, &report, &reported),
                session.commit(),
            )
        };
        session.trip(writes).await?;
        Ok(answers)
    }
}

/// Begins, and locks the rows in the order of their keys: so no two batches wait for each other,
/// in whatever process they are.
async fn hold(
    session: &Session,
    calls: &[Change],
) -> Result<(BTreeMap<Identity, Held>, HashMap<Identity, StoredIdentity>), Fault> {
    let sql = "SELECT t.device_id, t.module_id, t.etag AS twin_etag, t.version,
                   CASE WHEN k.whole THEN t.tags END AS tags,
                   CASE WHEN k.whole THEN t.desired END AS desired,
                   CASE WHEN k.whole THEN t.desired_metadata END AS desired_metadata,
                   t.desired_version, t.reported, t.reported_metadata, t.reported_version,
                   t.reported_epoch
               FROM unnest($1::text[], $2::text[], $3::boolean[]) AS k (device_id, module_id, whole)
                   JOIN twin t USING (device_id, module_id)
               ORDER BY t.device_id, t.module_id FOR UPDATE OF t";
    let with_identity = identities::select!(
        "",
        "unnest($1::text[], $2::text[]) AS k (device_id, module_id)
            JOIN identity i USING (device_id, module_id)",
        ""
    );
    let (lock, read) = (session.prepare(sql).await?, session.prepare(with_identity).await?);
    let mut wanted = BTreeMap::<_, bool>::new();
    for call in calls {
        *wanted.entry(&call.id).or_default() |= call.is_update();
    }
    let whole: Vec<bool> = wanted.values().copied().collect();
    let Keys { devices, modules } = wanted.keys().copied().collect();
    // What an update answers beside the twin.
    let beside: BTreeSet<_> =
        wanted.iter().filter(|(_, whole)| **whole).map(|(id, _)| *id).collect();
    let beside: Keys<'_> = beside.into_iter().collect();
    let keys: Params<'_> = &[&devices, &modules, &whole];
    let read = async {
        if beside.devices.is_empty() {
            return Ok(Vec::new());
        }
        session.query(&read, &[&beside.devices, &beside.modules]).await
    };
    let trip = async { try_join!(biased; session.begin(), session.query(&lock, keys), read) };
    let (_, twins, found) = session.trip(trip).await?;
    let mut held = BTreeMap::new();
    for row in twins {
        let id = identities::id(row.get("device_id"), row.get("module_id"))?;
        let twin = rows::from_row(&row)?;
        held.insert(id, Held { twin, updated: false, reported: false });
    }
    let mut identities = HashMap::new();
    for row in found {
        let mut identity = identities::from_row(&row)?;
        identity.credentials = Vec::new();
        identities.insert(identity.id.clone(), identity);
    }
    Ok((held, identities))
}

/// What was asked for may be refused, which concerns its caller only.
fn apply(
    call: &Change,
    held: &mut BTreeMap<Identity, Held>,
    identities: &HashMap<Identity, StoredIdentity>,
) -> Result<Result<Changed, StoreError>, Fault> {
    let Some(held) = held.get_mut(&call.id) else { return Ok(Err(StoreError::NotFound)) };
    let Change { now, limits, .. } = call;
    Ok(match &call.what {
        What::Report(report) => match held.twin.report(report, *now, limits) {
            Ok(changed) => {
                held.reported |= changed;
                Ok(Changed::Reported(held.twin.reported.version))
            }
            Err(refusal) => Err(StoreError::Refused(refusal)),
        },
        What::Update(update) => {
            let before = held.twin.version;
            match held.twin.update(update, *now, limits) {
                Ok(told) => {
                    held.updated |= held.twin.version != before;
                    // It goes with its twin: the twin is locked, so it is there.
                    let identity = identities.get(&call.id).cloned().ok_or(Fault::Raced)?;
                    let stored = StoredTwin { identity, twin: held.twin.clone() };
                    Ok(Changed::Updated(Box::new(Updated { stored, told })))
                }
                Err(refusal) => Err(StoreError::Refused(refusal)),
            }
        }
    })
}
