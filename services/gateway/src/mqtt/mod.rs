//! The MQTT 3.1.1 head: bytes to `DeviceSession` and back, nothing more.

pub mod bag;
mod connect;
mod connection;
pub mod frame;
mod listener;
mod reason;
pub mod topic;
pub mod username;

pub use connection::{Connection, End};
pub use listener::{run, serve};
