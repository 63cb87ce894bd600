//! Who talks to the hub: a device, or a module of a device.

use std::fmt;
use std::sync::Arc;

use crate::error::{ErrorCode, HubError};
use crate::limits;

/// A device (`d`) or one of its modules (`d/m`), in the form MQTT uses as ClientId.
///
/// Ids are compared ordinally. `/` is not in their alphabet, so the joined form is unambiguous.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(Arc<str>);

impl Identity {
    pub fn device(device: &str) -> Result<Self, HubError> {
        check("device id", device)?;
        Ok(Self(device.into()))
    }

    pub fn module(device: &str, module: &str) -> Result<Self, HubError> {
        check("device id", device)?;
        check("module id", module)?;
        Ok(Self(format!("{device}/{module}").into()))
    }

    /// Reads `d` or `d/m`.
    pub fn parse(joined: &str) -> Result<Self, HubError> {
        match joined.split_once('/') {
            None => Self::device(joined),
            Some((device, module)) => Self::module(device, module),
        }
    }

    pub fn device_id(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(device, _)| device)
    }

    pub fn module_id(&self) -> Option<&str> {
        self.0.split_once('/').map(|(_, module)| module)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.0)
    }
}

/// The SDKs' alphabet for device and module ids; wider than the documentation's by `:` and `;`.
pub fn is_id_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-:.+%_#*?!(),=@;$'".contains(c)
}

fn check(what: &str, id: &str) -> Result<(), HubError> {
    if id.is_empty() || id.len() > limits::ID_CHARS {
        return Err(HubError::new(
            ErrorCode::ArgumentInvalid,
            format!("a {what} has 1 to {} characters", limits::ID_CHARS),
        ));
    }
    match id.chars().find(|c| !is_id_char(*c)) {
        Some(c) => Err(HubError::new(
            ErrorCode::ArgumentInvalid,
            format!(
                "a {what} may hold ASCII letters, digits and - : . + % _ # * ? ! ( ) , = @ ; $ ', not {c:?}"
            ),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_follow_the_sdk_alphabet() {
        #[track_caller]
        fn check(joined: &str, want: Option<(&str, Option<&str>)>) {
            let got = Identity::parse(joined).ok();
            let got = got.as_ref().map(|id| (id.device_id(), id.module_id()));
            assert_eq!(got, want, "{joined:?}");
        }
        check("d", Some(("d", None)));
        check("d/m", Some(("d", Some("m"))));
        check("A-z:0.+%_#*?!(),=@;$'", Some(("A-z:0.+%_#*?!(),=@;$'", None)));
        check(&"x".repeat(128), Some((&"x".repeat(128), None)));
        for bad in ["", "/", "d/", "/m", "d/m/x", "a b", "ä", "a\0", &"x".repeat(129)] {
            check(bad, None);
        }
    }

    const ID: &str = "[A-Za-z0-9:.+%_#*?!(),=@;$'-]{1,128}";

    proptest! {
        #[test]
        fn what_is_written_reads_back(device in ID, module in proptest::option::of(ID)) {
            let id = match &module {
                None => Identity::device(&device),
                Some(module) => Identity::module(&device, module),
            };
            let id = id.expect("valid ids");
            prop_assert_eq!(id.device_id(), &device);
            prop_assert_eq!(id.module_id(), module.as_deref());
            prop_assert_eq!(Identity::parse(&id.to_string()), Ok(id));
        }

        #[test]
        fn any_text_is_an_id_or_refused(text in ".{0,20}") {
            if let Ok(id) = Identity::parse(&text) {
                prop_assert_eq!(id.as_str(), &text);
                prop_assert!(text.chars().all(|c| is_id_char(c) || c == '/'));
            }
        }
    }
}
