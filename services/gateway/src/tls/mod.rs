//! TLS for every head: configuration, certificates that are reloaded, and our own ntex filter.

mod certificate;
mod config;
mod filter;
mod raw_key;

pub use certificate::{CertificateError, TlsFiles};
pub use config::{ALPN_HTTP, TlsServer};
pub use filter::{ClientCertificates, TlsFilter, accept};
