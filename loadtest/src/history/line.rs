//! A line as text: `word time device epoch sequence`, and what else its kind has.

use anyhow::{Context, Result, bail};

use super::{Ask, Disposition, Kind, Outcome, Place};

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Microseconds since 1970, by the clock of who writes: `history::now()`. Nothing is proved by
    /// it.
    pub time: u64,
    /// Has no space in it, as no device id has.
    pub device: &'a str,
    /// Of a device: which of its connections this is. They rise, and none is used twice in a run.
    /// Of a back end: which actor this is.
    pub epoch: u32,
    /// Of a device's own: counts its messages (its reports) of this connection from 1, in the order
    /// they are sent. Of a back end's: `history::id`.
    pub sequence: u64,
    pub kind: Kind,
}

const ASKS: [(&str, Ask); 4] = [
    ("none", Ask::None),
    ("positive", Ask::Positive),
    ("negative", Ask::Negative),
    ("full", Ask::Full),
];

/// As the hub writes them.
const OUTCOMES: [(&str, Outcome); 5] = [
    ("Success", Outcome::Success),
    ("Rejected", Outcome::Rejected),
    ("Expired", Outcome::Expired),
    ("DeliveryCountExceeded", Outcome::DeliveryCountExceeded),
    ("Purged", Outcome::Purged),
];

fn name<T: PartialEq>(names: &[(&'static str, T)], wanted: &T) -> &'static str {
    names.iter().find(|(_, value)| value == wanted).map_or("", |(name, _)| name)
}

fn named<T: Copy>(names: &[(&'static str, T)], wanted: &str) -> Option<T> {
    names.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value)
}

impl Outcome {
    /// `statusCode` of a feedback record.
    pub fn parse(status_code: &str) -> Option<Self> {
        named(&OUTCOMES, status_code)
    }
}

impl Kind {
    pub fn word(&self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Disconnect => "disconnect",
            Self::Send => "send",
            Self::Ack => "ack",
            Self::Logged(_) => "logged",
            Self::Altered(_) => "altered",
            Self::Report => "report",
            Self::Reported { .. } => "reported",
            Self::Desire => "desire",
            Self::Desired { .. } => "desired",
            Self::Told => "told",
            Self::C2d { .. } => "c2d",
            Self::Accepted => "accepted",
            Self::Received => "received",
            Self::Settle(Disposition::Complete) => "complete",
            Self::Settle(Disposition::Abandon) => "abandon",
            Self::Settle(Disposition::Reject) => "reject",
            Self::Settled(Disposition::Complete) => "completed",
            Self::Settled(Disposition::Abandon) => "abandoned",
            Self::Settled(Disposition::Reject) => "rejected",
            Self::Feedback(_) => "feedback",
            Self::Call => "call",
            Self::Answer { .. } => "answer",
            Self::Called => "called",
        }
    }

    /// What a word and the words behind the sequence say.
    fn parse(word: &str, words: &mut Words<'_>) -> Result<Self> {
        Ok(match word {
            "connect" => Self::Connect,
            "disconnect" => Self::Disconnect,
            "send" => Self::Send,
            "ack" => Self::Ack,
            "logged" => Self::Logged(words.place()?),
            "altered" => Self::Altered(words.place()?),
            "report" => Self::Report,
            "reported" => Self::Reported { version: words.number("version")? },
            "desire" => Self::Desire,
            "desired" => Self::Desired { version: words.number("version")? },
            "told" => Self::Told,
            "c2d" => Self::C2d { ask: words.named("iothub-ack", &ASKS)? },
            "accepted" => Self::Accepted,
            "received" => Self::Received,
            "complete" => Self::Settle(Disposition::Complete),
            "abandon" => Self::Settle(Disposition::Abandon),
            "reject" => Self::Settle(Disposition::Reject),
            "completed" => Self::Settled(Disposition::Complete),
            "abandoned" => Self::Settled(Disposition::Abandon),
            "rejected" => Self::Settled(Disposition::Reject),
            "feedback" => Self::Feedback(words.named("outcome", &OUTCOMES)?),
            "call" => Self::Call,
            "answer" => Self::Answer { status: words.number("status")? },
            "called" => Self::Called,
            other => bail!("no line begins with {other:?}"),
        })
    }
}

impl<'a> Line<'a> {
    /// Appends the line, and its end.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        let mut word = |word: &str| {
            out.extend_from_slice(word.as_bytes());
            out.push(b' ');
        };
        word(self.kind.word());
        word(digits.format(self.time));
        word(self.device);
        word(digits.format(self.epoch));
        word(digits.format(self.sequence));
        match &self.kind {
            Kind::Logged(place) | Kind::Altered(place) => {
                word(digits.format(place.partition));
                word(digits.format(place.offset));
            }
            Kind::Reported { version } | Kind::Desired { version } => word(digits.format(*version)),
            Kind::C2d { ask } => word(name(&ASKS, ask)),
            Kind::Feedback(outcome) => word(name(&OUTCOMES, outcome)),
            Kind::Answer { status } => word(digits.format(*status)),
            _ => {}
        }
        if let Some(last) = out.last_mut() {
            *last = b'\n';
        }
    }

    /// Of the text without its end.
    pub fn parse(text: &'a str) -> Result<Self> {
        let mut words = Words(text.split(' '));
        let word = words.next("kind")?;
        let time = words.number("time")?;
        let device = words.next("device")?;
        let epoch = words.number("epoch")?;
        let sequence = words.number("sequence")?;
        let kind = Kind::parse(word, &mut words)?;
        match words.0.next() {
            None => Ok(Self { time, device, epoch, sequence, kind }),
            Some(more) => bail!("{more:?} is one word too many"),
        }
    }
}

struct Words<'a>(std::str::Split<'a, char>);

impl<'a> Words<'a> {
    fn next(&mut self, what: &str) -> Result<&'a str> {
        let next = self.0.next().filter(|word| !word.is_empty());
        next.with_context(|| format!("the {what} is missing"))
    }

    fn number<N: TryFrom<u64>>(&mut self, what: &str) -> Result<N> {
        let word = self.next(what)?;
        // Without the sign that `parse` takes.
        let digits = word.bytes().all(|byte| byte.is_ascii_digit());
        let number = word.parse::<u64>().ok().filter(|_| digits);
        let number = number.and_then(|number| number.try_into().ok());
        number.with_context(|| format!("{word:?} is no {what}"))
    }

    fn named<T: Copy>(&mut self, what: &str, names: &[(&'static str, T)]) -> Result<T> {
        let word = self.next(what)?;
        named(names, word).with_context(|| format!("{word:?} is no {what}"))
    }

    fn place(&mut self) -> Result<Place> {
        Ok(Place { partition: self.number("partition")?, offset: self.number("offset")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { partition: 3, offset: 41 };

    #[track_caller]
    fn check(kind: Kind, want: &str) {
        let line = Line { time: 1_700_000_000_000_000, device: "d-1", epoch: 2, sequence: 7, kind };
        let mut text = Vec::new();
        line.write(&mut text);
        let text = String::from_utf8(text).expect("text");
        assert_eq!(text, format!("{want}\n"));
        assert_eq!(Line::parse(want).expect("its own"), line);
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let plain = |kind: Kind| {
            check(kind, &format!("{} 1700000000000000 d-1 2 7", kind.word()));
        };
        for kind in [
            Kind::Connect,
            Kind::Disconnect,
            Kind::Send,
            Kind::Ack,
            Kind::Report,
            Kind::Desire,
            Kind::Told,
            Kind::Accepted,
            Kind::Received,
            Kind::Call,
            Kind::Called,
        ] {
            plain(kind);
        }
        for disposition in [Disposition::Complete, Disposition::Abandon, Disposition::Reject] {
            plain(Kind::Settle(disposition));
            plain(Kind::Settled(disposition));
        }
        check(Kind::Logged(PLACE), "logged 1700000000000000 d-1 2 7 3 41");
        check(Kind::Altered(PLACE), "altered 1700000000000000 d-1 2 7 3 41");
        check(Kind::Reported { version: 9 }, "reported 1700000000000000 d-1 2 7 9");
        check(Kind::Desired { version: 9 }, "desired 1700000000000000 d-1 2 7 9");
        check(Kind::Answer { status: 200 }, "answer 1700000000000000 d-1 2 7 200");
        for (word, ask) in ASKS {
            check(Kind::C2d { ask }, &format!("c2d 1700000000000000 d-1 2 7 {word}"));
        }
        for (word, outcome) in OUTCOMES {
            check(Kind::Feedback(outcome), &format!("feedback 1700000000000000 d-1 2 7 {word}"));
        }
    }

    #[test]
    fn what_is_no_line_says_why() {
        #[track_caller]
        fn check(text: &str, want: &str) {
            let error = Line::parse(text).expect_err(text);
            assert_eq!(error.to_string(), want, "{text}");
        }
        check("", "the kind is missing");
        check("sent 1 d 1 1", "no line begins with \"sent\"");
        check("send", "the time is missing");
        check("send now d 1 1", "\"now\" is no time");
        check("send +1 d 1 1", "\"+1\" is no time");
        check("send 1", "the device is missing");
        check("send 1  d 1 1", "the device is missing");
        check("send 1 d 4294967296 1", "\"4294967296\" is no epoch");
        check("send 1 d 1", "the sequence is missing");
        check("send 1 d 1 18446744073709551616", "\"18446744073709551616\" is no sequence");
        check("send 1 d 1 1 ", "\"\" is one word too many");
        check("send 1 d 1 1 1", "\"1\" is one word too many");
        check("logged 1 d 1 1 1", "the offset is missing");
        check("reported 1 d 1 1 -1", "\"-1\" is no version");
        check("answer 1 d 1 1 70000", "\"70000\" is no status");
        check("c2d 1 d 1 1 all", "\"all\" is no iothub-ack");
        check("feedback 1 d 1 1 success", "\"success\" is no outcome");
    }
}
