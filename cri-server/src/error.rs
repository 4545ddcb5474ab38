//! What can go wrong in an operation, in the daemon's own terms.
//!
//! A message tells the cause first and the remedy last, and is the same text each time: kubelet
//! folds equal events into one, so no duration, address or fresh id appears in it.
//! [`crate::status`] alone decides which gRPC code each variant becomes.

use std::path::PathBuf;

/// A failed operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is missing, malformed or contradicts another.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field, as the CRI names it.
        field: String,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// The object that the request names does not exist.
    #[error("{kind} {name:?} not found")]
    NotFound {
        /// `pod sandbox`, `container` or `image`.
        kind: &'static str,
        /// As the client wrote it.
        name: String,
    },
    /// A truncated id fits several objects.
    #[error("{kind} id {prefix:?} is ambiguous: give more digits")]
    Ambiguous {
        /// `pod sandbox` or `container`.
        kind: &'static str,
        /// As the client wrote it.
        prefix: String,
    },
    /// The object is not in a state that allows the operation.
    #[error("{object} {problem}")]
    State {
        /// `container NAME` or `pod sandbox NAME`.
        object: String,
        /// Its state and what to do.
        problem: &'static str,
    },
    /// A set-up step of a process failed: container start, exec, or a pod's namespaces.
    #[error("{0}")]
    Launch(runtime::protocol::Failure),
    /// A launch plan could not be made from the request.
    #[error(transparent)]
    Plan(#[from] runtime::launch::PlanError),
    /// A cgroup could not be made, changed or removed.
    #[error(transparent)]
    Cgroup(#[from] runtime::cgroup::CgroupError),
    /// The pod's supervisor could not be started or reached, or it refused.
    #[error("supervisor: {0}")]
    Supervisor(#[source] crate::supervisor::Error),
    /// A seccomp profile cannot become a filter.
    #[error("security_context.seccomp: profile {profile}: {source}")]
    Seccomp {
        /// Its path, or what the default one is called.
        profile: String,
        /// What is wrong with it.
        source: runtime::seccomp::SeccompError,
    },
    /// Images and snapshots.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// A pull, whose failure all who wait for it share.
    #[error(transparent)]
    Pull(#[from] std::sync::Arc<image::Error>),
    /// The pod's network.
    #[error("network: {0}")]
    Network(#[from] cni::Error),
    /// The record store.
    #[error("record store: {0}")]
    Store(#[from] image::database::DatabaseError),
    /// A file or directory of the daemon's own.
    #[error("{operation} {path}: {source}", path = path.display())]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// An image cannot be mounted as a volume. kubelet reads the first word.
    #[error("ImageVolumeMountFailed: {field}: {problem}")]
    ImageVolume {
        /// The field, as the CRI names it.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The node cannot make a volume recursively read-only. kubelet reads the first word.
    #[error(
        "RROUnsupported: mounts.recursive_read_only: {problem}; use a newer kernel, or a plain read-only volume"
    )]
    RecursiveReadOnly {
        /// The system's answer.
        problem: String,
    },
    /// A command ran out of the time that the client gave it.
    #[error("command {command:?} did not end within its timeout of {seconds} s")]
    ExecTimeout {
        /// The program.
        command: String,
        /// The client's limit.
        seconds: i64,
    },
    /// As much is under way as there may be at once.
    #[error("too many {0}; try again later")]
    Busy(&'static str),
    /// A subscriber of events did not read them in time.
    #[error("events were missed because they were not read in time; subscribe again and list what exists")]
    Lagging,
    /// The operation's task panicked; the log has the details.
    #[error("internal error: the operation crashed; see the daemon's log")]
    Crashed,
    /// Another caller started the operation and shares its failure.
    #[error(transparent)]
    Shared(std::sync::Arc<Error>),
}

impl Error {
    /// A refused field.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// Whether it is that a supervisor does not answer.
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Shared(error) => error.is_silence(),
            Self::Supervisor(error) => matches!(error, crate::supervisor::Error::Silent),
            _ => false,
        }
    }

    /// For `map_err` on file operations.
    pub fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }
}

impl From<std::sync::Arc<Error>> for Error {
    fn from(error: std::sync::Arc<Error>) -> Self {
        std::sync::Arc::try_unwrap(error).unwrap_or_else(Self::Shared)
    }
}

impl From<crate::supervisor::Error> for Error {
    fn from(error: crate::supervisor::Error) -> Self {
        match error {
            crate::supervisor::Error::Failed(failure) => Self::Launch(failure),
            other => Self::Supervisor(other),
        }
    }
}
