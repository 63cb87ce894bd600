//! What a check has found: numbers for each topic, and what is wrong with examples of it.

use std::collections::BTreeMap;
use std::fmt;

use super::ranges::Ranges;
use crate::history::{Kind, Line};

/// Examples that are kept of each fault.
const EXAMPLES: usize = 3;

/// What is proved on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    Connections,
    Telemetry,
    Reported,
    Desired,
    C2d,
    Feedback,
    Methods,
}

impl Topic {
    const ALL: [(Self, &str); 6] = [
        (Self::Telemetry, "telemetry"),
        (Self::Reported, "reported"),
        (Self::Desired, "desired"),
        (Self::C2d, "c2d"),
        (Self::Feedback, "feedback"),
        (Self::Methods, "methods"),
    ];

    pub fn of(kind: &Kind) -> Self {
        match kind {
            Kind::Connect | Kind::Disconnect => Self::Connections,
            Kind::Send | Kind::Ack | Kind::Logged(_) | Kind::Altered(_) => Self::Telemetry,
            Kind::Report | Kind::Reported { .. } => Self::Reported,
            Kind::Desire | Kind::Desired { .. } | Kind::Told => Self::Desired,
            Kind::C2d { .. } | Kind::Accepted | Kind::Received => Self::C2d,
            Kind::Settle(_) | Kind::Settled(_) => Self::C2d,
            Kind::Feedback(_) => Self::Feedback,
            Kind::Call | Kind::Answer { .. } | Kind::Called => Self::Methods,
        }
    }

    /// Whether lines are about the same thing by their sequence alone, whoever's they are: it is
    /// the id of a back end's request.
    fn by_id(self) -> bool {
        matches!(self, Self::Desired | Self::C2d | Self::Feedback | Self::Methods)
    }

    /// Whether lines of the other one are of use to whoever looks into a fault of this one.
    fn tells_of(self, other: Self) -> bool {
        let c2d = |topic| matches!(topic, Self::C2d | Self::Feedback);
        self == other || (c2d(self) && c2d(other))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Lost,
    Disordered,
    Altered,
    AckedUnsent,
    LoggedUnsent,
    ReportVersion,
    ReportUnsent,
    DesiredVersion,
    DesiredUnsent,
    ToldBack,
    C2dLost,
    EndedTwice,
    HandedOutAfterEnd,
    AcceptedUnsent,
    ReceivedUnsent,
    SettledUnreceived,
    FeedbackMissing,
    FeedbackUnsent,
    FeedbackUnasked,
    FeedbackWrong,
    CallLost,
    AnsweredTwice,
    AnsweredUncalled,
    RanUncalled,
}

impl Fault {
    pub fn topic(self) -> Topic {
        use Fault::*;
        match self {
            Lost | Disordered | Altered | AckedUnsent | LoggedUnsent => Topic::Telemetry,
            ReportVersion | ReportUnsent => Topic::Reported,
            DesiredVersion | DesiredUnsent | ToldBack => Topic::Desired,
            C2dLost | EndedTwice | HandedOutAfterEnd | AcceptedUnsent | ReceivedUnsent
            | SettledUnreceived => Topic::C2d,
            FeedbackMissing | FeedbackUnsent | FeedbackUnasked | FeedbackWrong => Topic::Feedback,
            CallLost | AnsweredTwice | AnsweredUncalled | RanUncalled => Topic::Methods,
        }
    }

    /// Something that was acknowledged is not there.
    fn is_loss(self) -> bool {
        matches!(self, Self::Lost | Self::C2dLost | Self::FeedbackMissing | Self::CallLost)
    }

    pub fn text(self) -> &'static str {
        match self {
            Self::Lost => "acknowledged, and not in the log",
            Self::Disordered => "in the log behind a later one of its connection",
            Self::Altered => "in the log with other content",
            Self::AckedUnsent => "acknowledged, and never sent",
            Self::LoggedUnsent => "in the log, and never sent",
            Self::ReportVersion => "a report whose version is not above the one before",
            Self::ReportUnsent => "a report that was answered, and never sent",
            Self::DesiredVersion => "a patch whose version is not above all before, or another's",
            Self::DesiredUnsent => "a patch that was answered, and never sent",
            Self::ToldBack => "a change that its device was told of behind a later one",
            Self::C2dLost => "a message that was accepted, and has come to no end",
            Self::EndedTwice => "a message that has come to two ends",
            Self::HandedOutAfterEnd => "a message that came to its device after its end",
            Self::AcceptedUnsent => "a message that was accepted, and never sent",
            Self::ReceivedUnsent => "a message that has come, and was never sent",
            Self::SettledUnreceived => "a message that was settled, and has never come",
            Self::FeedbackMissing => "a message that has ended, without the feedback asked for",
            Self::FeedbackUnsent => "feedback on a message that was never sent",
            Self::FeedbackUnasked => "feedback that was not asked for",
            Self::FeedbackWrong => "feedback of what did not become of the message",
            Self::CallLost => "a call that was answered, and has never come",
            Self::AnsweredTwice => "a call that was answered twice",
            Self::AnsweredUncalled => "an answer to what was never called",
            Self::RanUncalled => "a call that has come, and was never made",
        }
    }
}

/// One case of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub fault: Fault,
    pub device: Box<str>,
    pub epoch: u32,
    pub sequence: u64,
}

impl Example {
    /// Whether the line is about it.
    pub fn is_in(&self, line: &Line<'_>) -> bool {
        let topic = self.fault.topic();
        self.sequence == line.sequence
            && topic.tells_of(Topic::of(&line.kind))
            && (topic.by_id() || self.epoch == line.epoch)
            && *self.device == *line.device
    }
}

impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, device, epoch, sequence } = self;
        if fault.topic().by_id() {
            write!(f, "{device}, id {sequence}")
        } else {
            write!(f, "{device}, connection {epoch}, number {sequence}")
        }
    }
}

/// The numbers of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Acknowledged; of feedback: records.
    pub acked: u64,
    pub lost: u64,
    /// There more than once.
    pub duplicates: u64,
    /// Not answered, or not ended yet: it may be there or not.
    pub open: u64,
    /// All other faults.
    pub wrong: u64,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "acked={} lost={} dup={}", self.acked, self.lost, self.duplicates)
    }
}

#[derive(Debug, Default)]
pub struct Verdict {
    pub connections: u64,
    counts: BTreeMap<Topic, Count>,
    faults: BTreeMap<Fault, u64>,
    pub examples: Vec<Example>,
}

impl Verdict {
    pub fn count(&mut self, topic: Topic) -> &mut Count {
        self.counts.entry(topic).or_default()
    }

    /// One case, which this line shows.
    pub fn found(&mut self, fault: Fault, line: &Line<'_>) {
        self.add(fault, 1, line.device, line.epoch, [line.sequence]);
    }

    /// All of a device's that are in the set.
    pub fn found_all(&mut self, fault: Fault, device: &str, epoch: u32, set: &Ranges) {
        let numbers = set.iter().flat_map(|(first, last)| first..=last);
        self.add(fault, set.count(), device, epoch, numbers);
    }

    fn add(
        &mut self,
        fault: Fault,
        cases: u64,
        device: &str,
        epoch: u32,
        numbers: impl IntoIterator<Item = u64>,
    ) {
        if cases == 0 {
            return;
        }
        let count = self.count(fault.topic());
        if fault.is_loss() {
            count.lost += cases;
        } else {
            count.wrong += cases;
        }
        *self.faults.entry(fault).or_default() += cases;
        for sequence in numbers.into_iter().take(EXAMPLES) {
            self.keep(Example { fault, device: device.into(), epoch, sequence });
        }
    }

    fn keep(&mut self, example: Example) {
        let has = self.examples.iter().filter(|kept| kept.fault == example.fault).count();
        if has < EXAMPLES {
            self.examples.push(example);
        }
    }

    /// Of another part of the devices.
    pub fn join(&mut self, other: Self) {
        self.connections += other.connections;
        for (topic, count) in other.counts {
            let sum = self.count(topic);
            sum.acked += count.acked;
            sum.lost += count.lost;
            sum.duplicates += count.duplicates;
            sum.open += count.open;
            sum.wrong += count.wrong;
        }
        for (fault, cases) in other.faults {
            *self.faults.entry(fault).or_default() += cases;
        }
        for example in other.examples {
            self.keep(example);
        }
    }

    /// Of each fault that was found: how often.
    pub fn faults(&self) -> impl Iterator<Item = (Fault, u64)> {
        self.faults.iter().map(|(fault, cases)| (*fault, *cases))
    }

    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// A line a topic.
    pub fn topics(&self) -> Vec<String> {
        let line = |(topic, name): (Topic, &str)| {
            let count = self.counts.get(&topic)?;
            Some(format!("{name} {count} open={} wrong={}", count.open, count.wrong))
        };
        Topic::ALL.into_iter().filter_map(line).collect()
    }

    pub fn total(&self) -> Count {
        self.counts.values().fold(Count::default(), |sum, count| Count {
            acked: sum.acked + count.acked,
            lost: sum.lost + count.lost,
            duplicates: sum.duplicates + count.duplicates,
            open: sum.open + count.open,
            wrong: sum.wrong + count.wrong,
        })
    }
}
