//! Random updates against the plainest model there is.

use proptest::prelude::*;

use super::*;

/// The algorithm of RFC 7386, as it stands there.
fn merge_patch(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = match target {
        Value::Object(target) => target,
        _ => Object::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            let old = target.remove(key).unwrap_or_default();
            target.insert(key.clone(), merge_patch(old, value));
        }
    }
    Value::Object(target)
}

/// What is there at every level: properties without their values.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            members.iter().map(|(key, value)| (key.clone(), shape(value))).collect()
        }
        _ => json!({}),
    }
}

/// Takes the stamps out of metadata, and looks at each of them.
fn shape_of_metadata(node: &mut Value, version: Option<u64>) -> Value {
    let node = node.as_object_mut().expect("an object");
    assert!(node.remove("$lastUpdated").is_some_and(|time| time.is_string()));
    let updated = node.remove("$lastUpdatedVersion");
    assert_eq!(updated.is_some(), version.is_some());
    assert!(updated.and_then(|updated| updated.as_u64()) <= version, "not above the section's");
    let below =
        |(key, value): (&String, &mut Value)| (key.clone(), shape_of_metadata(value, version));
    node.iter_mut().map(below).collect()
}

fn patches() -> impl Strategy<Value = Value> {
    let plain = prop_oneof![
        (-2i64..3).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(json!("text")),
        Just(json!(1.5)),
        prop::collection::vec(0..2i64, 0..3).prop_map(Value::from),
        Just(json!([{"a": [1]}])),
    ];
    let value = prop_oneof![2 => plain, 1 => Just(Value::Null)];
    let members = |value: BoxedStrategy<Value>| {
        prop::collection::btree_map("[abc]", value, 0..4)
            .prop_map(|members| Value::Object(members.into_iter().collect()))
    };
    let nested = value.prop_recursive(3, 12, 4, move |inner| members(inner.boxed()).boxed());
    members(nested.boxed())
}

#[derive(Clone, Debug)]
enum Step {
    Patch(Option<Value>, Option<Value>),
    Replace(Option<Value>, Option<Value>),
    Report(Value),
    Stale(Value),
}

fn steps() -> impl Strategy<Value = Step> {
    let two = || (prop::option::of(patches()), prop::option::of(patches()));
    prop_oneof![
        3 => two().prop_map(|(tags, desired)| Step::Patch(tags, desired)),
        1 => two().prop_map(|(tags, desired)| Step::Replace(tags, desired)),
        2 => patches().prop_map(Step::Report),
        1 => patches().prop_map(Step::Stale),
    ]
}

proptest! {
    #[test]
    fn updates_do_what_rfc_7386_says(steps in prop::collection::vec(steps(), 0..12)) {
        let mut twin = Twin::new(NOW);
        let [mut tags, mut desired, mut reported, mut device] = [(); 4].map(|()| json!({}));
        for step in steps {
            let [etag, version, desired_version, reported_version] = versions(&twin);
            let empty = |patch: &Option<Value>| patch.as_ref().is_none_or(|patch| patch == &json!({}));
            let grown = |by: bool| u64::from(by);
            let mut told = None;
            let want = match &step {
                Step::Patch(tag, wanted) => {
                    let update = update(false, tag.clone(), wanted.clone());
                    told = twin.update(&update, NOW, &limits()).expect("sound");
                    tags = merge_patch(tags, tag.as_ref().unwrap_or(&json!({})));
                    desired = merge_patch(desired, wanted.as_ref().unwrap_or(&json!({})));
                    let (any, wanted) = (!empty(tag) || !empty(wanted), !empty(wanted));
                    [grown(any), grown(any), grown(wanted), 0]
                }
                Step::Replace(tag, wanted) => {
                    let update = update(true, tag.clone(), wanted.clone());
                    told = twin.update(&update, NOW, &limits()).expect("sound");
                    tags = merge_patch(json!({}), tag.as_ref().unwrap_or(&json!({})));
                    desired = merge_patch(json!({}), wanted.as_ref().unwrap_or(&json!({})));
                    [1, 1, 1, 0]
                }
                Step::Report(patch) => {
                    let report = report(patch, Some(twin.reported.version));
                    let changed = twin.report(&report, NOW, &limits()).expect("sound");
                    reported = merge_patch(reported, patch);
                    prop_assert_eq!(changed, patch != &json!({}));
                    [0, grown(changed), 0, grown(changed)]
                }
                Step::Stale(patch) => {
                    let stale = report(patch, Some(twin.reported.version + 1));
                    twin.report(&stale, NOW, &limits()).expect_err("refused");
                    [0; 4]
                }
            };
            let old = [etag, version, desired_version, reported_version];
            prop_assert_eq!(versions(&twin), std::array::from_fn(|n| old[n] + want[n]), "{:?}", step);
            prop_assert_eq!(told.is_some(), want[2] == 1, "{:?}", step);
            if let Some(mut told) = told {
                prop_assert_eq!(told.remove("$version"), Some(json!(twin.desired.version)));
                device = merge_patch(device, &Value::Object(told));
            }
            prop_assert_eq!(&Value::Object(twin.tags.clone()), &tags, "{:?}", step);
            prop_assert_eq!(&device, &desired, "{:?}", step);
            for (section, want, version) in [
                (&twin.desired, &desired, Some(twin.desired.version)),
                (&twin.reported, &reported, None),
            ] {
                prop_assert_eq!(&Value::Object(section.properties.clone()), want, "{:?}", step);
                let mut metadata = Value::Object(section.metadata.clone());
                prop_assert_eq!(shape_of_metadata(&mut metadata, version), shape(want), "{:?}", step);
            }
        }
    }
}
