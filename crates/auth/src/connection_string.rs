//! Connection strings: `HostName=…;SharedAccessKeyName=…;SharedAccessKey=…` and the device forms.

use std::fmt;

use dunlin_model::Identity;

use crate::key::Key;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionStringError {
    #[error("a connection string is a list of Name=Value joined by semicolons")]
    Malformed,
    #[error("the connection string has no {0}")]
    Missing(&'static str),
    #[error("the SharedAccessKey of the connection string is not a base64 key of 16 to 64 bytes")]
    BadKey,
    #[error("the DeviceId or ModuleId of the connection string is not a valid id")]
    BadId,
}

/// Whose key a connection string carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    Policy(String),
    Identity(Identity),
}

/// A parsed connection string with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionString {
    /// As written: it may carry `:port`.
    pub host: String,
    pub signer: Signer,
    pub key: Key,
}

impl ConnectionString {
    pub fn parse(text: &str) -> Result<Self, ConnectionStringError> {
        use ConnectionStringError as E;
        let (mut host, mut policy, mut device, mut module, mut key) =
            (None, None, None, None, None);
        for part in text.trim().split(';').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or(E::Malformed)?;
            match name.to_ascii_lowercase().as_str() {
                "hostname" => host = Some(value),
                "sharedaccesskeyname" => policy = Some(value),
                "deviceid" => device = Some(value),
                "moduleid" => module = Some(value),
                "sharedaccesskey" => key = Some(value),
                _ => {}
            }
        }
        let signer = match (policy, device) {
            (_, Some(device)) => Signer::Identity(
                match module {
                    Some(module) => Identity::module(device, module),
                    None => Identity::device(device),
                }
                .map_err(|_| E::BadId)?,
            ),
            (Some(policy), None) => Signer::Policy(policy.to_owned()),
            (None, None) => return Err(E::Missing("SharedAccessKeyName or DeviceId")),
        };
        Ok(Self {
            host: host.filter(|h| !h.is_empty()).ok_or(E::Missing("HostName"))?.to_owned(),
            signer,
            key: Key::from_base64(key.ok_or(E::Missing("SharedAccessKey"))?)
                .map_err(|_| E::BadKey)?,
        })
    }

    /// The host name without a port, as SAS resources name it.
    pub fn hostname(&self) -> &str {
        self.host.split_once(':').map_or(&self.host, |(name, _)| name)
    }
}

/// The text form, key included: print it only where a person asked for it.
impl fmt::Display for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostName={};", self.host)?;
        match &self.signer {
            Signer::Policy(name) => write!(f, "SharedAccessKeyName={name};")?,
            Signer::Identity(id) => {
                write!(f, "DeviceId={};", id.device_id())?;
                if let Some(module) = id.module_id() {
                    write!(f, "ModuleId={module};")?;
                }
            }
        }
        write!(f, "SharedAccessKey={}", self.key.to_base64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    #[test]
    fn every_form_reads_back_as_written() {
        for text in [
            format!("HostName=hub.localhost;SharedAccessKeyName=iothubowner;SharedAccessKey={KEY}"),
            format!("HostName=hub:8443;DeviceId=d=1;SharedAccessKey={KEY}"),
            format!("HostName=hub;DeviceId=d;ModuleId=m;SharedAccessKey={KEY}"),
        ] {
            let parsed = ConnectionString::parse(&text).expect(&text);
            assert_eq!(parsed.to_string(), text);
            assert!(parsed.host.starts_with(parsed.hostname()));
        }
    }

    #[test]
    fn a_bad_one_says_what_is_missing() {
        use ConnectionStringError as E;
        #[track_caller]
        fn check(text: &str, want: E) {
            assert_eq!(ConnectionString::parse(text), Err(want), "{text}");
        }
        check("", E::Missing("SharedAccessKeyName or DeviceId"));
        check("nonsense", E::Malformed);
        check("HostName=h;DeviceId=d", E::Missing("SharedAccessKey"));
        check(&format!("DeviceId=d;SharedAccessKey={KEY}"), E::Missing("HostName"));
        check("HostName=h;DeviceId=d;SharedAccessKey=AA==", E::BadKey);
        check(&format!("HostName=h;DeviceId=a b;SharedAccessKey={KEY}"), E::BadId);
    }
}
