//! HOT PATH: the property bag of a telemetry topic, `k1=v1&k2=v2`, percent-encoded.
//!
//! A key that begins with `$.` is a system property, every other one an application property, but
//! for two unprefixed words. Raw text is taken as it stands: the C SDK does not encode by default.

use dunlin_model::event::{SYSTEM_PREFIX, header};
use dunlin_storage::event_log::Header;
use percent_encoding::percent_decode_str;

/// A bag being read; kept by the worker and used again for the next message.
#[derive(Debug, Default)]
pub struct Bag {
    /// Decoded names and values, one behind the other.
    text: String,
    items: Vec<Item>,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    name: Name,
    /// End of the value in `text`; `None`: a name without `=`.
    value: Option<(u32, u32)>,
}

#[derive(Clone, Copy, Debug)]
enum Name {
    System(&'static str),
    Application(u32, u32),
}

/// Wire keys of system properties a device may set, and the header each becomes.
const SYSTEM: &[(&str, &str)] = &[
    ("$.mid", header::MESSAGE_ID),
    ("$.cid", header::CORRELATION_ID),
    ("$.uid", header::USER_ID),
    ("$.to", header::TO),
    ("$.exp", header::ABSOLUTE_EXPIRY_TIME),
    ("$.ct", header::CONTENT_TYPE),
    ("$.ce", header::CONTENT_ENCODING),
    ("$.ctime", header::CREATION_TIME),
    ("$.ifid", header::INTERFACE_ID),
    ("$.sub", header::SUBJECT),
    ("$.on", header::OUTPUT_NAME),
    ("$.schema", header::MESSAGE_SCHEMA),
    ("$.diagid", header::DIAGNOSTIC_ID),
    ("$.diagctx", header::CORRELATION_CONTEXT),
    ("iothub-ack", header::ACK),
    ("iothub-operation", header::OPERATION),
];

impl Bag {
    /// Reads what follows `…/messages/events/`, dropping what was read before.
    ///
    /// Unknown `$.` keys are dropped, as are the hub's own (`$.cdid`, `$.cmid`): it stamps these.
    /// Of a system property that is given twice the first counts.
    pub fn read(&mut self, bag: &str) {
        self.text.clear();
        self.items.clear();
        // By place in `SYSTEM`: looking through the items would let a long bag cost its square.
        let mut seen = [false; SYSTEM.len()];
        let bag = bag.strip_prefix('?').unwrap_or(bag).trim_end_matches('/');
        for pair in bag.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = match pair.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (pair, None),
            };
            let (start, end) = self.decode(name);
            let name = self.text.get(start as usize..end as usize).unwrap_or_default();
            let known = SYSTEM.iter().zip(&mut seen).find(|((wire, _), _)| *wire == name);
            let name = match known {
                Some((_, seen)) if *seen => continue,
                Some(((_, header), seen)) => {
                    *seen = true;
                    Name::System(header)
                }
                None if name.starts_with(SYSTEM_PREFIX) => continue,
                None => Name::Application(start, end),
            };
            let value = value.map(|value| self.decode(value));
            self.items.push(Item { name, value });
        }
    }

    /// The properties as headers of a record.
    pub fn headers(&self) -> impl Iterator<Item = Header<'_>> {
        self.items.iter().map(|item| Header {
            name: match item.name {
                Name::System(header) => header,
                Name::Application(start, end) => self.slice((start, end)),
            },
            value: item.value.map(|range| self.slice(range)),
        })
    }

    /// What the properties count against the message size limit: values of system properties,
    /// names and values of application properties, in bytes.
    pub fn size(&self) -> usize {
        self.headers()
            .map(|header| {
                let name =
                    if header.name.starts_with(SYSTEM_PREFIX) { 0 } else { header.name.len() };
                name + header.value.map_or(0, str::len)
            })
            .sum()
    }

    fn slice(&self, (start, end): (u32, u32)) -> &str {
        self.text.get(start as usize..end as usize).unwrap_or_default()
    }

    /// Appends `encoded`, decoded, to `text`. What does not decode to UTF-8 stays as it is.
    fn decode(&mut self, encoded: &str) -> (u32, u32) {
        let start = self.text.len();
        if encoded.contains('%') {
            match percent_decode_str(encoded).decode_utf8() {
                Ok(decoded) => self.text.push_str(&decoded),
                Err(_) => self.text.push_str(encoded),
            }
        } else {
            self.text.push_str(encoded);
        }
        // A topic is at most 65,535 bytes, and so is what it decodes to.
        (u32::try_from(start).unwrap_or(0), u32::try_from(self.text.len()).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Vec<(String, Option<String>)> {
        let mut bag = Bag::default();
        bag.read("left=over");
        bag.read(text);
        bag.headers().map(|h| (h.name.to_owned(), h.value.map(str::to_owned))).collect()
    }

    #[test]
    fn every_sdks_bag_is_understood() {
        #[track_caller]
        fn check(text: &str, want: &[(&str, Option<&str>)]) {
            let got = read(text);
            let got: Vec<_> = got.iter().map(|(n, v)| (n.as_str(), v.as_deref())).collect();
            assert_eq!(got, want, "{text:?}");
        }
        check("", &[]);
        check("/", &[]);
        check("?", &[]);
        check("a=b", &[("a", Some("b"))]);
        check("?a=b/", &[("a", Some("b"))]);
        check("a=b&a=c", &[("a", Some("b")), ("a", Some("c"))]);
        check("a", &[("a", None)]);
        check("a=", &[("a", Some(""))]);
        check("a=b=c", &[("a", Some("b=c"))]);
        check("&&a=b&&", &[("a", Some("b"))]);
        check("a%20b=c%2Fd&e=f+g", &[("a b", Some("c/d")), ("e", Some("f+g"))]);
        check("a=100%", &[("a", Some("100%"))]);
        check("a=%ff", &[("a", Some("%ff"))]);
        check("%24.mid=1", &[(header::MESSAGE_ID, Some("1"))]);
        check("$.mid=1&$.mid=2", &[(header::MESSAGE_ID, Some("1"))]);
        check(
            "$.ct=application%2Fjson&$.ce=utf-8&p=q",
            &[
                (header::CONTENT_TYPE, Some("application/json")),
                (header::CONTENT_ENCODING, Some("utf-8")),
                ("p", Some("q")),
            ],
        );
        check("iothub-ack=full", &[(header::ACK, Some("full"))]);
        check("$.cdid=other&$.unknown=x&%24.iothub-connection-device-id=other", &[]);
        check("mid=1", &[("mid", Some("1"))]);
    }

    #[test]
    fn size_counts_names_of_application_properties_only() {
        let mut bag = Bag::default();
        bag.read("$.mid=12345&name=value&none");
        assert_eq!(bag.size(), 5 + 9 + 4);
    }

    proptest! {
        #[test]
        fn what_an_sdk_encodes_comes_back(
            pairs in proptest::collection::vec(("[^$]{1,10}", ".{0,10}"), 0..6),
        ) {
            let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let wire: Vec<_> =
                pairs.iter().map(|(n, v)| format!("{}={}", encode(n), encode(v))).collect();
            let want: Vec<_> = pairs
                .iter()
                .filter(|(n, _)| SYSTEM.iter().all(|(wire, _)| wire != n))
                .map(|(n, v)| (n.clone(), Some(v.clone())))
                .collect();
            prop_assert_eq!(read(&format!("{}/", wire.join("&"))), want);
        }

        #[test]
        fn no_text_panics(text in ".{0,100}") {
            let _ = read(&text);
        }
    }
}
