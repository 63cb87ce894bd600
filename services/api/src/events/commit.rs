//! `POST /dunlin/v1/events/commit`: how far a consumer group has come, by its reader's word. Only
//! the reader knows what it is done with, so the stream does not move a group by itself.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use dunlin_model::{ErrorCode, HubError, limits};
use dunlin_storage::StoreError;
use dunlin_storage::event_log::EventLog;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Events, TOPIC, check_group, invalid, known_partition};
use crate::body::object;
use crate::error::ApiError;

/// What a reader is done with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Commit {
    group: String,
    /// Of each partition the offset of the next event it wants. Less than before is taken as well:
    /// that is how a group is set back. A partition that is not named stays where it is.
    #[serde(deserialize_with = "once_each")]
    positions: BTreeMap<u32, u64>,
}

/// A partition that is named twice is refused, where serde would take the last. By hand, since no
/// library that is here has it.
fn once_each<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<u32, u64>, D::Error> {
    struct Positions;

    impl<'de> Visitor<'de> for Positions {
        type Value = BTreeMap<u32, u64>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of partitions and offsets")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
            let mut positions = BTreeMap::new();
            while let Some((partition, next)) = members.next_entry()? {
                if positions.insert(partition, next).is_some() {
                    return Err(A::Error::custom(format!("partition {partition} is there twice")));
                }
            }
            Ok(positions)
        }
    }

    from.deserialize_map(Positions)
}

/// Keeps where a group goes on, if the hub has room for one more.
pub(super) async fn store(
    log: &dyn EventLog,
    group: &str,
    next: &[(u32, u64)],
) -> Result<(), ApiError> {
    log.group_commit(TOPIC, group, next).await.map_err(|error| match error {
        StoreError::LimitReached => {
            let most = limits::CONSUMER_GROUPS;
            let why =
                format!("there is no group {group}, and a hub has at most {most}: use another");
            ApiError::new(ErrorCode::IotHubQuotaExceeded, why)
        }
        other => HubError::from(other).into(),
    })
}

/// 204 once it is durable. A group that is not there yet begins with this.
pub(super) async fn commit(
    State(events): State<Events>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, ApiError> {
    let Commit { group, positions } = object(&body?)?;
    check_group(&group)?;
    for (partition, next) in &positions {
        known_partition(*partition, events.log.partitions())?;
        let end = events.log.range(TOPIC, *partition).await.map_err(HubError::from)?.end;
        if *next > end {
            let message = format!("partition {partition} ends at {end}: there is no {next} yet");
            return Err(invalid(&message));
        }
    }
    let next: Vec<_> = positions.into_iter().collect();
    store(&*events.log, &group, &next).await?;
    Ok(StatusCode::NO_CONTENT)
}
