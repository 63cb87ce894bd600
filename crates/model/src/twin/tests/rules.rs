//! The rules of documents, each on both sides of its boundary.

use super::*;

fn of_2017() -> Limits {
    Limits {
        tags_bytes: 8_192,
        desired_bytes: 8_192,
        reported_bytes: 8_192,
        depth: 5,
        key_bytes: 64,
        string_bytes: 512,
        arrays: false,
    }
}

/// `reported` after one report of a new twin.
fn reported(patch: &Value, limits: &Limits) -> Result<Value, HubError> {
    let mut twin = Twin::new(NOW);
    let report = Report::read(patch.to_string().as_bytes(), None, limits)?;
    twin.report(&report, NOW, limits)?;
    Ok(Value::Object(twin.reported.properties))
}

#[track_caller]
fn taken(patch: Value, limits: &Limits) {
    assert_eq!(reported(&patch, limits), Ok(patch));
}

#[track_caller]
fn refused(patch: Value, limits: &Limits, want: &str) {
    let error = reported(&patch, limits).expect_err("refused");
    assert_eq!(error.code, ErrorCode::ArgumentInvalid);
    assert!(error.message.starts_with(want), "{error}");
}

/// `{"a":{"a":…}}` with that many objects below the first.
fn nested(depth: usize) -> Value {
    (0..depth).fold(json!({"p": 1}), |below, _| json!({"a": below}))
}

#[test]
fn documents_may_be_ten_deep() {
    for (limits, deepest) in [(limits(), 10), (of_2017(), 5)] {
        taken(nested(deepest), &limits);
        let path = format!("properties.reported{}: ", ".a".repeat(deepest + 1));
        refused(nested(deepest + 1), &limits, &path);
    }
    // However high it is set, there is an end.
    let high = Limits { depth: usize::MAX, ..limits() };
    taken(nested(64), &high);
    refused(nested(65), &high, "properties.reported.a");
}

#[test]
fn keys_are_short_and_plain() {
    taken(json!({"k".repeat(1_024): 1}), &limits());
    refused(json!({"k".repeat(1_025): 1}), &limits(), "properties.reported.kkk");
    taken(json!({"ä".repeat(512): 1}), &limits());
    refused(json!({"ä".repeat(513): 1}), &limits(), "properties.reported.ää");
    taken(json!({"k".repeat(64): 1}), &of_2017());
    refused(json!({"k".repeat(65): 1}), &of_2017(), "properties.reported.kkk");
    for key in ["", "A", "a", "-/\\\"'()[]{}?,;:@&=+#%", "\u{a0}", "日本", "😀", "~"] {
        taken(json!({"a": {key: 1}}), &limits());
    }
    for key in [
        "a.b",
        ".",
        "$a",
        "a$",
        "$version",
        "$metadata",
        " ",
        "a b",
        "\t",
        "\u{7f}",
        "\u{80}",
        "\u{9f}",
    ] {
        refused(json!({"a": {key: 1}}), &limits(), "properties.reported.a.");
        refused(json!({"a": [{key: 1}]}), &limits(), "properties.reported.a[0].");
    }
    refused(json!({"$a": 1}), &limits(), "properties.reported.$a: a key may not hold '$'");
}

#[test]
fn values_are_of_the_documented_kinds() {
    taken(json!({"a": "s".repeat(4_096)}), &limits());
    refused(json!({"a": "s".repeat(4_097)}), &limits(), "properties.reported.a: a string has");
    taken(json!({"a": "ä".repeat(2_048)}), &limits());
    refused(json!({"a": ["ä".repeat(2_049)]}), &limits(), "properties.reported.a[0]: a string");
    taken(json!({"a": "s".repeat(512)}), &of_2017());
    refused(json!({"a": "s".repeat(513)}), &of_2017(), "properties.reported.a: a string has");
    taken(json!({"a": "\u{1}\n\u{9f}", "b": [], "c": [[1, "x", {"d": false}]]}), &limits());
    refused(json!({"a": []}), &of_2017(), "properties.reported.a: arrays are not supported");
    refused(json!({"a": [1, null]}), &limits(), "properties.reported.a[1]: null stands");
    refused(json!({"a": [{"b": null}]}), &limits(), "properties.reported.a[0].b: null stands");
    assert_eq!(reported(&json!({"a": null, "b": {"c": null}}), &limits()), Ok(json!({"b": {}})));
}

#[test]
fn each_part_names_itself() {
    for (tags, desired, want) in [
        (Some("{\"a\":{\"$b\":1}}"), None, "tags.a.$b: "),
        (None, Some("{\"a\":{\"$b\":1}}"), "properties.desired.a.$b: "),
        (Some("[]"), Some("[]"), "tags: must be"),
        (Some("{}"), Some("{"), "properties.desired: not JSON"),
    ] {
        let [tags, desired] = [tags, desired].map(|text| text.map(str::as_bytes));
        let error = Update::read(None, false, tags, desired, &limits()).expect_err("refused");
        assert_eq!(error.code, ErrorCode::ArgumentInvalid);
        assert!(error.message.starts_with(want), "{error}");
    }
}

#[test]
fn sizes_are_counted_as_iot_hub_does() {
    for (value, want) in [
        (json!({}), 0),
        (json!({"a": null}), 1),
        (json!({"ab": 1}), 10),
        (json!({"ab": 1.5e300}), 10),
        (json!({"ab": true}), 6),
        (json!({"ä": "ö\n\u{9f}x"}), 5),
        (json!({"a": {"b": [1, "xy", [false]]}}), 16),
    ] {
        assert_eq!(size(&object(value.clone())), want, "{value}");
    }
}

/// A document of so many bytes, in strings of a thousand.
fn of_size(bytes: usize) -> Value {
    let keys = (0..).map(|n| format!("{n:03}"));
    let mut left = bytes;
    let mut all = Object::new();
    for key in keys {
        let value = left.min(1_003).saturating_sub(3);
        all.insert(key, "s".repeat(value).into());
        left = left.saturating_sub(value + 3);
        if left == 0 {
            break;
        }
    }
    assert_eq!(size(&all), bytes);
    Value::Object(all)
}

#[test]
fn a_part_grows_to_its_limit_and_no_further() {
    for (most, limits) in [(32_768, limits()), (8_192, of_2017())] {
        let limits = Limits { string_bytes: 1_000, ..limits };
        taken(of_size(most), &limits);
        refused(of_size(most + 1), &limits, "properties.reported: it would have ");
        let mut twin = Twin::new(NOW);
        let update = |tags: Option<usize>, desired: Option<usize>| {
            let text = |size: Option<usize>| size.map(|size| of_size(size).to_string());
            let (tags, desired) = (text(tags), text(desired));
            let [tags, desired] = [&tags, &desired].map(|text| text.as_deref().map(str::as_bytes));
            Update::read(None, false, tags, desired, &limits).expect("sound")
        };
        twin.update(&update(Some(8_192), Some(most)), NOW, &limits).expect("just fits");
        for (update, want) in [
            (update(Some(8_193), Some(1_000)), "tags: it would have 8193 bytes, of at most 8192"),
            (update(Some(1_000), Some(most + 1)), "properties.desired: it would have "),
        ] {
            let before = twin.clone();
            let error = twin.update(&update, NOW, &limits).expect_err("refused");
            assert!(error.message.starts_with(want), "{error}");
            assert_eq!(twin, before, "neither part is changed");
        }
    }
}

#[test]
fn what_is_too_large_by_now_may_shrink() {
    let mut twin = Twin::new(NOW);
    let change = |patch| update(false, None, Some(patch));
    twin.update(&change(json!({"a": "12345", "b": "12345"})), NOW, &limits()).expect("sound");
    let small = Limits { desired_bytes: 4, ..limits() };
    twin.update(&change(json!({"c": 1})), NOW, &small).expect_err("it would grow");
    twin.update(&change(json!({"a": "1234"})), NOW, &small).expect("it shrinks");
    twin.update(&change(json!({"b": "54321"})), NOW, &small).expect("it stays as large");
}
