//! How far consumer groups have come.

use dunlin_model::limits::{CONSUMER_GROUPS, DEFAULT_GROUP};
use rusqlite::params;

use crate::StoreError;
use crate::sqlite::Sqlite;

pub(super) async fn commit(
    sqlite: &Sqlite,
    topic: &'static str,
    group: &str,
    next: &[(u32, u64)],
) -> Result<(), StoreError> {
    let (group, next) = (group.to_owned(), next.to_vec());
    let commit = move |db: &rusqlite::Connection| {
        let held = "SELECT count(DISTINCT consumer_group), max(consumer_group = ?2)
                    FROM group_position WHERE topic = ?1 AND consumer_group <> ?3";
        let (held, among): (u32, Option<bool>) =
            db.prepare_cached(held)?.query_row(params![topic, group, DEFAULT_GROUP], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let new = group != DEFAULT_GROUP && among != Some(true);
        if new && held as usize + 1 >= CONSUMER_GROUPS {
            return Err(StoreError::LimitReached);
        }
        let sql = "INSERT OR REPLACE INTO group_position (topic, consumer_group, partition, next)
                   VALUES (?1, ?2, ?3, ?4)";
        let mut put = db.prepare_cached(sql)?;
        for (partition, next) in next {
            put.execute(params![topic, group, partition, next.cast_signed()])?;
        }
        Ok(())
    };
    sqlite.write(commit).await
}

pub(super) async fn positions(
    sqlite: &Sqlite,
    topic: &'static str,
    group: &str,
) -> Result<Vec<(u32, u64)>, StoreError> {
    let group = group.to_owned();
    let positions = move |db: &rusqlite::Connection| {
        let sql = "SELECT partition, next FROM group_position
                   WHERE topic = ?1 AND consumer_group = ?2 ORDER BY partition";
        let mut rows = db.prepare_cached(sql)?;
        let rows = rows.query_map(params![topic, group], |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    };
    sqlite.read(positions).await
}
