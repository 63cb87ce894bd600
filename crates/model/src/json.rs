//! The one reader of twin documents: stricter than JSON asks for, so that a document means the same
//! to every store and every evaluator, and a refusal names the place.
//!
//! serde_json finds where values begin and end, without recursion; each is then read from its own
//! text, because the text of a number is all that tells an integer from a double.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Number, Value};

use crate::error::{ErrorCode, HubError};

#[cfg(test)]
mod tests;

/// Ordered by key, bytewise.
pub type Object = serde_json::Map<String, Value>;

/// The integers of IoT Hub: every one of them is a double too.
pub const INTEGERS: std::ops::RangeInclusive<i64> = -4_503_599_627_370_496..=4_503_599_627_370_495;

/// Characters of a key, and of a path, that an error repeats: it travels in a header.
const KEY_SHOWN: usize = 64;
const PATH_SHOWN: usize = 1_024;

/// Where in a document something stands, as `properties.reported.a[2].b`.
#[derive(Clone, Copy)]
pub enum Path<'a> {
    Root(&'a str),
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    /// The refusal of what stands here.
    pub fn refuse(&self, why: impl fmt::Display) -> HubError {
        let mut path = self.to_string();
        if let Some((end, _)) = path.char_indices().nth(PATH_SHOWN) {
            path.truncate(end);
            path.push('…');
        }
        HubError::new(ErrorCode::ArgumentInvalid, format!("{path}: {why}"))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(name) => f.write_str(name),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Key(parent, key) => {
                let mut chars = key.chars();
                let shown: String = chars.by_ref().take(KEY_SHOWN).collect();
                let cut = if chars.next().is_some() { "…" } else { "" };
                write!(f, "{parent}.{}{cut}", shown.escape_debug())
            }
        }
    }
}

/// Reads an object that nests at most `depth` objects and arrays below itself. Its members named
/// in `ignored` are left out, whatever they hold.
pub fn object(
    text: &[u8],
    path: &Path<'_>,
    depth: usize,
    ignored: &[&str],
) -> Result<Object, HubError> {
    let text = std::str::from_utf8(text).map_err(|error| path.refuse(error))?;
    // Checks the syntax from beginning to end.
    let raw: &RawValue =
        serde_json::from_str(text).map_err(|error| path.refuse(format!("not JSON: {error}")))?;
    if !raw.get().starts_with('{') {
        return Err(path.refuse("must be a JSON object"));
    }
    members(raw, path, depth, ignored)
}

/// Reads back what a store was given. JSONB writes a double of 1e16 or more with every digit, as an
/// integer; but no integer beyond the range is ever stored, so such a one was a double.
pub fn stored(text: &str) -> Result<Object, serde_json::Error> {
    let mut object: Object = serde_json::from_str(text)?;
    object.values_mut().for_each(restore_doubles);
    Ok(object)
}

fn restore_doubles(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let in_range = number.as_i64().is_some_and(|integer| INTEGERS.contains(&integer));
            let double = number.as_f64().filter(|_| !in_range).and_then(Number::from_f64);
            if let Some(double) = double {
                *number = double;
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(restore_doubles),
        Value::Object(object) => object.values_mut().for_each(restore_doubles),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

fn members(
    raw: &RawValue,
    path: &Path<'_>,
    depth: usize,
    ignored: &[&str],
) -> Result<Object, HubError> {
    let Members(members) = serde_json::from_str(raw.get())
        .map_err(|_| path.refuse("a key is not Unicode (half a surrogate pair)"))?;
    let mut object = Object::new();
    for (key, raw) in members {
        if ignored.contains(&key.as_str()) {
            continue;
        }
        let path = Path::Key(path, &key);
        if object.contains_key(&key) {
            return Err(path.refuse("the key stands there twice"));
        }
        if key.contains('\0') {
            return Err(path.refuse("a key may not hold U+0000"));
        }
        let value = value(raw, &path, depth)?;
        object.insert(key, value);
    }
    Ok(object)
}

fn value(raw: &RawValue, path: &Path<'_>, depth: usize) -> Result<Value, HubError> {
    let text = raw.get();
    let below = || depth.checked_sub(1).ok_or_else(|| path.refuse("objects are nested too deep"));
    let not_json = |error| path.refuse(format!("not JSON: {error}"));
    match text.as_bytes().first() {
        Some(b'{') => members(raw, path, below()?, &[]).map(Value::Object),
        Some(b'[') => {
            let below = below()?;
            let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(not_json)?;
            let elements = elements.into_iter().enumerate();
            elements.map(|(index, raw)| value(raw, &Path::Index(path, index), below)).collect()
        }
        Some(b'"') => {
            let text: String = serde_json::from_str(text)
                .map_err(|_| path.refuse("a string is not Unicode (half a surrogate pair)"))?;
            match text.contains('\0') {
                true => Err(path.refuse("a string may not hold U+0000")),
                false => Ok(Value::String(text)),
            }
        }
        Some(b'-' | b'0'..=b'9') => number(text, path).map(Value::Number),
        _ => serde_json::from_str(text).map_err(not_json),
    }
}

/// What is written like an integer is one, however long; everything else is a double.
fn number(text: &str, path: &Path<'_>) -> Result<Number, HubError> {
    if !text.contains(['.', 'e', 'E']) {
        let integer = text.parse().ok().filter(|integer| INTEGERS.contains(integer));
        return integer.map(Number::from).ok_or_else(|| {
            let (least, most) = INTEGERS.into_inner();
            path.refuse(format!("an integer is from {least} to {most}"))
        });
    }
    let double: f64 = text.parse().map_err(|error| path.refuse(error))?;
    // Adding makes 0.0 of -0.0, which JSONB does not know.
    Number::from_f64(double + 0.0).ok_or_else(|| path.refuse("a number is beyond a double"))
}

/// Members in the order of the text, twins among them.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}
