//! A change as a client sent it: a merge patch (RFC 7386) that keeps the rules of twins.

use serde_json::Value;

use super::{Limits, Part};
use crate::error::HubError;
use crate::json::{self, Object, Path};

/// What the hub says of a section at its top level. Clients that send back what they read have it
/// in there.
const OURS: [&str; 2] = ["$version", "$metadata"];

/// Reads what a client sent for `part`.
pub(super) fn read(part: Part, text: &[u8], limits: &Limits) -> Result<Object, HubError> {
    let root = Path::Root(part.path());
    let patch = json::object(text, &root, limits.deepest(), &OURS)?;
    check_members(&patch, &root, limits, false)?;
    Ok(patch)
}

fn check_members(
    object: &Object,
    path: &Path<'_>,
    limits: &Limits,
    in_array: bool,
) -> Result<(), HubError> {
    for (key, value) in object {
        let path = Path::Key(path, key);
        if key.len() > limits.key_bytes {
            return Err(path.refuse(format!("a key has at most {} bytes", limits.key_bytes)));
        }
        if let Some(c) = key.chars().find(|c| c.is_control() || ['.', '$', ' '].contains(c)) {
            return Err(path.refuse(format!("a key may not hold {c:?}")));
        }
        check(value, &path, limits, in_array)?;
    }
    Ok(())
}

fn check(value: &Value, path: &Path<'_>, limits: &Limits, in_array: bool) -> Result<(), HubError> {
    match value {
        Value::Null if in_array => Err(path.refuse("null stands for a key to delete only")),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        Value::String(text) if text.len() > limits.string_bytes => {
            Err(path.refuse(format!("a string has at most {} bytes", limits.string_bytes)))
        }
        Value::String(_) => Ok(()),
        Value::Array(_) if !limits.arrays => Err(path.refuse("arrays are not supported")),
        Value::Array(elements) => elements
            .iter()
            .enumerate()
            .try_for_each(|(index, value)| check(value, &Path::Index(path, index), limits, true)),
        Value::Object(object) => check_members(object, path, limits, in_array),
    }
}
