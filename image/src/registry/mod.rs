//! Talking to registries (distribution-spec 1.1).
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
//!   registry was declared so, and then to no other host.
//! * Another endpoint is tried only after a definite answer or a failed connection; a blob that one has
//!   begun to send only that one may go on with.
//! * At most so many requests are under way to a host, over all pulls of a store.
//! * Errors name the registry, not URLs: queries and user info of URLs hold secrets.

mod answer;
mod auth;
mod blob;
mod client;
pub mod credentials;
mod docker_config;
mod error;
mod hosts;
mod hosts_file;
mod lanes;
mod names;
mod request;
mod retry;
mod round;
mod tls;
mod upload;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use self::blob::Piece;
pub(crate) use self::client::Session;
pub use self::credentials::{AuthFields, Credentials, CredentialsError};
pub use self::docker_config::DockerConfig;
pub use self::error::RegistryError;
pub(crate) use self::lanes::Lanes;
pub use self::names::NameFiles;
pub use self::retry::{Clock, RetryPolicy};
pub(crate) use self::upload::{Content, Target};

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
    /// Docker's `config.json`, for requests that bring no credentials of their own.
    pub docker_config: Option<PathBuf>,
    /// Where the credential helpers that it names are; `None` for PATH.
    pub credential_helpers: Option<PathBuf>,
    /// How long one may take to answer.
    pub helper_timeout: Duration,
    /// Where host names are looked up.
    pub names: NameFiles,
    /// Requests under way to one host at a time.
    pub connections_per_host: usize,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long an active request may bring no byte.
    pub progress_timeout: Duration,
    /// Retries of what may pass by itself.
    pub retry: RetryPolicy,
    /// What retries wait by.
    pub clock: Clock,
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
            docker_config: None,
            credential_helpers: None,
            helper_timeout: docker_config::HELPER_LIMIT,
            names: NameFiles::default(),
            connections_per_host: 6,
            connect_timeout: Duration::from_secs(30),
            progress_timeout: Duration::from_secs(300),
            retry: RetryPolicy::default(),
            clock: Clock::default(),
        }
    }
}
