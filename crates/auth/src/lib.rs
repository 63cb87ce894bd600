//! SAS tokens, client certificates, shared access policies and connection strings. Pure: the time is an argument.

pub mod connection_string;
pub mod key;
pub mod policy;
pub mod sas;
pub mod x509;

pub use connection_string::ConnectionString;
pub use key::Key;
pub use policy::{Permissions, Policy};
pub use sas::{SasError, SasToken};
pub use x509::{Authority, Chain, X509Error};
