//! `CommandQueue` on Postgres, beside the identities its queues belong to.

use async_trait::async_trait;
use dunlin_model::Command;
use dunlin_model::command::{Disposition, LockToken};

use super::{CommandQueue, FeedbackBatch, FeedbackRules, Lease, Rules, Settlement, Swept};
use crate::StoreError;
use crate::postgres::Postgres;
use crate::postgres::batch::Batcher;
use crate::postgres::text::escape;
use crate::presence::Epoch;

mod changes;
mod feedback;
mod queue;
mod rows;

use changes::{Change, Changed, Changes, What, mixed_up};

pub struct PostgresCommandQueue {
    postgres: Postgres,
    changes: Batcher<Changes>,
}

impl PostgresCommandQueue {
    /// Within the runtime that is to do its work.
    pub fn new(postgres: &Postgres) -> Self {
        Self { postgres: postgres.clone(), changes: Batcher::new(postgres, Changes::default()) }
    }

    async fn change(
        &self,
        device: &str,
        what: What,
        now: i64,
        rules: &Rules,
    ) -> Result<Changed, StoreError> {
        let device = escape(device).into_owned();
        self.changes.call(Change { device, what, now, rules: rules.clone() }).await
    }
}

#[async_trait]
impl CommandQueue for PostgresCommandQueue {
    async fn command_send(
        &self,
        device: &str,
        command: Command,
        now: i64,
        rules: &Rules,
    ) -> Result<u64, StoreError> {
        match self.change(device, What::Send(command), now, rules).await? {
            Changed::Sent(sequence) => Ok(sequence),
            _ => Err(mixed_up()),
        }
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
        match self.change(device, What::Lease { epoch, tokens, bytes }, now, rules).await? {
            Changed::Leased(lease) => Ok(lease),
            _ => Err(mixed_up()),
        }
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
        let what = What::Settle { epoch, tokens: tokens.to_owned(), disposition };
        match self.change(device, what, now, rules).await? {
            Changed::Settled(settlement) => Ok(settlement),
            _ => Err(mixed_up()),
        }
    }

    async fn command_release(
        &self,
        device: &str,
        epoch: Epoch,
        in_vain: bool,
        now: i64,
        rules: &Rules,
    ) -> Result<(), StoreError> {
        if epoch == 0 {
            return Ok(());
        }
        self.change(device, What::Release { epoch, in_vain }, now, rules).await.map(drop)
    }

    async fn command_purge(
        &self,
        device: &str,
        now: i64,
        rules: &Rules,
    ) -> Result<u32, StoreError> {
        match self.change(device, What::Purge, now, rules).await? {
            Changed::Purged(messages) => Ok(messages),
            _ => Err(mixed_up()),
        }
    }

    async fn command_count(
        &self,
        device: &str,
        now: i64,
        rules: &Rules,
    ) -> Result<u32, StoreError> {
        // Without having looked: what time has ended counts as ended.
        let sql = "SELECT (SELECT count(*) FROM command c WHERE c.device_id = q.device_id AND
                       (due > $2 OR lock_token IS NOT NULL AND expires > $2
                           AND delivery_count + 1 < $3))
                   FROM command_queue q WHERE q.device_id = $1";
        let given = (sql, escape(device), now, i64::from(rules.max_delivery_count));
        let count = self.postgres.run("command_count", &given, |session, given| {
            Box::pin(async move {
                let (sql, device, now, most) = given;
                let rows = session.read(sql, &[device, now, most]).await?;
                Ok(rows.first().map(|row| row.get::<_, i64>(0)))
            })
        });
        let count = count.await?.ok_or(StoreError::NotFound)?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    async fn command_sweep(
        &self,
        most: usize,
        now: i64,
        rules: &Rules,
    ) -> Result<Swept, StoreError> {
        // First, since it is the same as often as it is done: should what follows fail, the next
        // sweep says whose messages are back.
        feedback::sweep(&self.postgres, now, &rules.feedback).await?;
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let given = (most, now, rules);
        self.postgres
            .run("command_sweep", &given, |session, (most, now, rules)| {
                Box::pin(changes::sweep(session, *most, *now, rules))
            })
            .await
    }

    async fn feedback_lease(
        &self,
        token: LockToken,
        now: i64,
        rules: &FeedbackRules,
    ) -> Result<Option<FeedbackBatch>, StoreError> {
        feedback::lease(&self.postgres, token, now, rules).await
    }

    async fn feedback_settle(
        &self,
        token: LockToken,
        disposition: Disposition,
        now: i64,
        rules: &FeedbackRules,
    ) -> Result<bool, StoreError> {
        feedback::settle(&self.postgres, token, disposition, now, rules).await
    }
}
