//! The URL of a server, in libpq's form: `postgres://user:password@host:port/database?sslmode=…`.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// What a URL says.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) config: Config,
    pub(super) tls: Tls,
    /// Host, port and database, for people: nothing of it is secret.
    pub(super) place: String,
}

/// Whom a connection trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tls {
    /// Whoever answers, encrypted or not: `sslmode=disable`, `prefer` (as libpq, without a mode),
    /// `require`.
    Anyone,
    /// Who has a certificate for the host's name from one of these CAs: `sslmode=verify-full`.
    Verified(PathBuf),
}

impl Target {
    /// The error says what is wrong with the URL, and nothing that stands in it: a mistake may put
    /// a part of the password anywhere.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err("it must begin with postgres://".to_owned());
        }
        let (server, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut mode, mut authorities, mut others) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = || percent_decode_str(value).decode_utf8_lossy().into_owned();
            match name {
                "sslmode" => mode = Some(value()),
                "sslrootcert" => authorities = Some(PathBuf::from(value())),
                _ => others.push(pair),
            }
        }
        let (tls, mode) = match (mode.as_deref(), authorities) {
            (Some("verify-full"), Some(file)) => (Tls::Verified(file), SslMode::Require),
            (Some("verify-full"), None) => {
                return Err("sslmode=verify-full needs sslrootcert=FILE, CAs as PEM".to_owned());
            }
            (_, Some(_)) => return Err("sslrootcert needs sslmode=verify-full".to_owned()),
            (Some("disable"), None) => (Tls::Anyone, SslMode::Disable),
            (Some("prefer") | None, None) => (Tls::Anyone, SslMode::Prefer),
            (Some("require"), None) => (Tls::Anyone, SslMode::Require),
            (Some(_), None) => {
                return Err("sslmode is disable, prefer, require or verify-full".to_owned());
            }
        };
        let rest = [server, &others.join("&")].join("?");
        // The parser's own words name an option at most.
        let mut config: Config = rest
            .parse()
            .map_err(|_| "host, port, database or an option is malformed".to_owned())?;
        config.ssl_mode(mode);
        let place = place(&config)?;
        Ok(Self { config, tls, place })
    }
}

fn place(config: &Config) -> Result<String, String> {
    let mut places = Vec::new();
    for (at, host) in config.get_hosts().iter().enumerate() {
        let host = match host {
            Host::Tcp(host) => host.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        // What follows an @ that belongs to the password is taken for the host.
        if host.contains('@') {
            return Err("an @ in the password is written %40".to_owned());
        }
        let ports = config.get_ports();
        let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        places.push(format!("{host}:{port}"));
    }
    if places.is_empty() {
        return Err("it names no host".to_owned());
    }
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    Ok(format!("{}/{database}", places.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_whom_to_trust() {
        #[track_caller]
        fn check(url: &str, place: &str, mode: SslMode, tls: Tls) {
            let target = Target::parse(url).expect(url);
            assert_eq!((&*target.place, target.tls), (place, tls), "{url}");
            assert_eq!(target.config.get_ssl_mode(), mode, "{url}");
        }
        let ca = || Tls::Verified("/etc/a b.pem".into());
        check("postgres://me:pw@h/db", "h:5432/db", SslMode::Prefer, Tls::Anyone);
        check("postgresql://me@h:7/", "h:7/me", SslMode::Prefer, Tls::Anyone);
        check(
            "postgres://h,i:7/db?sslmode=disable",
            "h:5432,i:7/db",
            SslMode::Disable,
            Tls::Anyone,
        );
        check("postgres://h/db?sslmode=require", "h:5432/db", SslMode::Require, Tls::Anyone);
        check(
            "postgres://h/db?sslrootcert=/etc/a%20b.pem&application_name=x&sslmode=verify-full",
            "h:5432/db",
            SslMode::Require,
            ca(),
        );
        let target = Target::parse("postgres://me:p%40w@h/db?application_name=x").expect("sound");
        assert_eq!(target.config.get_password(), Some(&b"p@w"[..]));
        assert_eq!(target.config.get_application_name(), Some("x"));
    }

    #[test]
    fn what_is_wrong_is_said_without_what_stands_there() {
        for (url, why) in [
            ("mysql://h/db", "postgres://"),
            ("postgres://", "no host"),
            ("postgres:///db", "no host"),
            ("postgres://me:secret@h:secret/db", "malformed"),
            ("postgres://me:s@secret@h/db", "%40"),
            ("postgres://h/db?secret=secret", "malformed"),
            ("postgres://h/db?sslmode=secret", "verify-full"),
            ("postgres://h/db?sslmode=verify-full", "sslrootcert=FILE"),
            ("postgres://h/db?sslmode=require&sslrootcert=secret", "sslmode=verify-full"),
            ("postgres://h/db?sslrootcert=secret", "sslmode=verify-full"),
        ] {
            let error = Target::parse(url).err().expect(url);
            assert!(error.contains(why) && !error.contains("secret"), "{url}: {error}");
        }
    }
}
