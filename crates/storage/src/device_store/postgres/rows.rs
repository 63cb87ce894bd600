//! Rows of `identity`, with what `device_state` has of them.

use dunlin_model::{ConnectionState, Identity, KeyPair, Session as Kept, Status, Subscriptions};
use tokio_postgres::{Row, Statement};

use crate::StoreError;
use crate::device_store::StoredIdentity;
use crate::postgres::batch::Keys;
use crate::postgres::session::{Fault, Session};
use crate::postgres::text::{escape, escape_some, unescape};
use crate::postgres::unavailable;

/// Every column that [`from_row`] reads, and more; `i` is `identity`. The state of each is looked up
/// (`OFFSET 0` holds the planner to it): what is asked for is few rows of many.
macro_rules! select {
    ($more:literal, $from:literal, $rest:literal) => {
        concat!(
            "SELECT i.device_id, i.module_id, i.generation_id, i.etag, i.status, i.status_reason,
                i.status_updated, i.auth_type, i.credentials, i.thumbprints, i.auth_version,
                i.iot_edge, i.device_scope, i.parent_scopes, i.managed_by,
                s.connected, s.connection_updated, s.last_activity, s.subscriptions, s.model_id",
            $more,
            " FROM ",
            $from,
            " CROSS JOIN LATERAL (
                 SELECT connected, connection_updated, last_activity, subscriptions, model_id
                 FROM device_state WHERE device_id = i.device_id AND module_id = i.module_id
                 OFFSET 0) s ",
            $rest
        )
    };
}
pub(crate) use select;

pub(crate) fn id(device: &str, module: &str) -> Result<Identity, StoreError> {
    match module {
        "" => Identity::device(device),
        module => Identity::module(device, module),
    }
    .map_err(unavailable)
}

pub(crate) fn from_row(row: &Row) -> Result<StoredIdentity, StoreError> {
    let text = |column: &str| unescape(row.get(column));
    let some = |column: &str| row.get::<_, Option<String>>(column).map(unescape);
    let status = Status::parse(row.get("status"))
        .ok_or_else(|| unavailable("a row has an unknown status"))?;
    let subscriptions: i64 = row.get("subscriptions");
    Ok(StoredIdentity {
        id: id(row.get("device_id"), row.get("module_id"))?,
        generation_id: text("generation_id"),
        etag: text("etag"),
        status,
        status_reason: some("status_reason"),
        status_updated: row.get("status_updated"),
        auth_type: text("auth_type"),
        credentials: row.get("credentials"),
        auth_version: row.get::<_, i64>("auth_version").cast_unsigned(),
        thumbprints: some("thumbprints").map(|two| {
            let (primary, secondary) = two.split_once('\n').unwrap_or((&two, ""));
            KeyPair { primary: primary.to_owned(), secondary: secondary.to_owned() }
        }),
        iot_edge: row.get("iot_edge"),
        device_scope: some("device_scope"),
        parent_scopes: text("parent_scopes").lines().map(str::to_owned).collect(),
        managed_by: some("managed_by"),
        connection: ConnectionState {
            connected: row.get("connected"),
            updated: row.get("connection_updated"),
            last_activity: row.get("last_activity"),
        },
        session: Kept {
            subscriptions: Subscriptions::from_bits(
                u32::try_from(subscriptions).unwrap_or_default(),
            ),
            model_id: some("model_id"),
        },
    })
}

macro_rules! columns {
    () => {
        "unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
             $7::bigint[], $8::text[], $9::bytea[], $10::text[], $11::bigint[], $12::boolean[],
             $13::text[], $14::text[], $15::text[])
         AS n (device_id, module_id, generation_id, etag, status, status_reason, status_updated,
             auth_type, credentials, thumbprints, auth_version, iot_edge, device_scope,
             parent_scopes, managed_by)"
    };
}

pub(super) const INSERT: &str = concat!(
    "INSERT INTO identity (device_id, module_id, generation_id, etag, status, status_reason,
         status_updated, auth_type, credentials, thumbprints, auth_version, iot_edge,
         device_scope, parent_scopes, managed_by) SELECT * FROM ",
    columns!()
);

pub(super) const UPDATE: &str = concat!(
    "UPDATE identity i SET generation_id = n.generation_id, etag = n.etag, status = n.status,
         status_reason = n.status_reason, status_updated = n.status_updated,
         auth_type = n.auth_type, credentials = n.credentials, thumbprints = n.thumbprints,
         auth_version = n.auth_version, iot_edge = n.iot_edge, device_scope = n.device_scope,
         parent_scopes = n.parent_scopes, managed_by = n.managed_by FROM ",
    columns!(),
    " WHERE i.device_id = n.device_id AND i.module_id = n.module_id"
);

/// Writes these identities by `INSERT` or `UPDATE`.
pub(super) async fn write(
    session: &Session,
    statement: &Statement,
    new: &[&StoredIdentity],
) -> Result<(), Fault> {
    if new.is_empty() {
        return Ok(());
    }
    fn column<'a, T>(new: &[&'a StoredIdentity], of: impl Fn(&'a StoredIdentity) -> T) -> Vec<T> {
        new.iter().map(|one| of(one)).collect()
    }
    let Keys { devices, modules } = new.iter().map(|one| &one.id).collect();
    let joined = |two: &KeyPair| [&*two.primary, &two.secondary].join("\n");
    let thumbprints = column(new, |one| one.thumbprints.as_ref().map(joined));
    let parents = column(new, |one| one.parent_scopes.join("\n"));
    session
        .execute(
            statement,
            &[
                &devices,
                &modules,
                &column(new, |one| escape(&one.generation_id)),
                &column(new, |one| escape(&one.etag)),
                &column(new, |one| one.status.as_str()),
                &column(new, |one| escape_some(one.status_reason.as_ref())),
                &column(new, |one| one.status_updated),
                &column(new, |one| escape(&one.auth_type)),
                &column(new, |one| &*one.credentials),
                &thumbprints.iter().map(|two| escape_some(two.as_ref())).collect::<Vec<_>>(),
                &column(new, |one| one.auth_version.cast_signed()),
                &column(new, |one| one.iot_edge),
                &column(new, |one| escape_some(one.device_scope.as_ref())),
                &parents.iter().map(|all| escape(all)).collect::<Vec<_>>(),
                &column(new, |one| escape_some(one.managed_by.as_ref())),
            ],
        )
        .await
        .map(drop)
}
