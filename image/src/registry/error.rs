//! What can go wrong with a registry. The texts are stable: no addresses, durations or URLs.

/// Why a registry did not deliver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The registry says there is no such thing.
    #[error("{registry}: {what}: not found{}", said(.detail))]
    NotFound {
        /// The registry asked.
        registry: String,
        /// What was asked for.
        what: String,
        /// The registry's own words.
        detail: String,
    },
    /// It wants (other) credentials, or the credentials do not allow this.
    #[error("{registry}: {what}: not authorized{}", said(.detail))]
    Unauthorized {
        /// The registry asked.
        registry: String,
        /// What was asked for.
        what: String,
        /// The registry's own words.
        detail: String,
    },
    /// No connection, or the registry is out of order; later it may work.
    #[error("{registry}: unavailable: {detail}")]
    Unavailable {
        /// The registry asked.
        registry: String,
        /// What happened.
        detail: String,
    },
    /// It answered something no registry should.
    #[error("{registry}: {what}: refused with status {status}{}", said(.detail))]
    Refused {
        /// The registry asked.
        registry: String,
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The registry's own words.
        detail: String,
    },
    /// Its answer cannot be trusted or understood.
    #[error("{registry}: {problem}")]
    Protocol {
        /// The registry asked.
        registry: String,
        /// What is wrong with the answer.
        problem: &'static str,
    },
    /// The blob is longer or shorter than its descriptor says.
    #[error("{registry}: blob {digest} has {found} bytes, not {wanted}")]
    WrongSize {
        /// The registry asked.
        registry: String,
        /// The blob.
        digest: crate::digest::Digest,
        /// As the descriptor says.
        wanted: u64,
        /// As served (at least, when longer).
        found: u64,
    },
    /// The configuration of this host is wrong.
    #[error("{}: {problem}", file.display())]
    Config {
        /// The file (or the configuration key).
        file: std::path::PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A credential helper named in Docker's configuration failed.
    #[error("{registry}: credential helper {helper:?} {problem}")]
    Helper {
        /// For which registry it was asked.
        registry: String,
        /// Its name, without `docker-credential-`.
        helper: String,
        /// What happened.
        problem: String,
    },
    /// The receiver of the bytes went away.
    #[error("{registry}: the download was abandoned")]
    Abandoned {
        /// The registry asked.
        registry: String,
    },
}

impl RegistryError {
    /// Whether the same request may succeed a moment later.
    #[must_use]
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether another source of the same content should be asked.
    #[must_use]
    pub(crate) fn is_definite(&self) -> bool {
        matches!(
            self,
            Self::NotFound { .. }
                | Self::Unauthorized { .. }
                | Self::Unavailable { .. }
                | Self::Refused { .. }
        )
    }
}

fn said(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(": {detail}")
    }
}
