//! The MQTT 3.1.1 head: bytes to `DeviceSession` and back, nothing more.

mod acks;
pub mod bag;
mod commands;
mod connect;
mod connection;
mod devicebound;
pub mod filter;
pub mod frame;
mod listener;
mod push;
mod reason;
mod subscribe;
pub mod topic;
mod twin;
pub mod username;

pub use connection::{Connection, End};
pub use listener::{run, serve};
pub use subscribe::SubscribeAnswer;
