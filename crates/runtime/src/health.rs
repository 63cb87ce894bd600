//! Readiness of a role, as `/readyz` tells it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One role's readiness; a clone is a handle to the same.
#[derive(Clone, Debug)]
pub struct Health {
    role: &'static str,
    ready: Arc<AtomicBool>,
}

impl Health {
    /// Not ready until told so.
    pub fn new(role: &'static str) -> Self {
        Self { role, ready: Arc::default() }
    }

    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub fn role(&self) -> &'static str {
        self.role
    }
}
