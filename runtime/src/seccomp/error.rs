//! What can be wrong with a profile.

use std::fmt;
use std::io;
use std::path::PathBuf;

use oci_spec::runtime::LinuxSeccompAction;

/// Where in a profile something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `defaultAction` and `defaultErrnoRet`.
    Default,
    /// An entry of `syscalls`, by its index among those that apply, with the first name in it.
    Rule {
        /// Counted from 0.
        index: usize,
        /// The first of the entry's names.
        name: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("defaultAction"),
            Self::Rule { index, name } => write!(f, "syscalls[{index}] ({name})"),
        }
    }
}

/// Why a seccomp profile cannot become a filter.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// A localhost profile without a path. It must never mean "unconfined" (CVE-2023-2431).
    #[error("seccomp: a localhost profile needs a path")]
    NoPath,
    /// The file cannot be read.
    #[error("seccomp: read profile {}: {source}", path.display())]
    Unreadable {
        /// The profile's path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path names a directory, a pipe or a device.
    #[error("seccomp: profile {} is not a regular file", path.display())]
    NotAFile {
        /// The profile's path.
        path: PathBuf,
    },
    /// The file is larger than any profile.
    #[error("seccomp: profile is larger than {max} bytes")]
    TooLarge {
        /// The limit.
        max: u64,
    },
    /// There is nothing in the profile. It must never mean "unconfined" (CVE-2023-2431).
    #[error("seccomp: profile is empty")]
    Empty,
    /// The profile is no JSON, or none of a profile's shape.
    #[error("seccomp: profile: {0}")]
    Malformed(#[source] serde_json::Error),
    /// Two fields of which only one may be given.
    #[error("seccomp: {first} and {second} exclude each other")]
    Contradiction {
        /// The field.
        first: &'static str,
        /// The other field.
        second: &'static str,
    },
    /// An entry of `syscalls` that names no call.
    #[error("seccomp: syscalls[{index}].names is empty")]
    NoNames {
        /// Counted from 0.
        index: usize,
    },
    /// An `errno` that is not known by name.
    #[error("seccomp: {place}: unknown errno {name:?}; give its number as errnoRet")]
    UnknownErrno {
        /// Where.
        place: Place,
        /// The name as given.
        name: String,
    },
    /// A `minKernel` that is not of the form `5.15`.
    #[error("seccomp: minKernel {version:?} is not <major>.<minor>")]
    KernelVersion {
        /// As given.
        version: String,
    },
    /// An errno that does not fit.
    #[error("seccomp: {place}: errno {errno} is larger than {max}")]
    ErrnoOutOfRange {
        /// Where.
        place: Place,
        /// As given.
        errno: u32,
        /// The largest that fits.
        max: u32,
    },
    /// An errno with an action that returns none (OCI runtime spec: must be refused).
    #[error("seccomp: {place}: {action} takes no errnoRet")]
    ErrnoUnused {
        /// Where.
        place: Place,
        /// The action.
        action: LinuxSeccompAction,
    },
    /// `SCMP_ACT_NOTIFY`, for which no agent is connected yet.
    #[error("seccomp: {place}: SCMP_ACT_NOTIFY is not supported")]
    NotifyUnsupported {
        /// Where.
        place: Place,
    },
    /// `listenerPath` or `listenerMetadata`, which only make sense with `SCMP_ACT_NOTIFY`.
    #[error("seccomp: listenerPath and listenerMetadata are not supported")]
    ListenerUnsupported,
    /// A system call has six arguments.
    #[error("seccomp: {place}: args index {argument} is larger than 5")]
    ArgumentOutOfRange {
        /// Where.
        place: Place,
        /// As given.
        argument: usize,
    },
    /// More than the kernel takes (`BPF_MAXINSNS`).
    #[error("seccomp: the filter has {length} instructions, the kernel takes {max}")]
    TooLong {
        /// Of the filter.
        length: usize,
        /// Of the kernel.
        max: usize,
    },
}
