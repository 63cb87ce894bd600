//! Many identities in one call: each row succeeds or fails on its own, all are one transaction.

use std::collections::HashSet;

use dunlin_auth::Key;
use dunlin_model::{Authentication, ErrorCode, HubError, Identity, KeyPair, limits};
use dunlin_storage::device_store::IfMatch;
use futures_util::future::join_all;

use crate::identities::{Identities, Plan, Written, plan_delete, refuse_system_module};
use crate::store_failed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Create,
    Update,
    Delete,
    CreateOrUpdate,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub written: Written,
    pub mode: Mode,
    pub if_match: IfMatch,
}

impl Identities {
    /// What became of each row. `Err` if the store failed: then nothing was written.
    pub(crate) async fn write_rows(
        &self,
        rows: Vec<Result<Row, HubError>>,
    ) -> Result<Vec<Option<HubError>>, HubError> {
        check_count(rows.len())?;
        let mut results: Vec<Option<HubError>> = Vec::with_capacity(rows.len());
        let (mut planned, mut groups) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for (at, row) in rows.into_iter().enumerate() {
            let planning = async {
                let row = row?;
                // What a second row means depends on what the first does to what is stored.
                if !seen.insert(row.written.id.clone()) {
                    return Err(HubError::new(
                        ErrorCode::DeviceDefinedMultipleTimes,
                        format!("{} is in this call more than once", row.written.id),
                    ));
                }
                let plan = self.plan(&row).await?;
                Ok((row, plan))
            };
            match planning.await {
                Ok((row, mut plan)) => {
                    groups.push(std::mem::take(&mut plan.group));
                    planned.push((at, row, plan));
                    results.push(None);
                }
                Err(error) => results.push(Some(error)),
            }
        }
        let written = self.store.identity_write(groups).await.map_err(store_failed)?;
        let mut done_rows = Vec::new();
        for ((at, row, plan), written) in planned.into_iter().zip(written) {
            match written {
                Ok(done) => done_rows.push((plan, done)),
                // Alone it is refused again and says why, or succeeds if it had only been
                // overtaken.
                Err(_) => results[at] = self.write_one(row).await.err(),
            }
        }
        // At once: a gateway that does not answer must not hold up the others' disconnects.
        let finishing = done_rows.into_iter().map(|(plan, done)| self.written(plan, done));
        join_all(finishing).await;
        Ok(results)
    }

    async fn plan(&self, row: &Row) -> Result<Plan, HubError> {
        refuse_system_module(&row.written.id)?;
        let (written, if_match) = (row.written.clone(), row.if_match.clone());
        match row.mode {
            Mode::Create => self.plan_create(written),
            Mode::Delete => plan_delete(&written.id, if_match),
            Mode::Update => {
                let old = self.stored(&written.id).await?;
                self.plan_replace(written, old, &if_match).await
            }
            Mode::CreateOrUpdate => {
                match self.store.identity_get(&written.id).await.map_err(store_failed)? {
                    Some(old) => self.plan_replace(written, old, &if_match).await,
                    None => self.plan_create(written),
                }
            }
        }
    }

    async fn write_one(&self, row: Row) -> Result<(), HubError> {
        let Row { written, mode, if_match } = row;
        match mode {
            Mode::Create => self.create(written).await.map(drop),
            Mode::Update => self.replace(written, if_match).await.map(drop),
            Mode::Delete => self.delete(&written.id, if_match).await,
            Mode::CreateOrUpdate => loop {
                match self.create(written.clone()).await {
                    Err(HubError {
                        code:
                            ErrorCode::DeviceAlreadyExists | ErrorCode::ModuleAlreadyExistsOnDevice,
                        ..
                    }) => {}
                    made => return made.map(drop),
                }
                match self.replace(written.clone(), if_match.clone()).await {
                    // Deleted since.
                    Err(HubError {
                        code: ErrorCode::DeviceNotFound | ErrorCode::ModuleNotFound,
                        ..
                    }) => {}
                    replaced => return replaced.map(drop),
                }
            },
        }
    }

    /// Gives each identity new keys of the hub's making, and returns both as they are then.
    pub(crate) async fn regenerate(
        &self,
        ids: Vec<String>,
        primary: bool,
        secondary: bool,
    ) -> Result<Vec<Result<KeyPair, HubError>>, HubError> {
        check_count(ids.len())?;
        let regenerating = ids.iter().map(|id| async move {
            self.regenerate_one(&Identity::parse(id)?, primary, secondary).await
        });
        Ok(join_all(regenerating).await)
    }

    async fn regenerate_one(
        &self,
        id: &Identity,
        primary: bool,
        secondary: bool,
    ) -> Result<KeyPair, HubError> {
        refuse_system_module(id)?;
        loop {
            let old = self.get(id).await?;
            let Authentication::Sas(mut keys) = old.authentication else {
                return Err(HubError::new(
                    ErrorCode::InvalidOperation,
                    format!("{id} has no symmetric keys: its authentication.type is not sas"),
                ));
            };
            if primary {
                keys.primary = Key::generate().to_base64();
            }
            if secondary {
                keys.secondary = Key::generate().to_base64();
            }
            let written = Written {
                status_reason: old.status_reason,
                authentication: Some(Authentication::Sas(keys.clone())),
                ..Written::nothing(id.clone())
            };
            match self.replace(written, IfMatch::Etag(old.etag)).await {
                Ok(_) => return Ok(keys),
                Err(error) if error.code == ErrorCode::PreconditionFailed => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Written {
    /// A write that leaves everything as it is, but for the status reason.
    fn nothing(id: Identity) -> Self {
        Self {
            id,
            status: None,
            status_reason: None,
            authentication: None,
            renew_keys: false,
            iot_edge: None,
            device_scope: None,
            parent_scopes: None,
            managed_by: None,
            twin: None,
        }
    }
}

fn check_count(rows: usize) -> Result<(), HubError> {
    if rows <= limits::BULK_DEVICES {
        return Ok(());
    }
    Err(HubError::new(
        ErrorCode::TooManyDevices,
        format!("one call takes at most {} devices, not {rows}", limits::BULK_DEVICES),
    ))
}
