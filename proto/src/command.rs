//! C2D messages ↔ model.

use dunlin_model::command::{Ack, Disposition};
use dunlin_model::{Command, ErrorCode, HubError};

use crate::v1;

impl From<Command> for v1::Command {
    fn from(command: Command) -> Self {
        let property = |(name, value)| v1::CommandProperty { name, value };
        Self {
            message_id: command.message_id,
            correlation_id: command.correlation_id,
            user_id: command.user_id,
            content_type: command.content_type,
            content_encoding: command.content_encoding,
            expires: command.expires,
            ack: match command.ack {
                Ack::None => v1::Ack::None,
                Ack::Positive => v1::Ack::Positive,
                Ack::Negative => v1::Ack::Negative,
                Ack::Full => v1::Ack::Full,
            }
            .into(),
            properties: command.properties.into_iter().map(property).collect(),
            body: command.body,
        }
    }
}

impl TryFrom<v1::Command> for Command {
    type Error = HubError;

    fn try_from(wire: v1::Command) -> Result<Self, HubError> {
        let ack = match v1::Ack::try_from(wire.ack) {
            Ok(v1::Ack::None) => Ack::None,
            Ok(v1::Ack::Positive) => Ack::Positive,
            Ok(v1::Ack::Negative) => Ack::Negative,
            Ok(v1::Ack::Full) => Ack::Full,
            Err(_) => return Err(invalid("there is no such kind of feedback")),
        };
        let property = |one: v1::CommandProperty| (one.name, one.value);
        Ok(Self {
            message_id: wire.message_id,
            correlation_id: wire.correlation_id,
            user_id: wire.user_id,
            content_type: wire.content_type,
            content_encoding: wire.content_encoding,
            expires: wire.expires,
            ack,
            properties: wire.properties.into_iter().map(property).collect(),
            body: wire.body,
        })
    }
}

impl TryFrom<v1::Disposition> for Disposition {
    type Error = HubError;

    fn try_from(wire: v1::Disposition) -> Result<Self, HubError> {
        match wire {
            v1::Disposition::Complete => Ok(Self::Complete),
            v1::Disposition::Abandon => Ok(Self::Abandon),
            v1::Disposition::Reject => Ok(Self::Reject),
            v1::Disposition::Unspecified => Err(invalid("the disposition is missing")),
        }
    }
}

fn invalid(why: &str) -> HubError {
    HubError::new(ErrorCode::ArgumentInvalid, why)
}
