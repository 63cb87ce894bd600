//! The event stream of `/dunlin/v1/events`, and how far its groups have come.

use std::collections::BTreeMap;

use dunlin::client::{ClientError, Event, EventStream};
use dunlin::test_hub::TestHub;
use dunlin_model::event::header;
use dunlin_model::limits;
use dunlin_storage::event_log::{Header, Record, TOPIC_D2C, Token, partition_of};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::raw::within;
use crate::registry::{refused, reqwest_without_token, send};

const EVENTS: &str = "/dunlin/v1/events";

/// Puts an event into the log as a gateway does.
pub fn append(hub: &TestHub, device: &str, body: &str) {
    let headers = [
        Header { name: header::CONNECTION_DEVICE_ID, value: Some(device) },
        Header { name: header::CONTENT_TYPE, value: Some("application/json") },
        Header { name: "kind", value: None },
    ];
    let record = Record {
        key: device.as_bytes(),
        headers: &headers,
        body: body.as_bytes(),
        enqueued: dunlin_runtime::clock::unix_millis(),
    };
    let token = Token { connection: 0, sequence: 0 };
    hub.stores().events.append(TOPIC_D2C, record, token, None).expect("room");
}

async fn open(hub: &TestHub, query: &str) -> EventStream {
    hub.client().events(query).await.expect("a stream")
}

async fn next(stream: &mut EventStream) -> Event {
    stream.next().await.expect("a whole stream").expect("an open stream")
}

async fn payloads(stream: &mut EventStream, count: usize) -> Vec<String> {
    let mut payloads = Vec::new();
    for _ in 0..count {
        payloads.push(next(stream).await.data["event"]["payload"].to_string());
    }
    payloads
}

scenario!(a_stream_shows_what_is_sent_from_then_on);
async fn a_stream_shows_what_is_sent_from_then_on(hub: &TestHub) {
    append(hub, "d", "0");
    hub.read_events("d", 1).await;
    let mut stream = open(hub, "from=end").await;
    append(hub, "d", r#"{"t":1}"#);
    let event = next(&mut stream).await;
    let shown = &event.data["event"];
    assert_eq!(shown["origin"], "d");
    assert_eq!(shown["payload"], json!({"t": 1}));
    assert_eq!(shown["payload_base64"], "eyJ0IjoxfQ==");
    assert_eq!(shown["properties"]["application"], json!({"kind": null}));
    assert_eq!(shown["properties"]["system"], json!({"content-type": "application/json"}));
    assert_eq!(shown["annotations"]["iothub-connection-device-id"], "d");
    // Where to go on, of every partition.
    let next = shown["offset"].as_u64().expect("a number") + 1;
    let parts: Vec<_> = event.id.split(',').collect();
    assert_eq!(parts.len(), hub.stores().events.partitions() as usize, "{}", event.id);
    assert!(parts.contains(&&*format!("{}:{next}", shown["partition"])), "{}", event.id);
}

scenario!(a_device_is_shown_alone_and_in_order);
async fn a_device_is_shown_alone_and_in_order(hub: &TestHub) {
    for number in 0..100 {
        append(hub, "a", &number.to_string());
        append(hub, "b", "\"no\"");
    }
    let mut stream = open(hub, "from=start&device=a").await;
    let want: Vec<_> = (0..100).map(|number: u32| number.to_string()).collect();
    assert_eq!(payloads(&mut stream, 100).await, want);
}

scenario!(a_time_is_where_to_begin);
async fn a_time_is_where_to_begin(hub: &TestHub) {
    for number in 0..3 {
        append(hub, "d", &number.to_string());
    }
    let mut stream = open(hub, "from=1970-01-01T00:00:00Z").await;
    assert_eq!(payloads(&mut stream, 3).await, ["0", "1", "2"]);
}

/// What an `EventSource` makes of an answer, as its standard has it: fields of a block, and the id
/// that it will send when it connects again, which a block without data sets as well.
#[derive(Default)]
struct Source {
    unread: String,
    last_id: String,
    payloads: Vec<u64>,
}

impl Source {
    /// Reads until so many events have come in all.
    async fn read(&mut self, response: &mut Response, count: usize) {
        while self.payloads.len() < count || self.last_id.is_empty() {
            let Some((block, rest)) = self.unread.split_once("\n\n") else {
                let chunk = within("an event", response.chunk()).await.expect("read");
                let chunk = chunk.expect("an open stream");
                self.unread.push_str(std::str::from_utf8(&chunk).expect("ASCII in this test"));
                continue;
            };
            for line in block.lines() {
                match line.split_once(": ") {
                    Some(("id", id)) => id.clone_into(&mut self.last_id),
                    Some(("data", data)) => {
                        let event: Value = serde_json::from_str(data).expect("JSON");
                        self.payloads.push(event["event"]["payload"].as_u64().expect("a number"));
                    }
                    other => panic!("{other:?}"),
                }
            }
            self.unread = rest.to_owned();
        }
        // What came behind it goes with the connection.
        self.unread.clear();
    }
}

scenario!(a_browser_connects_again_with_the_last_id);
async fn a_browser_connects_again_with_the_last_id(hub: &TestHub) {
    // As a page does it: a token for the URL, and again a new one when the minute is over.
    let url = async |more: &str| {
        let issue = hub.client().request(Method::POST, &format!("{EVENTS}/token"));
        let issued = hub.client().call(issue).await.expect("issued");
        let token = issued["token"].as_str().expect("a token");
        format!("{EVENTS}?from=end&access_token={token}{more}")
    };
    let connect = async |url: &str, last_id: Option<&str>| {
        let mut request = reqwest_without_token(hub, url);
        if let Some(id) = last_id {
            request = request.header("Last-Event-ID", id);
        }
        let response = send(hub, request).await;
        assert_eq!(response.status().as_u16(), 200);
        response
    };
    let mut sent = 0;
    let mut publish = |count: u64| {
        for number in sent..sent + count {
            // Four devices, in several partitions.
            append(hub, &format!("device-{}", number % 4), &number.to_string());
        }
        sent += count;
    };
    publish(40);
    hub.read_events("device-0", 10).await;
    hub.read_events("device-1", 10).await;
    hub.read_events("device-2", 10).await;
    hub.read_events("device-3", 10).await;
    let mut source = Source::default();
    let first = url("").await;
    let mut response = connect(&first, None).await;
    // It goes before anything has come, and what is sent meanwhile is not missed.
    source.read(&mut response, 0).await;
    drop(response);
    publish(40);
    let mut response = connect(&first, Some(&source.last_id)).await;
    source.read(&mut response, 13).await;
    drop(response);
    // Again with the same URL, then with one of a new token, which names the id itself.
    let mut response = connect(&first, Some(&source.last_id)).await;
    source.read(&mut response, 26).await;
    drop(response);
    publish(40);
    let second = url(&format!("&last-event-id={}", source.last_id)).await;
    let mut response = connect(&second, None).await;
    source.read(&mut response, 50).await;
    drop(response);
    // The header is newer than the URL.
    let mut response = connect(&second, Some(&source.last_id)).await;
    source.read(&mut response, 80).await;
    // Of each device in order, and all of it once.
    let mut got = source.payloads.clone();
    for device in 0..4 {
        assert!(got.iter().filter(|number| *number % 4 == device).is_sorted());
    }
    got.sort_unstable();
    assert_eq!(got, (40..120).collect::<Vec<_>>());
}

/// Where a group is, by partition.
pub async fn positions(hub: &TestHub, group: &str) -> BTreeMap<u32, u64> {
    let positions = hub.stores().events.group_positions(TOPIC_D2C, group).await;
    positions.expect("positions").into_iter().collect()
}

scenario!(a_group_goes_on_behind_what_its_reader_committed);
async fn a_group_goes_on_behind_what_its_reader_committed(hub: &TestHub) {
    append(hub, "d", "0");
    let mut stream = open(hub, "group=g&from=start").await;
    assert_eq!(payloads(&mut stream, 1).await, ["0"]);
    append(hub, "d", "1");
    let second = next(&mut stream).await;
    assert_eq!(second.data["event"]["payload"], 1);
    let start = positions(hub, "g").await;
    assert!(start.values().all(|next| *next == 0) && !start.is_empty(), "{start:?}");
    drop(stream);

    // Nobody said that it was done with anything: all of it comes again.
    let mut stream = open(hub, "group=g").await;
    assert_eq!(payloads(&mut stream, 2).await, ["0", "1"]);
    hub.client().events_commit("g", &second.id).await.expect("committed");
    append(hub, "d", "2");
    let mut stream = open(hub, "group=g&from=start").await;
    assert_eq!(payloads(&mut stream, 1).await, ["2"]);
    // It may be set back, and a stream that begins elsewhere does not move it.
    let partition = partition_of(b"d", hub.stores().events.partitions());
    hub.client().events_commit("g", &format!("{partition}:1")).await.expect("committed");
    let mut stream = open(hub, &format!("group=g&last-event-id={partition}:2")).await;
    assert_eq!(payloads(&mut stream, 1).await, ["2"]);
    assert_eq!(positions(hub, "g").await[&partition], 1);
    let mut stream = open(hub, "group=g").await;
    assert_eq!(payloads(&mut stream, 2).await, ["1", "2"]);

    // A new group begins at the end, and stays there if its reader goes.
    drop(open(hub, "group=h").await);
    append(hub, "d", "3");
    let mut stream = open(hub, "group=h&from=start").await;
    assert_eq!(payloads(&mut stream, 1).await, ["3"]);
}

scenario!(a_commit_is_taken_or_refused);
async fn a_commit_is_taken_or_refused(hub: &TestHub) {
    append(hub, "d", "0");
    hub.read_events("d", 1).await;
    let partition = partition_of(b"d", hub.stores().events.partitions());
    let commit = |body: &str| {
        let request = hub.client().request(Method::POST, &format!("{EVENTS}/commit"));
        request.header("content-type", "application/json").body(body.to_owned())
    };
    let good = format!(r#"{{"group":"g","positions":{{"{partition}":1}}}}"#);
    assert_eq!(send(hub, commit(&good)).await.status().as_u16(), 204);
    let want = BTreeMap::from([(partition, 1)]);
    assert_eq!(positions(hub, "g").await, want);
    let long = "x".repeat(51);
    let beyond = format!(r#"{{"group":"g","positions":{{"{partition}":2}}}}"#);
    let mixed = format!(r#"{{"group":"g","positions":{{"{partition}":0,"4":0}}}}"#);
    for (body, code) in [
        ("", "IotHubFormatError"),
        ("x", "IotHubFormatError"),
        ("[]", "IotHubFormatError"),
        (r#"["g",{}]"#, "IotHubFormatError"),
        ("{}", "IotHubFormatError"),
        (r#"{"group":"g"}"#, "IotHubFormatError"),
        (r#"{"positions":{}}"#, "IotHubFormatError"),
        (r#"{"group":1,"positions":{}}"#, "IotHubFormatError"),
        (r#"{"group":"g","positions":{},"more":1}"#, "IotHubFormatError"),
        (r#"{"group":"g","positions":[[0,0]]}"#, "IotHubFormatError"),
        (r#"{"group":"g","positions":{"0":-1}}"#, "IotHubFormatError"),
        (r#"{"group":"g","positions":{"0":0.5}}"#, "IotHubFormatError"),
        (r#"{"group":"g","positions":{"0":"0"}}"#, "IotHubFormatError"),
        (r#"{"group":"g","positions":{"0":null}}"#, "IotHubFormatError"),
        (r#"{"group":"g","positions":{"-1":0}}"#, "IotHubFormatError"),
        (r#"{"group":"g","positions":{"a":0}}"#, "IotHubFormatError"),
        (r#"{"group":"g","positions":{"0":18446744073709551616}}"#, "IotHubFormatError"),
        (r#"{"group":"g","positions":{"4":0}}"#, "ArgumentInvalid"),
        (r#"{"group":"g","positions":{"0":18446744073709551615}}"#, "ArgumentInvalid"),
        (&beyond, "ArgumentInvalid"),
        (&mixed, "ArgumentInvalid"),
        (r#"{"group":"","positions":{}}"#, "ArgumentInvalid"),
        (r#"{"group":"a/b","positions":{}}"#, "ArgumentInvalid"),
        (&format!(r#"{{"group":"{long}","positions":{{}}}}"#), "ArgumentInvalid"),
        (&" ".repeat((1 << 20) + 1), "MessageTooLarge"),
    ] {
        let what: String = body.chars().take(80).collect();
        refused(hub, &what, commit(body), code).await;
    }
    assert_eq!(positions(hub, "g").await, want, "nothing of a refused one is carried out");
    // A token for a URL is for reading: it moves no group.
    let issue = hub.client().request(Method::POST, &format!("{EVENTS}/token"));
    let issued = hub.client().call(issue).await.expect("issued");
    let path = format!("{EVENTS}/commit?access_token={}", issued["token"].as_str().expect("text"));
    let (http, posting) = reqwest_without_token(hub, &path).body(good).build_split();
    let mut posting = posting.expect("a request");
    *posting.method_mut() = Method::POST;
    let posting = reqwest::RequestBuilder::from_parts(http, posting);
    refused(hub, "by a URL", posting, "IotHubUnauthorized").await;
}

scenario!(groups_are_limited_and_made_by_who_brings_a_header);
async fn groups_are_limited_and_made_by_who_brings_a_header(hub: &TestHub) {
    let issue = hub.client().request(Method::POST, &format!("{EVENTS}/token"));
    let issued = hub.client().call(issue).await.expect("issued");
    let token = issued["token"].as_str().expect("text");
    let by_url = reqwest_without_token(hub, &format!("{EVENTS}?group=url&access_token={token}"));
    assert_eq!(send(hub, by_url).await.status().as_u16(), 200);
    assert!(positions(hub, "url").await.is_empty());
    for number in 1..limits::CONSUMER_GROUPS {
        drop(open(hub, &format!("group=g{number}")).await);
    }
    let more = hub.client().request(Method::GET, &format!("{EVENTS}?group=more"));
    refused(hub, "a group too many", more, "IotHubQuotaExceeded").await;
    let more = hub.client().request(Method::POST, &format!("{EVENTS}/commit"));
    let more = more.body(r#"{"group":"more","positions":{"0":0}}"#);
    refused(hub, "a group too many", more, "IotHubQuotaExceeded").await;
    for group in ["g1", "%24Default", "g19"] {
        drop(open(hub, &format!("group={group}")).await);
    }
    assert_eq!(positions(hub, "g19").await.len(), 4);
}

scenario!(bad_questions_are_refused);
async fn bad_questions_are_refused(hub: &TestHub) {
    let own = partition_of(b"d", hub.stores().events.partitions());
    let others = format!("device=d&last-event-id={}:0", (own + 1) % 4);
    for (query, says) in [
        ("from=yesterday", "from is"),
        ("device=a%20b", "device id"),
        ("group=", "group has"),
        ("last-event-id=x", "partition:offset"),
        ("last-event-id=4:0", "this hub has 4, 0 to 3"),
        (&others, "is in partition"),
    ] {
        match hub.client().events(query).await.err() {
            Some(ClientError::Refused { status: 400, code, message }) => {
                assert_eq!(code, "ArgumentInvalid", "{query}");
                assert!(message.contains(says), "{query}: {message}");
            }
            other => panic!("{query}: {other:?}"),
        }
    }
}
