//! `GET /dunlin/v1/events`: what devices send, as server-sent events.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use dunlin_model::{ErrorCode, HubError, Identity};
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::{MeshChannel, Shutdown};
use dunlin_storage::event_log::{EventLog, Position, TOPIC_EVENTS, partition_of};

use crate::error::ApiError;
use crate::guard::query;
use crate::routes::Routes;

mod json;
mod stream;
pub(crate) mod token;

/// Where the stream is; a token of `token` is good for it alone.
const PATH: &str = "/dunlin/v1/events";

/// The built-in endpoint. What it reads until routing fills it is the event log's to say.
const TOPIC: &str = TOPIC_EVENTS;

#[derive(Clone)]
pub(crate) struct Events {
    pub log: Arc<dyn EventLog>,
    /// Ends every stream.
    pub shutdown: Shutdown,
}

pub(crate) fn routes(registry: RegistryClient<MeshChannel>, events: Events) -> Routes {
    Routes::new(registry).get_by_query(PATH, open).with_state(events)
}

/// What a reader asks for.
#[derive(Debug, PartialEq)]
struct Request {
    /// Only this device's (and its modules').
    device: Option<String>,
    /// Where a partition begins that nothing else is said of.
    from: Position,
    /// Consumer group: begins where the group stopped, and moves it on behind what the reader was
    /// given: at least once as long as the reader takes what is on its way to it; a reader that is
    /// killed may leave the last batch, at most some hundred events a partition, counted as read.
    /// With `device`, past the events of others too; two readers of a group
    /// do not share the partitions, each is given everything.
    group: Option<String>,
    /// Resumes behind these: partition and offset, as event ids have them.
    after: Vec<(u32, u64)>,
}

impl Request {
    fn parse(parameters: &HashMap<String, String>) -> Result<Self, ApiError> {
        let device = parameters.get("device").cloned();
        if let Some(device) = &device {
            Identity::device(device)?;
        }
        let group = parameters.get("group").cloned();
        if group.as_ref().is_some_and(|name| {
            name.is_empty()
                || name.len() > 50
                || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"$-._".contains(&b))
        }) {
            return Err(invalid("group has 1 to 50 letters, digits, $, -, . or _"));
        }
        let from = match parameters.get("from").map(String::as_str) {
            None | Some("end") => Position::Latest,
            Some("start") => Position::Earliest,
            Some(time) => Position::Time(
                time.parse::<jiff::Timestamp>()
                    .map_err(|_| invalid("from is start, end or a time as 2026-01-31T12:00:00Z"))?
                    .as_millisecond(),
            ),
        };
        let after = parameters.get("after").map_or("", String::as_str);
        let after = after.split(',').filter(|id| !id.is_empty()).map(|id| {
            let (partition, offset) = id.split_once(':')?;
            Some((partition.parse().ok()?, offset.parse().ok()?))
        });
        let after: Option<Vec<(u32, u64)>> = after.collect();
        let after = after.ok_or_else(|| invalid("after is a list of partition:offset"))?;
        Ok(Self { device, from, group, after })
    }

    /// The partitions to read, with the offsets to begin at. Asked before the answer begins, so
    /// that who has the head of the answer misses nothing that is sent from then on.
    async fn starts(&self, log: &dyn EventLog) -> Result<Vec<(u32, u64)>, HubError> {
        let count = log.partitions();
        let partitions = match &self.device {
            Some(device) => {
                let one = partition_of(device.as_bytes(), count);
                one..one + 1
            }
            None => 0..count,
        };
        let committed = match &self.group {
            Some(group) => log.group_positions(TOPIC, group).await?,
            None => Vec::new(),
        };
        let find = |list: &[(u32, u64)], wanted| {
            list.iter().find(|(partition, _)| *partition == wanted).map(|(_, offset)| *offset)
        };
        let mut starts = Vec::new();
        for partition in partitions {
            let position = match (find(&self.after, partition), find(&committed, partition)) {
                (Some(offset), _) => Position::Offset(offset.saturating_add(1)),
                (None, Some(offset)) => Position::Offset(offset),
                (None, None) => self.from,
            };
            starts.push((partition, log.seek(TOPIC, partition, position).await?));
        }
        // A new group begins here, whether or not anything comes before its reader goes.
        if let Some(group) = &self.group {
            log.group_commit(TOPIC, group, &starts).await?;
        }
        Ok(starts)
    }
}

async fn open(State(events): State<Events>, uri: Uri) -> Result<Response, ApiError> {
    let request = Request::parse(&query(&uri)?)?;
    let starts = request.starts(&*events.log).await?;
    let frames = stream::start(events, request, starts);
    let body = futures_util::StreamExt::map(frames, Ok::<Bytes, std::convert::Infallible>);
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, Body::from_stream(body)).into_response())
}

fn invalid(message: &str) -> ApiError {
    ApiError::new(ErrorCode::ArgumentInvalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_or_refused() {
        #[track_caller]
        fn check(text: &str, want: Option<Request>) {
            let uri = format!("/dunlin/v1/events?{text}").parse().expect("a uri");
            let got = query(&uri).and_then(|parameters| Request::parse(&parameters));
            assert_eq!(got.ok(), want, "{text}");
        }
        let plain =
            || Request { device: None, from: Position::Latest, group: None, after: Vec::new() };
        check("", Some(plain()));
        check("from=end&after=", Some(plain()));
        check("from=start", Some(Request { from: Position::Earliest, ..plain() }));
        check(
            "from=1970-01-01T00:00:01.5Z&device=d%231",
            Some(Request { from: Position::Time(1_500), device: Some("d#1".into()), ..plain() }),
        );
        check(
            "group=%24Default&after=0:7,3:18446744073709551615",
            Some(Request {
                group: Some("$Default".into()),
                after: vec![(0, 7), (3, u64::MAX)],
                ..plain()
            }),
        );
        for bad in [
            "from=yesterday",
            "device=a%20b",
            "device=",
            "group=",
            "group=a/b",
            "after=1",
            "after=a:b",
            "after=-1:0",
            "from=",
            "after=0:18446744073709551616",
        ] {
            check(bad, None);
        }
    }
}
