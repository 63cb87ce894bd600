//! What a merge patch does: to a document, to its metadata, and back from two documents to a patch.

use serde_json::Value;

use crate::json::Object;

/// RFC 7386: objects merge, null deletes, everything else (arrays too) takes the place.
pub(super) fn merge(target: &mut Object, patch: &Object) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(patch) => {
                let mut inner = taken(target, key);
                merge(&mut inner, patch);
                target.insert(key.clone(), Value::Object(inner));
            }
            value => {
                target.insert(key.clone(), value.clone());
            }
        }
    }
}

/// The object under a key, out of its place; an empty one if there is none.
fn taken(parent: &mut Object, key: &str) -> Object {
    match parent.remove(key) {
        Some(Value::Object(object)) => object,
        _ => Object::new(),
    }
}

/// When a part of a document changed, as `$metadata` tells it.
pub(super) struct Stamp {
    pub time: String,
    /// Of the section; desired properties only.
    pub version: Option<u64>,
}

impl Stamp {
    /// Marks what `patch` touches: each level of it, so that a deletion shows as well. No key of a
    /// document begins with `$`.
    pub(super) fn mark(&self, metadata: &mut Object, patch: &Object) {
        self.put(metadata);
        for (key, value) in patch {
            match value {
                Value::Null => {
                    metadata.remove(key);
                }
                Value::Object(patch) => {
                    let mut inner = taken(metadata, key);
                    self.mark(&mut inner, patch);
                    metadata.insert(key.clone(), Value::Object(inner));
                }
                _ => {
                    let mut leaf = Object::new();
                    self.put(&mut leaf);
                    metadata.insert(key.clone(), Value::Object(leaf));
                }
            }
        }
    }

    fn put(&self, node: &mut Object) {
        node.insert("$lastUpdated".to_owned(), self.time.clone().into());
        if let Some(version) = self.version {
            node.insert("$lastUpdatedVersion".to_owned(), version.into());
        }
    }
}

/// The smallest patch that makes `new` of `old`.
pub(super) fn difference(old: &Object, new: &Object) -> Object {
    let mut patch = Object::new();
    for (key, value) in new {
        match (old.get(key), value) {
            (Some(old), new) if old == new => {}
            (Some(Value::Object(old)), Value::Object(new)) => {
                patch.insert(key.clone(), Value::Object(difference(old, new)));
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    patch
}

/// Bytes as IoT Hub counts them.
pub(super) fn size(object: &Object) -> usize {
    object.iter().map(|(key, value)| key.len() + value_size(value)).sum()
}

fn value_size(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => text.chars().filter(|c| !c.is_control()).map(char::len_utf8).sum(),
        Value::Array(elements) => elements.iter().map(value_size).sum(),
        Value::Object(object) => size(object),
    }
}
