//! The wall clock, in the two units the protocols use.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, UTC.
pub fn unix_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Seconds since 1970, UTC.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A clock that a role is given, where what time ends is the role's business: the machine's by
/// default. It may go back, as the machine's may.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// `unix_millis`: reads it.
    pub fn new(unix_millis: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(unix_millis))
    }

    /// Milliseconds since 1970, UTC.
    pub fn unix_millis(&self) -> i64 {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(unix_millis)
    }
}
