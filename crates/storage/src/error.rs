//! What a store may answer instead of a result.

use std::fmt::Write as _;

use dunlin_model::{ErrorCode, HubError};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("it exists already")]
    AlreadyExists,
    #[error("it does not exist")]
    NotFound,
    #[error("it was changed since: the ETag does not match")]
    PreconditionFailed,
    #[error("a limit of the hub is reached")]
    LimitReached,
    /// The model refuses the change; nothing of it took effect.
    #[error("{0}")]
    Refused(HubError),
    /// The store could not do it now; nothing of the operation took effect. A server's answer to a
    /// commit may have been lost, though: then it did, whole.
    #[error("the {store} store failed")]
    Unavailable {
        store: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    pub fn unavailable(
        store: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Unavailable { store, source: source.into() }
    }

    /// Its name, for metrics and traces.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AlreadyExists => "already_exists",
            Self::NotFound => "not_found",
            Self::PreconditionFailed => "precondition_failed",
            Self::LimitReached => "limit_reached",
            Self::Refused(_) => "refused",
            Self::Unavailable { .. } => "unavailable",
        }
    }

    /// Whether the same operation may succeed later without anybody changing anything.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// For the faults no caller can be more precise about; a service answers the others by itself.
impl From<StoreError> for HubError {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::AlreadyExists => ErrorCode::DeviceAlreadyExists,
            StoreError::NotFound => ErrorCode::DeviceNotFound,
            StoreError::PreconditionFailed => ErrorCode::PreconditionFailed,
            StoreError::LimitReached => ErrorCode::IotHubQuotaExceeded,
            StoreError::Refused(error) => return error,
            StoreError::Unavailable { .. } => ErrorCode::ServiceUnavailable,
        };
        HubError::new(code, error.to_string())
    }
}

/// An error with its causes. What clients of servers say themselves is often little more than that
/// there was one.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            let _ = write!(text, ": {more}");
        }
        cause = error.source();
    }
    text
}
