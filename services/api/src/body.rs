//! Request bodies: JSON objects that are objects all the way down.

use serde::Deserialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::{Error, Value};

/// Members that are objects wherever they stand.
const OBJECTS: [&str; 4] = ["authentication", "symmetricKey", "x509Thumbprint", "capabilities"];

/// A member that is a list of objects.
const LIST: &str = "devices";

/// Reads an object. serde would take an array as well, its elements for the fields in the order
/// of their declaration: nobody means that.
pub(crate) fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    check(&serde_json::from_slice(body)?)?;
    // Read a second time, because a `Value` keeps one of two equal names where a type refuses both.
    serde_json::from_slice(body)
}

/// Reads an array of objects.
pub(crate) fn objects<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, Error> {
    let rows: Vec<Value> = serde_json::from_slice(body)?;
    rows.iter().try_for_each(check)?;
    serde_json::from_slice(body)
}

/// Reads an object of which some members stay as they were written (`&RawValue`).
pub(crate) fn members<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Error> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::custom("expected an object"));
    }
    // Of what it skips, serde would not look whether it is UTF-8.
    serde_json::from_str(str::from_utf8(body).map_err(Error::custom)?)
}

fn check(value: &Value) -> Result<(), Error> {
    let Value::Object(members) = value else { return Err(Error::custom("expected an object")) };
    for (name, member) in members {
        if name == LIST && member.as_array().into_iter().flatten().any(|one| !one.is_object()) {
            return Err(Error::custom(format!("{name} is a list of objects")));
        }
        if OBJECTS.contains(&name.as_str()) && !member.is_null() {
            check(member).map_err(|_| Error::custom(format!("{name} is an object")))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Device {
        status: Option<String>,
        authentication: Option<Authentication>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Authentication {
        r#type: Option<String>,
    }

    #[test]
    fn an_array_is_no_object_at_any_depth() {
        for (body, good) in [
            (r#"{"status":"enabled"}"#, true),
            (r#"{"authentication":{"type":"sas"}}"#, true),
            (r#"{"authentication":null,"unknown":[1]}"#, true),
            (r#"["enabled",null]"#, false),
            ("[]", false),
            ("null", false),
            (r#"{"authentication":["sas"]}"#, false),
            (r#"{"authentication":{"symmetricKey":["a","b"]}}"#, false),
            (r#"{"status":"a","status":"b"}"#, false),
        ] {
            assert_eq!(object::<Device>(body.as_bytes()).is_ok(), good, "{body}");
            let rows = format!("[{body}]");
            assert_eq!(objects::<Device>(rows.as_bytes()).is_ok(), good, "{rows}");
        }
        assert!(objects::<Device>(b"{}").is_err());
    }
}
