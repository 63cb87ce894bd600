//! `/dunlin/v1/events`: what devices send, as server-sent events, and how far a group has come.
//!
//! The `id` of each event says where to go on behind it, in every partition of the stream:
//! `0:120,1:98` are partitions, each with the offset of its next event. The stream begins with such
//! an id and repeats it while nothing comes. Who gives it back, as `Last-Event-ID` or in the query,
//! goes on there: nothing is missed and nothing comes twice.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use dunlin_model::{ErrorCode, HubError, Identity};
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::{MeshChannel, Shutdown};
use dunlin_storage::event_log::{EventLog, Position, TOPIC_EVENTS, partition_of};

use crate::error::ApiError;
use crate::guard::query;
use crate::routes::Routes;

mod commit;
mod json;
mod stream;
pub(crate) mod token;

/// Where the stream is; a token of `token` is good for it alone.
const PATH: &str = "/dunlin/v1/events";
/// A header, and a parameter for who cannot send one. The header counts first: a browser that
/// connects again sends it with the URL it had.
const LAST_EVENT_ID: &str = "last-event-id";

/// The built-in endpoint. What it reads until routing fills it is the event log's to say.
const TOPIC: &str = TOPIC_EVENTS;

#[derive(Clone)]
pub(crate) struct Events {
    pub log: Arc<dyn EventLog>,
    /// Ends every stream.
    pub shutdown: Shutdown,
}

pub(crate) fn routes(registry: RegistryClient<MeshChannel>, events: Events) -> Routes {
    Routes::new(registry)
        .get_by_query(PATH, open)
        .on(Method::POST, "/dunlin/v1/events/commit", commit::commit)
        .with_state(events)
}

/// What a reader asks for.
#[derive(Debug, PartialEq)]
struct Request {
    /// Only this device's (and its modules').
    device: Option<String>,
    /// Where a partition begins that nothing else is said of.
    from: Position,
    /// Consumer group: begins where the group stopped. It moves on by `commit` alone, so what a
    /// reader had not finished when it died is given to the next one: at least once. Two readers of
    /// a group do not share the partitions, each is given everything.
    group: Option<String>,
    /// Whether a group that is not there begins with this stream. A token in a URL permits reading
    /// alone.
    makes_group: bool,
    /// Begins there, whatever the group says: partition and offset, as event ids have them.
    positions: Vec<(u32, u64)>,
}

impl Request {
    fn parse(parameters: &HashMap<String, String>) -> Result<Self, ApiError> {
        let device = parameters.get("device").cloned();
        if let Some(device) = &device {
            Identity::device(device)?;
        }
        let group = parameters.get("group").cloned();
        if let Some(group) = &group {
            check_group(group)?;
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
        let positions = positions(parameters.get(LAST_EVENT_ID).map_or("", String::as_str))?;
        let makes_group = !parameters.contains_key("access_token");
        Ok(Self { device, from, group, makes_group, positions })
    }

    /// The partitions to read, with the offsets to begin at. Asked before the answer begins, so
    /// that who has the head of the answer misses nothing that is sent from then on.
    async fn starts(&self, log: &dyn EventLog) -> Result<Vec<(u32, u64)>, ApiError> {
        let count = log.partitions();
        let partitions = match &self.device {
            Some(device) => {
                let one = partition_of(device.as_bytes(), count);
                one..one + 1
            }
            None => 0..count,
        };
        for (partition, _) in &self.positions {
            known_partition(*partition, count)?;
            if let Some(device) = &self.device
                && !partitions.contains(partition)
            {
                let own = partitions.start;
                let message = format!("{device} is in partition {own}, not in {partition}");
                return Err(invalid(&message));
            }
        }
        let committed = match &self.group {
            Some(group) => log.group_positions(TOPIC, group).await.map_err(HubError::from)?,
            None => Vec::new(),
        };
        let find = |list: &[(u32, u64)], wanted| {
            list.iter().find(|(partition, _)| *partition == wanted).map(|(_, offset)| *offset)
        };
        let (mut starts, mut new) = (Vec::new(), Vec::new());
        for partition in partitions {
            let stopped = find(&committed, partition);
            let position = find(&self.positions, partition).or(stopped);
            let position = position.map_or(self.from, Position::Offset);
            let start = log.seek(TOPIC, partition, position).await.map_err(HubError::from)?;
            starts.push((partition, start));
            if stopped.is_none() {
                new.push((partition, start));
            }
        }
        // A new group begins here, whether or not its reader comes to commit anything.
        if let Some(group) = &self.group
            && self.makes_group
            && !new.is_empty()
        {
            commit::store(log, group, &new).await?;
        }
        Ok(starts)
    }
}

async fn open(
    State(events): State<Events>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut parameters = query(&uri)?;
    // Then it was the header that counted.
    if headers.contains_key(header::AUTHORIZATION) {
        parameters.remove("access_token");
    }
    if let Some(id) = headers.get(LAST_EVENT_ID) {
        let id = String::from_utf8_lossy(id.as_bytes()).into_owned();
        parameters.insert(LAST_EVENT_ID.to_owned(), id);
    }
    let request = Request::parse(&parameters)?;
    let starts = request.starts(&*events.log).await?;
    let frames = stream::start(events, request.device, starts);
    let body = futures_util::StreamExt::map(frames, Ok::<Bytes, std::convert::Infallible>);
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// Reads an event's id.
fn positions(id: &str) -> Result<Vec<(u32, u64)>, ApiError> {
    let each = id.split(',').filter(|position| !position.is_empty()).map(|position| {
        let (partition, offset) = position.split_once(':')?;
        Some((partition.parse().ok()?, offset.parse().ok()?))
    });
    let positions: Option<Vec<_>> = each.collect();
    positions.ok_or_else(|| {
        invalid("last-event-id is a list of partition:offset, as the ids of events are")
    })
}

fn check_group(name: &str) -> Result<(), ApiError> {
    if !(1..=50).contains(&name.len())
        || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"$-._".contains(&b))
    {
        return Err(invalid("group has 1 to 50 letters, digits, $, -, . or _"));
    }
    Ok(())
}

fn known_partition(partition: u32, count: u32) -> Result<(), ApiError> {
    if partition < count {
        return Ok(());
    }
    let last = count - 1;
    let message = format!("there is no partition {partition}: this hub has {count}, 0 to {last}");
    Err(invalid(&message))
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
        let plain = || Request {
            device: None,
            from: Position::Latest,
            group: None,
            makes_group: true,
            positions: Vec::new(),
        };
        check("", Some(plain()));
        check("from=end&last-event-id=", Some(plain()));
        check("from=start", Some(Request { from: Position::Earliest, ..plain() }));
        check(
            "from=1970-01-01T00:00:01.5Z&device=d%231",
            Some(Request { from: Position::Time(1_500), device: Some("d#1".into()), ..plain() }),
        );
        check(
            "group=%24Default&last-event-id=0:7,3:18446744073709551615",
            Some(Request {
                group: Some("$Default".into()),
                positions: vec![(0, 7), (3, u64::MAX)],
                ..plain()
            }),
        );
        check("access_token=x", Some(Request { makes_group: false, ..plain() }));
        for bad in [
            "from=yesterday",
            "device=a%20b",
            "device=",
            "group=",
            "group=a/b",
            "last-event-id=1",
            "last-event-id=a:b",
            "last-event-id=-1:0",
            "from=",
            "last-event-id=0:18446744073709551616",
        ] {
            check(bad, None);
        }
    }
}
