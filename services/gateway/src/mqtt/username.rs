//! The user name of a CONNECT: `{hub}/{d}[/{m}]/?api-version=…&DeviceClientType=…&model-id=…`, and
//! all the forms in which SDKs and documentation have written it.

use dunlin_model::{ErrorCode, HubError, Identity};
use percent_encoding::percent_decode_str;

#[derive(Debug, PartialEq, Eq)]
pub struct Username {
    pub identity: Identity,
    /// Plug and Play model of the device, if it announces one.
    pub model_id: Option<String>,
}

/// Reads a user name; `hostnames` are the names of this hub, any of which may stand in it.
///
/// The ClientId must be `{d}` or `{d}/{m}` exactly as in the user name. The api-version gates
/// nothing: every version since 2016 has the same telemetry.
pub fn parse(username: &str, client_id: &str, hostnames: &[String]) -> Result<Username, HubError> {
    let (host, rest) = username.split_once('/').unwrap_or((username, ""));
    let bare = host.split_once(':').map_or(host, |(name, _)| name);
    if !hostnames.iter().any(|name| name.eq_ignore_ascii_case(bare)) {
        // Not which: people have put a token there, and this goes into the log.
        return Err(refused("the user name does not begin with a name of this hub"));
    }
    // Raw, not percent-decoded: an id may hold a `%`.
    let Some(tail) =
        rest.strip_prefix(client_id).filter(|tail| tail.is_empty() || tail.starts_with('/'))
    else {
        return Err(refused("the ClientId is not the device (or device/module) of the user name"));
    };
    let query = tail.trim_start_matches('/');
    let pairs: &[char] = match query.strip_prefix('?') {
        Some(_) => &['&'],
        None if query.is_empty() || query.starts_with("api-version=") => &['&', '/'],
        None => return Err(refused("the user name names a module, the ClientId does not")),
    };
    let model_id = query
        .trim_start_matches('?')
        .split(pairs)
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, _)| *name == "model-id")
        .and_then(|(_, value)| percent_decode_str(value).decode_utf8().ok())
        .filter(|model| !model.is_empty())
        .map(Into::into);
    Ok(Username { identity: Identity::parse(client_id)?, model_id })
}

fn refused(message: &'static str) -> HubError {
    HubError::new(ErrorCode::IotHubUnauthorized, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: [&str; 2] = ["hub.localhost", "localhost"];

    fn read(username: &str, client_id: &str) -> Option<(String, Option<String>)> {
        let parsed = parse(username, client_id, &HOSTS.map(str::to_owned)).ok()?;
        Some((parsed.identity.to_string(), parsed.model_id))
    }

    #[test]
    fn every_sdks_form_is_read() {
        #[track_caller]
        fn check(username: &str, client_id: &str, model: Option<&str>) {
            let want = Some((client_id.to_owned(), model.map(str::to_owned)));
            assert_eq!(read(username, client_id), want, "{username}");
        }
        check("hub.localhost/d/api-version=2016-11-14", "d", None);
        check("hub.localhost/d", "d", None);
        check("hub.localhost/d/", "d", None);
        check("localhost:8884/d/?api-version=2021-04-12", "d", None);
        check("HUB.localhost/d/?api-version=2019-10-01&DeviceClientType=azure%2F1", "d", None);
        check("localhost/d/m/?api-version=2020-09-30&DeviceClientType=x", "d/m", None);
        check(
            "localhost/d/?api-version=2021-04-12&model-id=dtmi:com:ex;1&DeviceClientType=x",
            "d",
            Some("dtmi:com:ex;1"),
        );
        check("localhost/d/?model-id=dtmi%3Acom%3Aex%3B1&model-id=no", "d", Some("dtmi:com:ex;1"));
        check("localhost/d/api-version=2017-06-30/DeviceClientType=x/y", "d", None);
        check("localhost/?x/?api-version=2021-04-12", "?x", None);
        check("localhost/a%20b/?api-version=2021-04-12", "a%20b", None);
        check("localhost/d/?api-version=2020-09-30&auth-chain=a%3Bb&unknown=1", "d", None);
    }

    #[test]
    fn everything_else_is_refused() {
        for (username, client_id) in [
            ("", "d"),
            ("localhost", "d"),
            ("other.hub/d/?api-version=2021-04-12", "d"),
            ("localhost/d/?api-version=2021-04-12", "e"),
            ("localhost/dd/?api-version=2021-04-12", "d"),
            ("localhost/D", "d"),
            ("localhost/d/m/?api-version=2021-04-12", "d"),
            ("localhost/d/?api-version=2021-04-12", "d/m"),
            ("localhost/d/m/x/?api-version=2021-04-12", "d/m"),
            ("localhost//", ""),
            ("localhost/d/m/x", "d/m/x"),
            ("localhost/a b", "a b"),
        ] {
            assert_eq!(read(username, client_id), None, "{username} as {client_id}");
        }
    }
}
