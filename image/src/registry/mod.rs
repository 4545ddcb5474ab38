//! Talking to registries (distribution-spec 1.1, pull side).
//!
//! ```text
//!   Reference ─hosts─► endpoints (mirrors in order, then the registry itself)
//!                          │ each: one origin, its TLS, its authorization
//!   resolve ───────────────┤ tag → digest + document
//!   document / blob ───────┘ by digest: whoever serves it, the bytes are checked by others
//! ```
//!
//! * The request's credentials go to the registry's own host and to the token service it names,
//!   never to a mirror, never over a redirect to another origin, never to plain http unless the
//!   registry was declared so.
//! * Another endpoint is tried only after a definite answer or a failed connection.
//! * Errors name the registry, not URLs: queries and user info of URLs hold secrets.

mod answer;
mod auth;
mod client;
pub mod credentials;
mod error;
mod hosts;
mod request;
mod retry;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use self::client::{Piece, Session};
pub use self::credentials::{AuthFields, Credentials, CredentialsError};
pub use self::error::RegistryError;
pub use self::retry::RetryPolicy;

/// How registries are reached. Files named here are read anew for each pull.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Mirrors by registry (`docker.io`), in order; URLs or `host[:port]`.
    pub mirrors: std::collections::BTreeMap<String, Vec<String>>,
    /// Registries (`host[:port]`) reached without verified TLS: https with any certificate, else
    /// plain http. Loopback registries are always plain http unless a hosts.toml says otherwise.
    pub insecure: Vec<String>,
    /// Folders with `<host>/hosts.toml`, the first that has the host wins.
    pub hosts_folders: Vec<PathBuf>,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long an active request may bring no byte.
    pub progress_timeout: Duration,
    /// Retries of what may pass by itself.
    pub retry: RetryPolicy,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            mirrors: std::collections::BTreeMap::new(),
            insecure: Vec::new(),
            hosts_folders: [
                "/etc/crisp/certs.d",
                "/etc/containerd/certs.d",
                "/etc/docker/certs.d",
            ]
            .map(PathBuf::from)
            .to_vec(),
            connect_timeout: Duration::from_secs(30),
            progress_timeout: Duration::from_secs(300),
            retry: RetryPolicy::default(),
        }
    }
}
