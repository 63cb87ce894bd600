//! Rows of `twin`.

use dunlin_model::json::{self, Object};
use dunlin_model::twin::Section;
use dunlin_model::{Identity, Twin};
use tokio_postgres::{Row, Statement};

use crate::StoreError;
use crate::postgres::batch::Keys;
use crate::postgres::session::{Fault, Params, Session};
use crate::postgres::unavailable;

/// The columns that a row must have, the twin's ETag under the name `twin_etag`.
pub(super) fn from_row(row: &Row) -> Result<Twin, StoreError> {
    let section = |properties, metadata, version| -> Result<Section, StoreError> {
        Ok(Section {
            properties: object(row, properties)?,
            metadata: object(row, metadata)?,
            version: counter(row, version),
        })
    };
    Ok(Twin {
        etag: counter(row, "twin_etag"),
        version: counter(row, "version"),
        tags: object(row, "tags")?,
        desired: section("desired", "desired_metadata", "desired_version")?,
        reported: section("reported", "reported_metadata", "reported_version")?,
        reported_epoch: counter(row, "reported_epoch"),
    })
}

fn counter(row: &Row, column: &str) -> u64 {
    row.get::<_, i64>(column).cast_unsigned()
}

/// NULL: it was not asked for.
fn object(row: &Row, column: &str) -> Result<Object, StoreError> {
    match row.get::<_, Option<&str>>(column) {
        Some(text) => json::stored(text).map_err(unavailable),
        None => Ok(Object::new()),
    }
}

fn texts(twins: Twins<'_>, of: impl Fn(&Twin) -> &Object) -> Result<Vec<String>, StoreError> {
    let text = |twin| serde_json::to_string(of(twin)).map_err(unavailable);
    twins.iter().map(|(_, twin)| text(*twin)).collect()
}

fn counters(twins: Twins<'_>, of: impl Fn(&Twin) -> u64) -> Vec<i64> {
    twins.iter().map(|(_, twin)| of(twin).cast_signed()).collect()
}

type Twins<'a> = &'a [(&'a Identity, &'a Twin)];

pub(crate) const INSERT: &str = "INSERT INTO twin (device_id, module_id, etag, version, tags,
         desired, desired_metadata, desired_version,
         reported, reported_metadata, reported_version, reported_epoch)
     SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[],
         $6::text[], $7::text[], $8::bigint[], $9::text[], $10::text[], $11::bigint[],
         $12::bigint[])";

pub(crate) async fn insert(
    session: &Session,
    statement: &Statement,
    twins: Twins<'_>,
) -> Result<(), Fault> {
    if twins.is_empty() {
        return Ok(());
    }
    let Keys { devices, modules } = twins.iter().map(|(id, _)| *id).collect();
    let params: Params<'_> = &[
        &devices,
        &modules,
        &counters(twins, |twin| twin.etag),
        &counters(twins, |twin| twin.version),
        &texts(twins, |twin| &twin.tags)?,
        &texts(twins, |twin| &twin.desired.properties)?,
        &texts(twins, |twin| &twin.desired.metadata)?,
        &counters(twins, |twin| twin.desired.version),
        &texts(twins, |twin| &twin.reported.properties)?,
        &texts(twins, |twin| &twin.reported.metadata)?,
        &counters(twins, |twin| twin.reported.version),
        &counters(twins, |twin| twin.reported_epoch),
    ];
    session.execute(statement, params).await.map(drop)
}

pub(super) const UPDATE: &str = "UPDATE twin SET etag = n.etag, version = n.version, tags = n.tags,
         desired = n.desired, desired_metadata = n.desired_metadata,
         desired_version = n.desired_version
     FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[],
         $7::text[], $8::bigint[]) AS n (device_id, module_id, etag, version, tags, desired,
         desired_metadata, desired_version)
     WHERE twin.device_id = n.device_id AND twin.module_id = n.module_id";

/// What a back end's updates have changed. What they leave alone is neither sent nor written.
pub(super) async fn update(
    session: &Session,
    statement: &Statement,
    twins: Twins<'_>,
) -> Result<(), Fault> {
    if twins.is_empty() {
        return Ok(());
    }
    let Keys { devices, modules } = twins.iter().map(|(id, _)| *id).collect();
    let params: Params<'_> = &[
        &devices,
        &modules,
        &counters(twins, |twin| twin.etag),
        &counters(twins, |twin| twin.version),
        &texts(twins, |twin| &twin.tags)?,
        &texts(twins, |twin| &twin.desired.properties)?,
        &texts(twins, |twin| &twin.desired.metadata)?,
        &counters(twins, |twin| twin.desired.version),
    ];
    session.execute(statement, params).await.map(drop)
}

pub(super) const REPORT: &str = "UPDATE twin SET version = n.version, reported = n.reported,
         reported_metadata = n.reported_metadata, reported_version = n.reported_version,
         reported_epoch = n.reported_epoch
     FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[],
         $7::bigint[]) AS n (device_id, module_id, version, reported, reported_metadata,
         reported_version, reported_epoch)
     WHERE twin.device_id = n.device_id AND twin.module_id = n.module_id";

/// What devices' reports have changed.
pub(super) async fn report(
    session: &Session,
    statement: &Statement,
    twins: Twins<'_>,
) -> Result<(), Fault> {
    if twins.is_empty() {
        return Ok(());
    }
    let Keys { devices, modules } = twins.iter().map(|(id, _)| *id).collect();
    let params: Params<'_> = &[
        &devices,
        &modules,
        &counters(twins, |twin| twin.version),
        &texts(twins, |twin| &twin.reported.properties)?,
        &texts(twins, |twin| &twin.reported.metadata)?,
        &counters(twins, |twin| twin.reported.version),
        &counters(twins, |twin| twin.reported_epoch),
    ];
    session.execute(statement, params).await.map(drop)
}
