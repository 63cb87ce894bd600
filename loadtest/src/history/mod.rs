//! What a run writes down, so that it can be proved afterwards that nothing was lost: a line an
//! event. docs/loadtest-history.md is the format's specification.

mod line;
mod log_reader;
mod recorder;
pub mod stamp;

use std::time::{SystemTime, UNIX_EPOCH};

pub use line::Line;
pub use log_reader::LogReader;
pub use recorder::{HEADER, Pen, Recorder};

/// What happened. Sent is what was handed to the socket, or is just about to be: the line stands
/// before the one of its answer. What was refused or never answered has no second line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A device: CONNACK has let it in.
    Connect,
    /// A device: its connection is over, however.
    Disconnect,

    /// A device: telemetry is sent. Again, if it is sent again.
    Send,
    /// A device: it was acknowledged (PUBACK, 204).
    Ack,
    /// The log's reader: it is there, as it was sent.
    Logged(Place),
    /// The log's reader: it is there, and is not what was sent.
    Altered(Place),

    /// A device: a patch of reported properties is sent.
    Report,
    /// A device: it was answered with 204.
    Reported { version: u64 },
    /// A back end: a patch of desired properties is sent.
    Desire,
    /// A back end: it was answered, and this is the `$version` of the desired properties.
    Desired { version: u64 },
    /// A device: it is told of a change. The sequence is the version.
    Told,

    /// A back end: a C2D message is sent. The sequence is the message's id.
    C2d { ask: Ask },
    /// A back end: its sending was answered with success.
    Accepted,
    /// A device: the message has come.
    Received,
    /// A device: this is to become of it (PUBACK is `Complete`).
    Settle(Disposition),
    /// A device: and so it did, says the hub. HTTPS and AMQP say so, MQTT does not.
    Settled(Disposition),
    /// A back end: a feedback record on the message.
    Feedback(Outcome),

    /// A back end: a direct method is called. The sequence is the call's id.
    Call,
    /// A back end: the device has answered, with this status. An error of the hub is no answer.
    Answer { status: u16 },
    /// A device: the call has come.
    Called,
}

/// Where in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub partition: u32,
    pub offset: u64,
}

/// Of which ends its sender wants to hear: `iothub-ack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    None,
    Positive,
    Negative,
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    Complete,
    Abandon,
    Reject,
}

/// `statusCode` of a feedback record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Success,
    Rejected,
    Expired,
    DeliveryCountExceeded,
    Purged,
}

/// The id of a back end's request: of one device, no two back ends have the same ones.
pub fn id(actor: u32, number: u32) -> u64 {
    u64::from(actor) << 32 | u64::from(number)
}

/// Microseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
