//! The only binary: the command line, the configuration, the composition of roles into a hub, and
//! the same hub for tests.

pub mod cli;
pub mod client;
pub mod config;
pub mod hub;
pub mod test_hub;

mod files;
mod hub_file;
mod master_key;
mod tls;
