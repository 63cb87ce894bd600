//! What a Kafka URL says: where the brokers are, how to speak to them, and under which names.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use rdkafka::ClientConfig;

use super::unavailable;
use crate::StoreError;

/// How long an answer may take that somebody waits for.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

pub(super) struct Place {
    /// For messages: it has no password in it.
    pub servers: String,
    /// Of topics and groups: hubs that share a cluster have different ones.
    pub prefix: String,
    /// Replicas of each partition.
    pub replication: u32,
    /// After which a record that no broker acknowledged has failed.
    pub delivery_timeout: Duration,
    /// What every client is told.
    pub client: ClientConfig,
}

impl Place {
    /// `kafka://[USER:PASSWORD@]HOST:PORT[,HOST:PORT]`, and the options of [`Self::set`].
    pub(super) fn parse(url: &str) -> Result<Self, StoreError> {
        let rest = url
            .strip_prefix("kafka://")
            .ok_or_else(|| unavailable("the URL of an event log in Kafka begins with kafka://"))?;
        let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (login, servers) = match authority.rsplit_once('@') {
            Some((login, servers)) => (Some(login), servers),
            None => (None, authority),
        };
        let servers = servers.trim_end_matches('/');
        if servers.split(',').any(|server| server.is_empty() || !server.contains(':')) {
            return Err(unavailable("a Kafka URL names its brokers as HOST:PORT[,HOST:PORT]"));
        }
        let mut place = Self {
            servers: servers.to_owned(),
            prefix: "dunlin".to_owned(),
            replication: 1,
            delivery_timeout: Duration::from_secs(30),
            client: ClientConfig::new(),
        };
        let mut security = Security::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            place.set(&mut security, name, value)?;
        }
        place
            .client
            .set("bootstrap.servers", servers)
            .set("client.id", "dunlin")
            .set("socket.keepalive.enable", "true")
            .set("socket.timeout.ms", "10000")
            // A broker that is back is found within a second.
            .set("reconnect.backoff.max.ms", "1000")
            .set("log.connection.close", "false");
        security.apply(login, &mut place.client)?;
        Ok(place)
    }

    fn set(&mut self, security: &mut Security, name: &str, value: &str) -> Result<(), StoreError> {
        let bad = || unavailable(format!("{value:?} is not what {name} of a Kafka URL may be"));
        match name {
            "prefix" => {
                let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                if value.is_empty() || value.len() > 100 || !value.chars().all(legal) {
                    return Err(bad());
                }
                self.prefix = value.to_owned();
            }
            "replication" => {
                let replication = value.parse().ok().filter(|n| (1..=100).contains(n));
                self.replication = replication.ok_or_else(bad)?;
            }
            "delivery_timeout" => {
                let seconds = value.parse().ok().filter(|n| (1..=3_600).contains(n));
                self.delivery_timeout = Duration::from_secs(seconds.ok_or_else(bad)?);
            }
            "tls" => security.tls = value.parse().map_err(|_| bad())?,
            "sslrootcert" => security.ca = Some(value.to_owned()),
            "sasl" => match value {
                "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512" => security.sasl = value.to_owned(),
                _ => return Err(bad()),
            },
            _ => {
                return Err(unavailable(format!(
                    "a Kafka URL takes prefix, replication, delivery_timeout, tls, sslrootcert and \
                     sasl, not {name:?}"
                )));
            }
        }
        Ok(())
    }

    /// What a topic, or a group's topic, is called in the cluster.
    pub(super) fn name(&self, topic: &str) -> String {
        format!("{}.{topic}", self.prefix)
    }
}

struct Security {
    tls: bool,
    /// PEM file of the CA to trust in place of the system's.
    ca: Option<String>,
    /// How a user is shown to be who he says.
    sasl: String,
}

impl Default for Security {
    fn default() -> Self {
        Self { tls: false, ca: None, sasl: "SCRAM-SHA-512".to_owned() }
    }
}

impl Security {
    fn apply(self, login: Option<&str>, client: &mut ClientConfig) -> Result<(), StoreError> {
        if let Some(login) = login {
            let (user, password) = login.split_once(':').ok_or_else(|| {
                unavailable("a Kafka URL names its user as USER:PASSWORD before the @")
            })?;
            client.set("sasl.mechanism", self.sasl);
            for (name, value) in [("sasl.username", user), ("sasl.password", password)] {
                let text = percent_decode_str(value).decode_utf8();
                let text = text.ok().filter(|text| !text.contains('\0'));
                let text = text.ok_or_else(|| {
                    unavailable("user and password of a Kafka URL must be UTF-8, without NUL")
                })?;
                client.set(name, text);
            }
        }
        if let Some(ca) = self.ca {
            client.set("ssl.ca.location", ca);
        }
        client.set(
            "security.protocol",
            match (self.tls, login) {
                (false, None) => "plaintext",
                (true, None) => "ssl",
                (false, Some(_)) => "sasl_plaintext",
                (true, Some(_)) => "sasl_ssl",
            },
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn a_url_says_where_how_and_under_which_names() {
        let url = "kafka://me:p%40ss@one:9092,two:9093?prefix=hub-a&replication=3&tls=true\
                   &sslrootcert=/ca.pem&sasl=PLAIN&delivery_timeout=7";
        let place = Place::parse(url).expect("a place");
        assert_eq!(place.servers, "one:9092,two:9093");
        assert_eq!(place.name("d2c"), "hub-a.d2c");
        assert_eq!((place.replication, place.delivery_timeout), (3, Duration::from_secs(7)));
        for (name, value) in [
            ("bootstrap.servers", "one:9092,two:9093"),
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", "/ca.pem"),
            ("sasl.mechanism", "PLAIN"),
            ("sasl.username", "me"),
            ("sasl.password", "p@ss"),
        ] {
            assert_eq!(place.client.get(name), Some(value), "{name}");
        }
        let place = Place::parse("kafka://one:9092").expect("a place");
        assert_eq!((place.name("d2c").as_str(), place.replication), ("dunlin.d2c", 1));
        assert_eq!(place.client.get("security.protocol"), Some("plaintext"));
    }

    #[test]
    fn a_wrong_url_is_refused_by_what_is_wrong_and_without_its_password() {
        for (url, names) in [
            ("postgres://me:secret@host:1", "kafka://"),
            ("kafka://me:secret@host", "HOST:PORT"),
            ("kafka://me:secret@host:1,", "HOST:PORT"),
            ("kafka://secret@host:1", "USER:PASSWORD"),
            ("kafka://me:secret%00@host:1", "without NUL"),
            ("kafka://me:secret@host:1?acks=1", "\"acks\""),
            ("kafka://me:secret@host:1?replication=0", "replication"),
            ("kafka://me:secret@host:1?prefix=a/b", "prefix"),
            ("kafka://me:secret@host:1?tls=maybe", "tls"),
            ("kafka://me:secret@host:1?sasl=GSSAPI", "sasl"),
            ("kafka://me:secret@host:1?delivery_timeout=0", "delivery_timeout"),
        ] {
            let error = Place::parse(url).err().expect("refused");
            let text = error.source().expect("a reason").to_string();
            assert!(text.contains(names), "{url}: {text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }
}
