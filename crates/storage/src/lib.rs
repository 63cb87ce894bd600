//! The ports: what the hub keeps, as traits whose doc comments are their specification.
//! Each has an embedded side here, and a side for a cluster beside it, and a conformance suite
//! that every side must pass.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(test)]
#[macro_use]
mod conforms;

pub mod command_queue;
pub mod device_store;
#[cfg(test)]
mod differential;
pub mod error;
pub mod event_log;
pub mod postgres;
pub mod presence;
pub mod sqlite;
pub mod testing;
pub mod transfer;
pub mod twin_store;

pub use command_queue::CommandQueue;
pub use device_store::DeviceStore;
pub use error::StoreError;
pub use event_log::EventLog;
pub use presence::Presence;
pub use transfer::Transfer;
pub use twin_store::TwinStore;

/// Locks whatever a panicking thread left: every critical section here leaves its data whole at
/// each point where it can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
