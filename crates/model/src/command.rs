//! A C2D message ("command" on the wire), what may become of it, and the lock it is handed out
//! under.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use crate::error::{ErrorCode, HubError};
use crate::id::is_id_char;
use crate::limits;

/// What a back end sends to a device.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Command {
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub user_id: Option<String>,
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    /// Unix milliseconds from which on it is not handed out any more.
    pub expires: Option<i64>,
    pub ack: Ack,
    /// Names and values, in their order.
    pub properties: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Command {
    /// As the limit counts it: body, values of system properties, names and values of the others.
    pub fn size(&self) -> usize {
        let system = [
            &self.message_id,
            &self.correlation_id,
            &self.user_id,
            &self.content_type,
            &self.content_encoding,
        ];
        let system: usize = system.into_iter().flatten().map(String::len).sum();
        let properties: usize = self.properties.iter().map(|(k, v)| k.len() + v.len()).sum();
        self.body.len() + system + properties
    }

    /// What it takes in an answer between roles: a property has more to it than its text.
    pub fn weight(&self) -> usize {
        const PROPERTY: usize = 16;
        self.size() + PROPERTY * self.properties.len()
    }

    /// What the hub refuses whatever is queued already, as of `now` (Unix milliseconds).
    pub fn check(&self, now: i64) -> Result<(), HubError> {
        if self.size() > limits::COMMAND_BYTES {
            let why = format!(
                "it has {} bytes, properties included, of at most {}",
                self.size(),
                limits::COMMAND_BYTES
            );
            return Err(HubError::new(ErrorCode::MessageTooLarge, why));
        }
        self.check_text().map_err(|why| HubError::new(ErrorCode::ArgumentInvalid, why))?;
        let furthest = now + i64::from(*limits::COMMAND_TTL_SECONDS.end()) * 1_000;
        match self.expires {
            Some(expires) if expires <= now || expires > furthest => {
                let why = "it must expire in the future, and within two days";
                Err(HubError::new(ErrorCode::InvalidMessageExpiryTime, why))
            }
            _ => Ok(()),
        }
    }

    fn check_text(&self) -> Result<(), String> {
        for id in [&self.message_id, &self.correlation_id].into_iter().flatten() {
            if id.len() > limits::MESSAGE_ID_CHARS || !id.chars().all(is_id_char) {
                return Err(format!(
                    "message-id and correlation-id have at most {} ASCII letters, digits and \
                     - : . + % _ # * ? ! ( ) , = @ ; $ '",
                    limits::MESSAGE_ID_CHARS
                ));
            }
        }
        let mut names = HashSet::new();
        for (name, _) in &self.properties {
            if name.is_empty() {
                return Err("an application property has no name".to_owned());
            }
            if !names.insert(name) {
                return Err("an application property is there twice".to_owned());
            }
        }
        // HTTP has no way to carry them, and no head may be made to write a header of its own.
        let system = [&self.user_id, &self.content_type, &self.content_encoding];
        let properties = self.properties.iter().flat_map(|(name, value)| [name, value]);
        let mut texts = system.into_iter().flatten().chain(properties);
        match texts.any(|text| text.contains(char::is_control)) {
            true => Err("properties may not hold control characters".to_owned()),
            false => Ok(()),
        }
    }
}

/// Of which outcomes the back end wants to hear (`iothub-ack`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Ack {
    #[default]
    None,
    Positive,
    Negative,
    Full,
}

impl Ack {
    pub const ALL: [Self; 4] = [Self::None, Self::Positive, Self::Negative, Self::Full];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Positive => "positive",
            Self::Negative => "negative",
            Self::Full => "full",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ack| ack.as_str().eq_ignore_ascii_case(text))
    }

    pub fn wants(self, outcome: Outcome) -> bool {
        match self {
            Self::None => false,
            Self::Positive => outcome == Outcome::Success,
            Self::Negative => outcome != Outcome::Success,
            Self::Full => true,
        }
    }
}

/// How a C2D message ended (`statusCode` of feedback).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    Success,
    Expired,
    DeliveryCountExceeded,
    Rejected,
    Purged,
}

impl Outcome {
    pub const ALL: [Self; 5] =
        [Self::Success, Self::Expired, Self::DeliveryCountExceeded, Self::Rejected, Self::Purged];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Expired => "Expired",
            Self::DeliveryCountExceeded => "DeliveryCountExceeded",
            Self::Rejected => "Rejected",
            Self::Purged => "Purged",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }
}

/// What the holder of a lock makes of what is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    Complete,
    Abandon,
    Reject,
}

/// Proves who holds a lock. A GUID, as AMQP wants its delivery tags and SDKs their paths.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LockToken([u8; 16]);

impl LockToken {
    /// A version 4 GUID of 16 random bytes, which the caller draws.
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for LockToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for LockToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockToken({self})")
    }
}

impl FromStr for LockToken {
    type Err = HubError;

    /// Whatever is no token was never handed out: its lock is lost.
    fn from_str(text: &str) -> Result<Self, HubError> {
        let lost = || HubError::new(ErrorCode::DeviceMessageLockLost, "there is no such lock");
        let dashes = text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| {
                matches!(at, 8 | 13 | 18 | 23) == (byte == b'-')
                    && (byte == b'-' || byte.is_ascii_hexdigit())
            });
        if !dashes {
            return Err(lost());
        }
        let number = u128::from_str_radix(&text.replace('-', ""), 16).map_err(|_| lost())?;
        Ok(Self(number.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_guid() {
        let token = LockToken::from_random([0xff; 16]);
        assert_eq!(token.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(token.to_string().to_uppercase().parse(), Ok(token));
        for bad in [
            "",
            "x",
            "ffffffffffff4fffbfffffffffffffff",
            "+fffffff-ffff-4fff-bfff-ffffffffffff",
            "ffffffff-ffff-4fff-bfff-fffffffffff-",
            "ffffffff-ffff-4fff-bfff-fffffffffffä",
        ] {
            let error = bad.parse::<LockToken>().expect_err(bad);
            assert_eq!(error.code, ErrorCode::DeviceMessageLockLost);
        }
    }

    #[test]
    fn feedback_is_for_those_who_want_it() {
        for (ack, outcomes) in [
            (Ack::None, &[][..]),
            (Ack::Positive, &[Outcome::Success]),
            (Ack::Negative, &Outcome::ALL[1..]),
            (Ack::Full, &Outcome::ALL),
        ] {
            let wanted: Vec<_> = Outcome::ALL.into_iter().filter(|one| ack.wants(*one)).collect();
            assert_eq!(wanted, outcomes, "{ack:?}");
            assert_eq!(Ack::parse(&ack.as_str().to_uppercase()), Some(ack));
        }
        assert_eq!(Ack::parse("all"), None);
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::parse(outcome.as_str()), Some(outcome));
        }
    }

    #[test]
    fn what_is_too_large_illegible_or_late_is_refused() {
        const NOW: i64 = 1_000_000;
        #[track_caller]
        fn check(command: Command, want: Result<(), ErrorCode>) {
            assert_eq!(command.check(NOW).map_err(|error| error.code), want);
        }
        let of = |bytes: usize| Command { body: vec![0; bytes], ..Command::default() };
        check(of(65_536), Ok(()));
        check(of(65_537), Err(ErrorCode::MessageTooLarge));
        let text = |bytes: usize| Some("x".repeat(bytes));
        let full = Command {
            message_id: text(1),
            correlation_id: text(2),
            user_id: text(3),
            content_type: text(4),
            content_encoding: text(5),
            properties: vec![("name".into(), "value".into())],
            ..of(65_536 - 24)
        };
        check(full.clone(), Ok(()));
        check(Command { user_id: text(4), ..full }, Err(ErrorCode::MessageTooLarge));
        for (name, value) in [("", "value"), ("name\n", ""), ("name", "\0"), ("\u{85}", "")] {
            let properties = vec![(name.into(), value.into())];
            check(Command { properties, ..of(0) }, Err(ErrorCode::ArgumentInvalid));
        }
        let properties = vec![("x".into(), "1".into()), ("x".into(), "2".into())];
        check(Command { properties, ..of(0) }, Err(ErrorCode::ArgumentInvalid));
        let properties = vec![("ä ü".into(), "\u{2028} =&".into()), ("x".into(), String::new())];
        check(Command { properties, ..of(0) }, Ok(()));
        for (id, ok) in [("", true), ("a-b:'$", true), ("a b", false), ("ä", false), ("a/b", false)]
        {
            let want = if ok { Ok(()) } else { Err(ErrorCode::ArgumentInvalid) };
            check(Command { message_id: Some(id.into()), ..of(0) }, want);
            check(Command { correlation_id: Some(id.into()), ..of(0) }, want);
        }
        check(Command { message_id: text(128), ..of(0) }, Ok(()));
        check(Command { message_id: text(129), ..of(0) }, Err(ErrorCode::ArgumentInvalid));
        let user_id = Some("a\r\nb".to_owned());
        check(Command { user_id, ..of(0) }, Err(ErrorCode::ArgumentInvalid));
        let until = |expires| Command { expires: Some(expires), ..of(0) };
        let two_days = 172_800_000;
        for (expires, ok) in [
            (NOW, false),
            (NOW + 1, true),
            (NOW + two_days, true),
            (NOW + two_days + 1, false),
            (i64::MIN, false),
            (i64::MAX, false),
        ] {
            let want = if ok { Ok(()) } else { Err(ErrorCode::InvalidMessageExpiryTime) };
            check(until(expires), want);
        }
    }
}
