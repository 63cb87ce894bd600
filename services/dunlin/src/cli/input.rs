//! What a command is given, as `az iot` takes it: JSON in the argument or in a file, and properties.

use std::path::Path;

use anyhow::Context;
use serde_json::value::RawValue;

use super::failure::Failure;
use crate::client::encoded;

/// The JSON of an argument as it was written: what it means is for the hub to judge.
pub(super) fn json(flag: &str, argument: &str) -> Result<Box<RawValue>, Failure> {
    let path = Path::new(argument);
    let (text, what) = if path.is_file() {
        let read = std::fs::read_to_string(path);
        let text = read.with_context(|| format!("{flag}: cannot read {argument}"));
        (text.map_err(|error| Failure::Usage(format!("{error:#}")))?, "the file holds no JSON")
    } else {
        (argument.to_owned(), "that is neither JSON nor the name of a file")
    };
    RawValue::from_string(text).map_err(|error| Failure::Usage(format!("{flag}: {what} ({error})")))
}

/// `k=v;k=v` as a property bag, `k=v&k=v&`, percent-encoded.
pub(super) fn properties(text: &str) -> Result<String, Failure> {
    let mut bag = String::new();
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Failure::Usage(format!("--props is a list as 'k=v;k=v', not {pair:?}")));
        };
        bag.push_str(&format!("{}={}&", encoded(name), encoded(value)));
    }
    Ok(bag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_taken_as_it_is_from_argument_or_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).expect("written");
            path.display().to_string()
        };
        let check = |argument: &str, want: Result<&str, &str>| match (json("--x", argument), want) {
            (Ok(got), Ok(want)) => assert_eq!(got.get(), want),
            (Err(Failure::Usage(got)), Err(want)) => {
                assert!(got.starts_with("--x: ") && got.contains(want), "{got}");
            }
            (got, want) => panic!("{argument}: got {got:?}, wanted {want:?}"),
        };
        check(r#" {"a":1.50,"a":1e999} "#, Ok(r#"{"a":1.50,"a":1e999}"#));
        check("null", Ok("null"));
        check(&file("good.json", b"{\"a\": 1}\n"), Ok("{\"a\": 1}"));
        check(&file("bad.json", b"{'a': 1}"), Err("the file holds no JSON"));
        check(&file("latin1.json", b"\"\xe4\""), Err("cannot read"));
        check("{'a': 1}", Err("neither JSON nor"));
        check("/no/such.json", Err("neither JSON nor"));
        check(&folder.path().display().to_string(), Err("neither JSON nor"));
        check("", Err("neither JSON nor"));
    }

    #[test]
    fn properties_are_a_bag() {
        #[track_caller]
        fn check(text: &str, want: Option<&str>) {
            assert_eq!(properties(text).ok().as_deref(), want, "{text}");
        }
        check("", Some(""));
        check("a=b;c d=e=f&", Some("a=b&c%20d=e%3Df%26&"));
        check("a=", Some("a=&"));
        check("a", None);
        check("=b", None);
    }
}
