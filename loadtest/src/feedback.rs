//! Feedback on C2D messages, as a back end reads it: in batches, each completed once it was read.

use anyhow::{Context, Result};
use hyper::{Method, StatusCode};
use serde_json::Value;

use crate::backend::Refused;
use crate::rest::Rest;

const PATH: [&str; 3] = ["messages", "serviceBound", "feedback"];

pub struct Batch {
    pub records: Vec<Value>,
    lock: String,
}

impl Batch {
    /// If there is one.
    pub async fn receive(rest: &Rest) -> Result<Option<Self>> {
        let answer = rest.send(Method::GET, &PATH, &[], String::new()).await?;
        if answer.status == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        Refused::unless(&answer, StatusCode::OK)?;
        let lock = answer.header("etag").unwrap_or_default().trim_matches('"').to_owned();
        let records = serde_json::from_slice(&answer.body).context("feedback is no JSON array")?;
        Ok(Some(Self { records, lock }))
    }

    pub async fn complete(self, rest: &Rest) -> Result<()> {
        let [messages, service, feedback] = PATH;
        let path = [messages, service, feedback, &*self.lock];
        let answer = rest.send(Method::DELETE, &path, &[], String::new()).await?;
        Refused::unless(&answer, StatusCode::NO_CONTENT)
    }
}

/// Reads what earlier runs have left: a history would have it on messages that were never sent.
pub async fn forget(rest: &Rest) -> Result<()> {
    while let Some(batch) = Batch::receive(rest).await? {
        batch.complete(rest).await?;
    }
    Ok(())
}
