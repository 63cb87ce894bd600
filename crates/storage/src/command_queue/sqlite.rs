//! `CommandQueue` on the embedded database, beside the identities its queues belong to.

use async_trait::async_trait;
use dunlin_model::Command;
use dunlin_model::command::{Disposition, LockToken};
use rusqlite::{Connection, OptionalExtension, params};

use super::{CommandQueue, FeedbackBatch, FeedbackRules, Lease, Rules, Settlement, Swept};
use crate::StoreError;
use crate::presence::Epoch;
use crate::sqlite::Sqlite;

mod feedback;
mod messages;

pub struct SqliteCommandQueue {
    sqlite: Sqlite,
}

impl SqliteCommandQueue {
    pub fn new(sqlite: Sqlite) -> Self {
        Self { sqlite }
    }

    /// What has nothing to do should not wait for the writer: most devices have nothing queued.
    async fn any(&self, sql: &'static str, device: &str, number: i64) -> Result<bool, StoreError> {
        let device = device.to_owned();
        self.sqlite.read(move |db| exists(db, sql, params![device, number])).await
    }
}

#[async_trait]
impl CommandQueue for SqliteCommandQueue {
    async fn command_send(
        &self,
        device: &str,
        command: Command,
        now: i64,
        rules: &Rules,
    ) -> Result<u64, StoreError> {
        let (device, rules) = (device.to_owned(), rules.clone());
        let send = move |db: &Connection| {
            device_exists(db, &device)?;
            messages::look(db, &device, now, &rules)?;
            if count(db, &device, now, &rules)? >= rules.depth {
                return Err(StoreError::LimitReached);
            }
            messages::put(db, &device, &command, now)
        };
        self.sqlite.write(send).await
    }

    async fn command_lease(
        &self,
        device: &str,
        epoch: Epoch,
        tokens: Vec<LockToken>,
        bytes: usize,
        now: i64,
        rules: &Rules,
    ) -> Result<Lease, StoreError> {
        let queued = "SELECT 1 FROM command WHERE device_id = ?1 AND ?2 = 0 LIMIT 1";
        if !self.any(queued, device, 0).await? {
            return Ok(Lease::default());
        }
        let (device, rules) = (device.to_owned(), rules.clone());
        let lease = move |db: &Connection| {
            if epoch != 0 && epoch < newest_epoch(db, &device)? {
                return Err(StoreError::PreconditionFailed);
            }
            let returned = messages::look(db, &device, now, &rules)?;
            if epoch != 0 {
                messages::take_back(db, &device, 1..epoch, true, now, &rules)?;
            }
            let messages = messages::lock(db, &device, epoch, tokens, bytes, now + rules.lock)?;
            if epoch != 0 && !messages.is_empty() {
                let sql = "UPDATE command_queue SET epoch = ?2 WHERE device_id = ?1";
                db.prepare_cached(sql)?.execute(params![device, epoch.cast_signed()])?;
            }
            Ok(Lease { messages, returned })
        };
        self.sqlite.write(lease).await
    }

    async fn command_settle(
        &self,
        device: &str,
        epoch: Epoch,
        tokens: &[LockToken],
        disposition: Disposition,
        now: i64,
        rules: &Rules,
    ) -> Result<Settlement, StoreError> {
        let (device, tokens, rules) = (device.to_owned(), tokens.to_owned(), rules.clone());
        let settle = move |db: &Connection| {
            let returned = messages::look(db, &device, now, &rules)?;
            let mut settlement = Settlement { held: Vec::new(), returned };
            for token in &tokens {
                let settled =
                    messages::settle(db, &device, epoch, token, disposition, now, &rules)?;
                settlement.held.push(settled.is_some());
                settlement.returned |= settled == Some(true);
            }
            Ok(settlement)
        };
        self.sqlite.write(settle).await
    }

    async fn command_release(
        &self,
        device: &str,
        epoch: Epoch,
        in_vain: bool,
        now: i64,
        rules: &Rules,
    ) -> Result<(), StoreError> {
        let held = "SELECT 1 FROM command WHERE device_id = ?1 AND lock_epoch = ?2 LIMIT 1";
        if epoch == 0 || !self.any(held, device, epoch.cast_signed()).await? {
            return Ok(());
        }
        let (device, rules) = (device.to_owned(), rules.clone());
        let release = move |db: &Connection| {
            messages::look(db, &device, now, &rules)?;
            messages::take_back(db, &device, epoch..epoch + 1, in_vain, now, &rules)
        };
        self.sqlite.write(release).await
    }

    async fn command_purge(
        &self,
        device: &str,
        now: i64,
        rules: &Rules,
    ) -> Result<u32, StoreError> {
        let (device, rules) = (device.to_owned(), rules.clone());
        let purge = move |db: &Connection| {
            device_exists(db, &device)?;
            messages::look(db, &device, now, &rules)?;
            messages::purge(db, &device, now)
        };
        self.sqlite.write(purge).await
    }

    async fn command_count(
        &self,
        device: &str,
        now: i64,
        rules: &Rules,
    ) -> Result<u32, StoreError> {
        let (device, rules) = (device.to_owned(), rules.clone());
        let counted = move |db: &Connection| {
            device_exists(db, &device)?;
            count(db, &device, now, &rules)
        };
        self.sqlite.read(counted).await
    }

    async fn command_sweep(
        &self,
        most: usize,
        now: i64,
        rules: &Rules,
    ) -> Result<Swept, StoreError> {
        let due = "SELECT 1 FROM command WHERE ?1 = '' AND due <= ?2 LIMIT 1";
        let old = "SELECT 1 FROM feedback WHERE ?1 = '' AND enqueued <= ?2 LIMIT 1";
        let oldest = now - rules.feedback.ttl;
        if !self.any(due, "", now).await? && !self.any(old, "", oldest).await? {
            return Ok(Swept::default());
        }
        let rules = rules.clone();
        let sweep = move |db: &Connection| {
            let sql = "SELECT DISTINCT device_id FROM command WHERE due <= ?1 LIMIT ?2";
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            let mut devices = db.prepare_cached(sql)?;
            let devices = devices.query_map(params![now, most], |row| row.get(0))?;
            let devices: Vec<String> = devices.collect::<Result<_, _>>()?;
            let mut swept = Swept { looked: devices.len(), returned: Vec::new() };
            for device in devices {
                if messages::look(db, &device, now, &rules)? {
                    swept.returned.push(device);
                }
            }
            feedback::forget_old(db, now, &rules.feedback)?;
            Ok(swept)
        };
        self.sqlite.write(sweep).await
    }

    async fn feedback_lease(
        &self,
        token: LockToken,
        now: i64,
        rules: &FeedbackRules,
    ) -> Result<Option<FeedbackBatch>, StoreError> {
        if !self.any("SELECT 1 FROM feedback WHERE ?1 = '' AND ?2 = 0 LIMIT 1", "", 0).await? {
            return Ok(None);
        }
        let rules = rules.clone();
        self.sqlite.write(move |db| feedback::lease(db, token, now, &rules)).await
    }

    async fn feedback_settle(
        &self,
        token: LockToken,
        disposition: Disposition,
        now: i64,
        rules: &FeedbackRules,
    ) -> Result<bool, StoreError> {
        let rules = rules.clone();
        self.sqlite.write(move |db| feedback::settle(db, token, disposition, now, &rules)).await
    }
}

/// What goes with a device.
pub(crate) fn forget(db: &Connection, device: &str) -> Result<(), StoreError> {
    for sql in [
        "DELETE FROM command WHERE device_id = ?1",
        "DELETE FROM command_queue WHERE device_id = ?1",
        "DELETE FROM feedback WHERE device_id = ?1",
    ] {
        db.prepare_cached(sql)?.execute([device])?;
    }
    Ok(())
}

fn device_exists(db: &Connection, device: &str) -> Result<(), StoreError> {
    let sql = "SELECT 1 FROM identity WHERE device_id = ?1 AND module_id = ''";
    exists(db, sql, [device])?.then_some(()).ok_or(StoreError::NotFound)
}

/// Without having looked: what time has ended counts as ended.
fn count(db: &Connection, device: &str, now: i64, rules: &Rules) -> Result<u32, StoreError> {
    let sql = "SELECT count(*) FROM command WHERE device_id = ?1 AND (due > ?2 OR
                   (lock_token IS NOT NULL AND expires > ?2 AND delivery_count + 1 < ?3))";
    let key = params![device, now, rules.max_delivery_count];
    Ok(db.prepare_cached(sql)?.query_row(key, |row| row.get(0))?)
}

fn newest_epoch(db: &Connection, device: &str) -> Result<Epoch, StoreError> {
    let sql = "SELECT epoch FROM command_queue WHERE device_id = ?1";
    let epoch = db.prepare_cached(sql)?.query_row([device], |row| row.get::<_, i64>(0));
    Ok(epoch.optional()?.unwrap_or_default().cast_unsigned())
}

fn exists(db: &Connection, sql: &str, key: impl rusqlite::Params) -> Result<bool, StoreError> {
    Ok(db.prepare_cached(sql)?.exists(key)?)
}

fn damaged(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::unavailable("sqlite", what)
}
