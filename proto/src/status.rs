//! `HubError` ↔ `tonic::Status`: the hub's code travels as metadata, the text as the message.

use dunlin_model::{ErrorCode, HubError};
use tonic::{Code, Status};

const CODE: &str = "dunlin-error-code";

pub fn to_status(error: HubError) -> Status {
    let code = match error.code.http_status() {
        400 | 405 | 413 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 => Code::AlreadyExists,
        412 => Code::FailedPrecondition,
        429 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Internal,
    };
    let mut status = Status::new(code, error.message);
    status.metadata_mut().insert(CODE, error.code.number().into());
    status
}

/// A status without our code comes from the transport: the peer is away, slow or overloaded.
pub fn from_status(status: &Status) -> HubError {
    let code = status
        .metadata()
        .get(CODE)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .and_then(ErrorCode::from_number)
        .unwrap_or(match status.code() {
            Code::Unavailable | Code::Cancelled => ErrorCode::ServiceUnavailable,
            Code::DeadlineExceeded => ErrorCode::GenericTimeout,
            Code::ResourceExhausted => ErrorCode::ServerBusy,
            _ => ErrorCode::ServerError,
        });
    HubError::new(code, status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_crosses_the_wire() {
        for code in ErrorCode::ALL {
            let error = HubError::new(*code, "why");
            assert_eq!(from_status(&to_status(error.clone())), error);
        }
    }

    #[test]
    fn transport_faults_are_retryable() {
        for status in [Status::unavailable("x"), Status::deadline_exceeded("x")] {
            assert!(from_status(&status).retryable(), "{status}");
        }
    }
}
