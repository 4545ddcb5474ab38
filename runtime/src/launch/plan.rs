//! Launch and exec plans: everything that a child needs to know, validated, in one sealed memfd.
//!
//! The encoding is CBOR with integer keys; unknown keys are ignored, so that a newer daemon can talk to an older
//! supervisor. Keys are never reused.

use std::io;
use std::os::fd::OwnedFd;

use minicbor::{Decode, Encode};

use super::sealed::seal;
use super::userns::IdMapping;
use super::values::{ContainerPath, HostPath, ProcessString};
use super::{SetupFailure, layers, rootfs};
use crate::seccomp::Filter;

mod mounts;
mod process;

pub(crate) use mounts::{
    Attributes, CgroupLayout, FileSystem, HierarchyMount, MountPlan, MountSource, Propagation,
};
pub(crate) use process::{Capabilities, LimitedResource, ProcessPlan, ResourceLimit, Terminal};

/// Everything that starts a container. Made by [`LaunchPlan::from_spec`].
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct LaunchPlan {
    #[n(0)]
    pub(crate) root: RootPlan,
    #[n(1)]
    pub(crate) mounts: Vec<MountPlan>,
    #[n(2)]
    pub(crate) devices: Vec<DeviceNode>,
    #[n(3)]
    pub(crate) masked: Vec<ContainerPath>,
    #[n(4)]
    pub(crate) readonly: Vec<ContainerPath>,
    #[n(5)]
    pub(crate) pid: PidMode,
    #[n(6)]
    pub(crate) cgroup: CgroupEntry,
    #[n(7)]
    pub(crate) process: ProcessPlan,
    /// The ids of the pod's user namespace; none in a pod that uses the host's.
    #[n(50)]
    pub(crate) user: Option<IdMapping>,
    #[n(51)]
    pub(crate) hooks: Option<HooksPlan>,
}

/// Everything that starts a process in a running container. Made by [`ExecPlan::from_process`].
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct ExecPlan {
    #[n(0)]
    pub(crate) cgroup: CgroupEntry,
    #[n(1)]
    pub(crate) process: ProcessPlan,
    /// As in [`LaunchPlan`].
    #[n(50)]
    pub(crate) user: Option<IdMapping>,
}

/// Whose PID namespace a container uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum PidMode {
    /// One of its own.
    #[n(0)]
    Container,
    /// The pod's, whose pid 1 is ours.
    #[n(1)]
    Pod,
    /// The host's (CRI calls it NODE).
    #[n(2)]
    Host,
    /// That of another container of the pod (CRI calls it TARGET).
    #[n(3)]
    Target,
}

/// The root file system of a container.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct RootPlan {
    #[n(0)]
    pub(crate) source: RootSource,
    #[n(1)]
    pub(crate) readonly: bool,
    #[n(2)]
    pub(crate) shared: bool,
    /// The SELinux label of everything on it, in place of labels of its own.
    #[n(43)]
    pub(crate) label: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(crate) enum RootSource {
    #[n(0)]
    #[cbor(map)]
    Overlay {
        /// Top first.
        #[n(0)]
        lower: Vec<HostPath>,
        #[n(1)]
        upper: HostPath,
        #[n(2)]
        work: HostPath,
    },
    #[n(1)]
    #[cbor(map)]
    Directory {
        #[n(0)]
        path: HostPath,
    },
    /// An overlay, some of whose layers are mounts that the host does not see.
    #[n(90)]
    #[cbor(map)]
    Layers {
        /// Top first.
        #[n(0)]
        lower: Vec<LayerPlan>,
        #[n(1)]
        upper: HostPath,
        #[n(2)]
        work: HostPath,
    },
}

#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(crate) enum LayerPlan {
    #[n(0)]
    #[cbor(map)]
    Directory {
        #[n(0)]
        path: HostPath,
    },
    #[n(1)]
    #[cbor(map)]
    Mounted {
        /// Where a mount namespace is pinned.
        #[n(0)]
        namespace: HostPath,
        /// A mount point in it.
        #[n(1)]
        path: HostPath,
    },
}

/// Programs of the host's administrator (OCI runtime spec, "POSIX-platform Hooks") that take part in a launch.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct HooksPlan {
    /// A directory of the host with `config.json`, and `rootfs` to attach the root at.
    #[n(0)]
    pub(crate) bundle: HostPath,
    /// The container's id.
    #[n(1)]
    pub(crate) id: String,
    /// As the specification has them.
    #[n(2)]
    pub(crate) annotations: Vec<(String, String)>,
    #[n(3)]
    pub(crate) create_runtime: Vec<Hook>,
    #[n(4)]
    pub(crate) create_container: Vec<Hook>,
    #[n(5)]
    pub(crate) start_container: Vec<Hook>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Hook {
    #[n(0)]
    pub(crate) path: HostPath,
    /// The name it is called by among them; the path alone when empty.
    #[n(1)]
    pub(crate) args: Vec<ProcessString>,
    /// All of its environment.
    #[n(2)]
    pub(crate) env: Vec<ProcessString>,
    #[n(3)]
    pub(crate) timeout_seconds: u32,
}

/// How a process gets into the container's cgroups.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub(crate) struct CgroupEntry {
    /// v1 `tasks` files, to which the process writes itself.
    #[n(0)]
    pub(crate) tasks: Vec<HostPath>,
    /// Whether the container has a cgroup namespace of its own.
    #[n(1)]
    pub(crate) namespace: bool,
}

/// A node in `/dev`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct DeviceNode {
    /// Below `/dev`.
    #[n(0)]
    pub(crate) path: ContainerPath,
    #[n(1)]
    pub(crate) kind: DeviceKind,
    #[n(2)]
    pub(crate) major: u32,
    #[n(3)]
    pub(crate) minor: u32,
    #[n(4)]
    pub(crate) mode: u32,
    #[n(5)]
    pub(crate) uid: u32,
    #[n(6)]
    pub(crate) gid: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(crate) enum DeviceKind {
    #[n(0)]
    Char,
    #[n(1)]
    Block,
    #[n(2)]
    Fifo,
}

impl LaunchPlan {
    /// Whether the container is launched [alone](super::launch_alone): it begins a PID namespace, and neither a user namespace
    /// nor hooks of the host take part.
    pub fn is_alone(&self) -> bool {
        self.pid == PidMode::Container && self.user.is_none() && self.hooks.is_none()
    }

    /// Confines the container's process by a filter. The caller compiles it: once for all containers of a profile, and
    /// where a mistake in the profile can still be told.
    #[must_use]
    pub fn filtered(mut self, filter: Option<Filter>) -> Self {
        self.process.seccomp = filter;
        self
    }

    /// The root file system, to be made before the launch; `None` for a container that is not launched alone.
    pub fn root(&self) -> Option<Root> {
        self.is_alone().then(|| Root(self.root.clone()))
    }

    /// Writes the plan into a sealed memfd, to be passed to a supervisor.
    ///
    /// # Errors
    /// What `memfd_create`, `write` and `fcntl(F_ADD_SEALS)` answer.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        seal(self)
    }
}

/// The root file system of a container that is launched alone.
#[derive(Debug, Clone)]
pub struct Root(RootPlan);

impl Root {
    /// Makes it, attached nowhere, for [`Ahead::root`](super::Ahead): most of what a launch has to write to a disk. `mounted`
    /// are mounts of those layers that the host does not see, top first. `None` where it takes a place to mount at, which
    /// only the launch itself has.
    ///
    /// An overlay's scratch directory serves once (`volatile`): after this, whatever came of it, a launch without the root
    /// that this gave needs a fresh one. May wait for the file system of the layers.
    ///
    /// # Errors
    /// [`Step::PrepareRoot`](super::Step) with the layer, and what the kernel answers.
    pub fn make(&self, mounted: Vec<OwnedFd>) -> Result<Option<OwnedFd>, SetupFailure> {
        let label = self.0.label.as_deref();
        match &self.0.source {
            RootSource::Layers { lower, upper, work } => {
                layers::prepare_from(lower, mounted, upper, work, label).map(Some)
            }
            source => rootfs::prepare(source, label, None),
        }
    }
}

impl ExecPlan {
    /// As [`LaunchPlan::filtered`].
    #[must_use]
    pub fn filtered(mut self, filter: Option<Filter>) -> Self {
        self.process.seccomp = filter;
        self
    }

    /// As [`LaunchPlan::seal`].
    ///
    /// # Errors
    /// As [`LaunchPlan::seal`].
    pub fn seal(&self) -> io::Result<OwnedFd> {
        seal(self)
    }
}
