//! The hub's nouns: identities, messages, errors and limits. Plain types, no async, no I/O.

pub mod api_version;
pub mod command;
pub mod device;
pub mod error;
pub mod event;
pub mod id;
pub mod json;
pub mod limits;
pub mod session;
pub mod twin;

pub use command::Command;
pub use device::{Authentication, ConnectionState, DeviceIdentity, KeyPair, Status};
pub use error::{ErrorCode, HubError};
pub use id::Identity;
pub use session::{Session, Subscriptions};
pub use twin::Twin;
