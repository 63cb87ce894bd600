//! What random operations are made of.

use dunlin_model::command::{Ack, LockToken};
use dunlin_model::twin::{Limits, Report, Update};
use dunlin_model::{Command, HubError, Identity, KeyPair, Session, Status, Subscriptions, Twin};
use fastrand::Rng;
use serde_json::{Map, Value, json};

use crate::device_store::conformance::sample;
use crate::device_store::{IdentityWrite, IfMatch, StoredIdentity};

/// Strings of which a store might make something else.
const TEXTS: [&str; 12] =
    ["", "a", "A", "a'b", "\\", "\0", "a\0b", "\u{1}", "\u{1}\u{2}", "ä\u{ffff}😀", "%_", "NULL"];

const NUMBERS: [&str; 10] = [
    "0",
    "-0.0",
    "1.0",
    "1e16",
    "1e300",
    "5e-324",
    "0.1",
    "-4503599627370496",
    "1e-7",
    "123456789.125",
];

pub(super) fn text(random: &mut Rng) -> String {
    TEXTS[random.usize(..TEXTS.len())].to_owned()
}

fn some(random: &mut Rng) -> Option<String> {
    random.bool().then(|| text(random))
}

pub(super) fn etag(random: &mut Rng) -> String {
    format!("{}{}", text(random), random.u8(..3))
}

pub(super) fn if_match(random: &mut Rng) -> IfMatch {
    if random.u8(..3) > 0 { IfMatch::Any } else { IfMatch::Etag(etag(random)) }
}

fn identity(random: &mut Rng, id: Identity) -> StoredIdentity {
    let credentials = (0..random.usize(..4)).map(|_| random.u8(..)).collect();
    StoredIdentity {
        // As often as not the one that others speak of.
        generation_id: random.u8(..2).to_string(),
        etag: etag(random),
        status: if random.bool() { Status::Enabled } else { Status::Disabled },
        status_reason: some(random),
        status_updated: random.i64(..),
        auth_type: text(random),
        credentials,
        thumbprints: random
            .bool()
            .then(|| KeyPair { primary: text(random), secondary: text(random) }),
        auth_version: random.u64(..1_000),
        iot_edge: random.bool(),
        device_scope: some(random),
        parent_scopes: (0..random.usize(..3)).map(|n| format!("{n}{}", text(random))).collect(),
        managed_by: some(random),
        ..sample(id.as_str())
    }
}

pub(super) fn write(random: &mut Rng, id: Identity) -> IdentityWrite {
    match random.u8(..10) {
        0..5 => {
            let mut twin = Twin::new(random.i64(0..4_000_000_000_000));
            twin.tags = object(random, 2);
            IdentityWrite::Create(identity(random, id), twin)
        }
        5..8 => IdentityWrite::Replace(identity(random, id), if_match(random)),
        _ => IdentityWrite::Delete(id, if_match(random)),
    }
}

pub(super) fn node(random: &mut Rng) -> &'static str {
    ["n", "n\0", "N", "m\u{1}"][random.usize(..4)]
}

pub(super) fn session(random: &mut Rng) -> Session {
    Session { subscriptions: Subscriptions::from_bits(random.u32(..)), model_id: some(random) }
}

fn value(random: &mut Rng, depth: usize) -> Value {
    match random.u8(..8) {
        0 if depth > 0 => Value::Object(object(random, depth - 1)),
        1 if depth > 0 => json!([1, {"a": text(random)}]),
        2 => Value::Null,
        3 => Value::Bool(random.bool()),
        4 | 5 => {
            let number = NUMBERS[random.usize(..NUMBERS.len())];
            serde_json::from_str(number).expect("a number")
        }
        _ => Value::String(text(random)),
    }
}

fn object(random: &mut Rng, depth: usize) -> Map<String, Value> {
    let keys = ["a", "b", "ä", "", "\\", "A"];
    (0..random.usize(..4))
        .map(|_| (keys[random.usize(..keys.len())].to_owned(), value(random, depth)))
        .collect()
}

fn patch(random: &mut Rng) -> Vec<u8> {
    Value::Object(object(random, 2)).to_string().into_bytes()
}

/// Narrow ones now and then, so that something is refused.
pub(super) fn limits(random: &mut Rng) -> Limits {
    let bytes = if random.u8(..5) == 0 { 12 } else { 4_096 };
    Limits { reported_bytes: bytes, desired_bytes: bytes, ..Limits::default() }
}

pub(super) fn update(random: &mut Rng, limits: &Limits) -> Result<Update, HubError> {
    let etags = ["AAAAAAAAAAE=", "AAAAAAAAAAI=", "AAAAAAAAAAM="];
    let if_match = (random.u8(..3) == 0).then(|| etags[random.usize(..3)].to_owned());
    let (tags, desired) =
        (random.bool().then(|| patch(random)), random.bool().then(|| patch(random)));
    Update::read(if_match, random.u8(..4) == 0, tags.as_deref(), desired.as_deref(), limits)
}

pub(super) fn report(random: &mut Rng, limits: &Limits) -> Result<Report, HubError> {
    let if_version = (random.u8(..4) == 0).then(|| random.u64(1..6));
    let report = Report::read(&patch(random), if_version, limits)?;
    Ok(report.of_connection(random.u64(..5)))
}

pub(super) fn command(random: &mut Rng, now: i64) -> Command {
    Command {
        message_id: some(random),
        correlation_id: some(random),
        user_id: some(random),
        content_type: some(random),
        content_encoding: some(random),
        expires: Some(now + [1, 30_000, 60_000, 300_000][random.usize(..4)]),
        ack: Ack::ALL[random.usize(..4)],
        properties: (0..random.usize(..3)).map(|_| (text(random), text(random))).collect(),
        body: (0..random.usize(..40)).map(|_| random.u8(..)).collect(),
    }
}

pub(super) fn token(number: u64) -> LockToken {
    LockToken::from_bytes(u128::from(number).to_be_bytes())
}
