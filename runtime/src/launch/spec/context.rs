//! What a plan is made from besides the spec, and why it may not come about.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::cgroup::Cgroup;
use crate::launch::plan::PidMode;
use crate::launch::pod::{IpcMode, NetworkMode};
use crate::launch::userns::IdMapping;

/// Why a spec cannot be carried out. `field` is the JSON path of the OCI runtime spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A field that must be there is not.
    #[error("{field}: missing")]
    Missing {
        /// The field.
        field: String,
    },
    /// A value that can never be right.
    #[error("{field}: {value:?} {reason}")]
    Invalid {
        /// The field.
        field: String,
        /// What it holds.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A field that this runtime does not carry out.
    #[error("{field}: not supported")]
    Unsupported {
        /// The field.
        field: String,
    },
    /// A field that contradicts another one, or the pod.
    #[error("{field}: contradicts {with}")]
    Contradiction {
        /// The field.
        field: String,
        /// What it contradicts.
        with: &'static str,
    },
}

/// The root file system of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// Overlay of read-only layers and a writable directory. The paths may not contain `\`, `:` or `,`.
    Overlay {
        /// The read-only layers, top first.
        lower: Vec<PathBuf>,
        /// The writable layer.
        upper: PathBuf,
        /// An empty directory on the same file system as `upper`, used once.
        work: PathBuf,
    },
    /// A directory used as it is.
    Directory(PathBuf),
    /// As `Overlay`, but some layers are mounts that the host does not see (Linux 6.15).
    Layers {
        /// The read-only layers, top first.
        lower: Vec<Layer>,
        /// The writable layer.
        upper: PathBuf,
        /// An empty directory on the same file system as `upper`, used once.
        work: PathBuf,
    },
}

/// A read-only layer of [`Rootfs::Layers`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// A directory of the host.
    Directory(PathBuf),
    /// A mount in another mount namespace.
    Mounted {
        /// Where the namespace is pinned.
        namespace: PathBuf,
        /// The mount point in there.
        path: PathBuf,
    },
}

/// What the pod shares with its containers; the spec must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharing {
    /// Network namespace.
    pub network: NetworkMode,
    /// IPC namespace.
    pub ipc: IpcMode,
    /// PID namespace of this container.
    pub pid: PidMode,
}

/// What a launch plan needs besides the spec.
#[derive(Debug)]
pub struct LaunchContext<'a> {
    /// The root file system.
    pub rootfs: Rootfs,
    /// The container's cgroup.
    pub cgroup: &'a Cgroup,
    /// What the pod shares.
    pub sharing: Sharing,
    /// The real bytes of `process.args` and `process.env`, which the spec can hold only as UTF-8.
    pub exact: ExactStrings,
    /// Images whose content is mounted: a mount of type `image` names one of these in `source`.
    pub images: BTreeMap<String, Rootfs>,
    /// Who the container is to its hooks. A spec with hooks needs it.
    pub hooks: Option<HookContext>,
}

/// What hooks are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookContext {
    /// The container's id.
    pub id: String,
    /// A directory of the host with a `config.json`, whose `root.path` is the empty directory `rootfs` beside it.
    pub bundle: PathBuf,
}

/// Arguments and environment as bytes; `None` takes what the spec holds.
#[derive(Clone, Default)]
pub struct ExactStrings {
    /// Replaces `process.args`.
    pub args: Option<Vec<Vec<u8>>>,
    /// Replaces `process.env`: `NAME=value` each.
    pub env: Option<Vec<Vec<u8>>>,
}

impl std::fmt::Debug for ExactStrings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = |list: &Option<Vec<Vec<u8>>>| list.as_ref().map(Vec::len);
        f.debug_struct("ExactStrings")
            .field("args", &count(&self.args))
            .field("env", &count(&self.env))
            .finish()
    }
}

/// What an exec plan needs besides the process.
#[derive(Debug)]
pub struct ExecContext<'a> {
    /// The container's cgroup.
    pub cgroup: &'a Cgroup,
    /// The real bytes of `args` and `env`.
    pub exact: ExactStrings,
    /// The ids of the pod's user namespace.
    pub user: Option<IdMapping>,
}
