//! Twins by example: merging, versions, metadata, and what is refused.

use serde_json::{Value, json};

use super::*;

mod model;
mod rules;

const NOW: i64 = 1_485_907_200_123;
const TIME: &str = "2017-02-01T00:00:00.1230000Z";
const LATER: &str = "2017-02-01T00:00:01.1230000Z";

fn limits() -> Limits {
    Limits::default()
}

fn update(replace: bool, tags: Option<Value>, desired: Option<Value>) -> Update {
    let text = |value: Option<Value>| value.map(|value| value.to_string().into_bytes());
    let (tags, desired) = (text(tags), text(desired));
    Update::read(None, replace, tags.as_deref(), desired.as_deref(), &limits()).expect("sound")
}

fn report(patch: &Value, if_version: Option<u64>) -> Report {
    Report::read(patch.to_string().as_bytes(), if_version, &limits()).expect("sound")
}

fn versions(twin: &Twin) -> [u64; 4] {
    [twin.etag, twin.version, twin.desired.version, twin.reported.version]
}

fn object(value: Value) -> Object {
    serde_json::from_value(value).expect("an object")
}

#[test]
fn a_new_twin_is_that_of_iot_hub() {
    let twin = Twin::new(NOW);
    assert_eq!(versions(&twin), [1, 2, 1, 1]);
    assert_eq!(twin.etag_text(), "AAAAAAAAAAE=");
    assert_eq!(
        twin.desired.metadata,
        object(json!({"$lastUpdated": TIME, "$lastUpdatedVersion": 1}))
    );
    assert_eq!(twin.reported.metadata, object(json!({"$lastUpdated": TIME})));
    assert_eq!(
        Value::Object(twin.properties()),
        json!({"desired": {"$version": 1}, "reported": {"$version": 1}})
    );
}

#[test]
fn versions_grow_with_what_changes() {
    let mut twin = Twin::new(NOW);
    let mut apply = |update: Update, told: Option<Value>, want: [u64; 4]| {
        let got = twin.update(&update, NOW, &limits()).expect("sound");
        assert_eq!(got.map(Value::Object), told, "{update:?}");
        assert_eq!(versions(&twin), want, "{update:?}");
    };
    apply(update(false, None, None), None, [1, 2, 1, 1]);
    apply(update(false, Some(json!({})), Some(json!({}))), None, [1, 2, 1, 1]);
    let ours = json!({"$version": 9, "$metadata": {"a.b": [null]}});
    apply(update(false, None, Some(ours)), None, [1, 2, 1, 1]);
    apply(update(false, Some(json!({"a": 1})), None), None, [2, 3, 1, 1]);
    let one = json!({"a": 1, "b": null});
    let told = Some(json!({"a": 1, "b": null, "$version": 2}));
    apply(update(false, None, Some(one.clone())), told, [3, 4, 2, 1]);
    let again = Some(json!({"a": 1, "b": null, "$version": 3}));
    apply(update(false, Some(one.clone()), Some(one)), again, [4, 5, 3, 1]);
    apply(update(true, None, Some(json!({"a": 1}))), Some(json!({"$version": 4})), [5, 6, 4, 1]);
    let gone = Some(json!({"a": null, "$version": 5}));
    apply(update(true, None, None), gone, [6, 7, 5, 1]);
    assert!(twin.tags.is_empty() && twin.desired.properties.is_empty());

    let told = twin.report(&report(&json!({}), None), NOW, &limits());
    assert_eq!((told, versions(&twin)), (Ok(false), [6, 7, 5, 1]));
    let told = twin.report(&report(&json!({"a": null}), Some(1)), NOW, &limits());
    assert_eq!((told, versions(&twin)), (Ok(true), [6, 8, 5, 2]));
    assert_eq!(twin.etag_text(), "AAAAAAAAAAY=");
}

#[test]
fn what_was_changed_meanwhile_is_refused() {
    let mut twin = Twin::new(NOW);
    let limits = limits();
    let tags = Some(&br#"{"a":1}"#[..]);
    for (etag, good) in [("AAAAAAAAAAI=", false), ("", false), ("1", false), ("AAAAAAAAAAE=", true)]
    {
        let update = Update::read(Some(etag.into()), false, tags, None, &limits).expect("sound");
        let before = twin.clone();
        match twin.update(&update, NOW, &limits) {
            Ok(_) => assert!(good, "{etag}"),
            Err(error) => {
                assert!(!good && error.code == ErrorCode::PreconditionFailed, "{etag}: {error}");
                assert_eq!(twin, before);
            }
        }
    }
    // Also if there is nothing to change.
    for patch in [json!({}), json!({"a": 1})] {
        let before = twin.clone();
        let refused = twin.report(&report(&patch, Some(2)), NOW, &limits).expect_err("refused");
        assert_eq!(refused.code, ErrorCode::PreconditionFailed);
        assert_eq!(twin, before);
    }
}

#[test]
fn metadata_tells_when_each_level_changed() {
    let mut twin = Twin::new(NOW);
    let first = json!({"a": {"b": 1, "c": [{"d": 1}]}, "e": 1, "f": {"g": {}}});
    twin.update(&update(false, None, Some(first)), NOW, &limits()).expect("sound");
    let at = |time: &str, version: u64| {
        object(json!({"$lastUpdated": time, "$lastUpdatedVersion": version}))
    };
    let with = |mut node: Object, below: Value| {
        node.extend(object(below));
        Value::Object(node)
    };
    let two = || Value::Object(at(TIME, 2));
    let want = json!({
        "a": with(at(TIME, 2), json!({"b": two(), "c": two()})),
        "e": two(),
        "f": with(at(TIME, 2), json!({"g": two()})),
    });
    assert_eq!(Value::Object(twin.desired.metadata.clone()), with(at(TIME, 2), want));

    // A deletion shows one level above, a scalar takes the place of what was below it.
    let second = json!({"a": {"c": null}, "e": {"h": 1}, "f": 1});
    twin.update(&update(false, None, Some(second)), NOW + 1_000, &limits()).expect("sound");
    let three = || Value::Object(at(LATER, 3));
    let want = json!({
        "a": with(at(LATER, 3), json!({"b": two()})),
        "e": with(at(LATER, 3), json!({"h": three()})),
        "f": three(),
    });
    assert_eq!(Value::Object(twin.desired.metadata.clone()), with(at(LATER, 3), want));

    twin.report(&report(&json!({"a": {"b": [1]}}), None), NOW, &limits()).expect("sound");
    let leaf = json!({"$lastUpdated": TIME});
    let want = json!({"$lastUpdated": TIME, "a": {"$lastUpdated": TIME, "b": leaf}});
    assert_eq!(Value::Object(twin.reported.metadata.clone()), want);
}

#[test]
fn a_replacement_is_told_as_what_it_does() {
    #[track_caller]
    fn check(old: Value, new: Value, told: Value) {
        let mut twin = Twin::new(NOW);
        twin.update(&update(true, None, Some(old)), NOW, &limits()).expect("sound");
        let got = twin.update(&update(true, None, Some(new.clone())), NOW, &limits());
        let got = got.expect("sound").map(|mut told| {
            assert_eq!(told.remove("$version"), Some(json!(3)));
            Value::Object(told)
        });
        assert_eq!(got, Some(told));
        assert_eq!(Value::Object(twin.desired.properties), new);
    }
    check(json!({"a": 1, "b": 2}), json!({"b": 2, "c": 3}), json!({"a": null, "c": 3}));
    check(json!({"a": {"b": 1, "c": 1}}), json!({"a": {"b": 1}}), json!({"a": {"c": null}}));
    check(json!({"a": {"b": {"c": 1}}}), json!({"a": {"b": {}}}), json!({"a": {"b": {"c": null}}}));
    check(json!({"a": {"b": 1}}), json!({"a": [1]}), json!({"a": [1]}));
    check(json!({"a": [1, 2]}), json!({"a": [1]}), json!({"a": [1]}));
    check(json!({"a": 1}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}}));
    check(json!({"a": 1}), json!({"a": 1.0}), json!({"a": 1.0}));
}
