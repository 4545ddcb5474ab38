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
use crate::seccomp::Filter;

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

/// One mount of a container, in the order in which they happen.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct MountPlan {
    #[n(0)]
    pub(crate) target: ContainerPath,
    #[n(1)]
    pub(crate) attributes: Attributes,
    #[n(2)]
    pub(crate) source: MountSource,
}

impl MountPlan {
    /// Gives what is on a file system of the container's own an SELinux label. Those that show the kernel's objects
    /// have labels by policy.
    pub(crate) fn label(&mut self, label: &str) {
        if let MountSource::Fresh { kind, options } = &mut self.source
            && matches!(
                kind,
                FileSystem::Tmpfs | FileSystem::Dev | FileSystem::Devpts | FileSystem::Mqueue
            )
        {
            options.push(("context".to_owned(), label.to_owned()));
        }
    }
}

#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(crate) enum MountSource {
    /// A file or directory of the host.
    #[n(0)]
    #[cbor(map)]
    Bind {
        #[n(0)]
        path: HostPath,
        #[n(1)]
        recursive: bool,
        #[n(2)]
        propagation: Propagation,
        #[n(3)]
        recursive_propagation: bool,
        /// With these ids in place of those that are stored.
        #[n(50)]
        ids: Option<IdMapping>,
        /// Filled with what the image has at the target, as it is the container's own and empty.
        #[n(51)]
        #[cbor(default)]
        filled: bool,
    },
    /// A file system made for the container.
    #[n(1)]
    #[cbor(map)]
    Fresh {
        #[n(0)]
        kind: FileSystem,
        #[n(1)]
        options: Vec<(String, String)>,
    },
    /// The container's cgroups, as its cgroup namespace shows them.
    #[n(2)]
    #[cbor(map)]
    Cgroup {
        #[n(0)]
        layout: CgroupLayout,
    },
    /// What an image has at a path, read-only.
    #[n(50)]
    #[cbor(map)]
    Image {
        #[n(0)]
        root: RootSource,
        #[n(1)]
        path: ContainerPath,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(crate) enum FileSystem {
    #[n(0)]
    Proc,
    #[n(1)]
    Sysfs,
    #[n(2)]
    Tmpfs,
    #[n(3)]
    Devpts,
    #[n(4)]
    Mqueue,
    /// The tmpfs at `/dev`, populated before it is attached.
    #[n(5)]
    Dev,
}

impl FileSystem {
    /// The kernel's name of the type.
    pub(crate) fn name(self) -> &'static str {
        match self {
            FileSystem::Proc => "proc",
            FileSystem::Sysfs => "sysfs",
            FileSystem::Tmpfs | FileSystem::Dev => "tmpfs",
            FileSystem::Devpts => "devpts",
            FileSystem::Mqueue => "mqueue",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(crate) enum Propagation {
    #[n(0)]
    Private,
    #[n(1)]
    Slave,
    #[n(2)]
    Shared,
    #[n(3)]
    Unbindable,
}

/// `MOUNT_ATTR_*` bits: those of the mount itself and those of all mounts below it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Attributes {
    #[n(0)]
    pub(crate) set: u32,
    #[n(1)]
    pub(crate) clear: u32,
    #[n(2)]
    pub(crate) set_recursive: u32,
    #[n(3)]
    pub(crate) clear_recursive: u32,
}

/// How the hierarchies are laid out below a cgroup mount. What is shown are clones of the host's mounts: a fresh
/// mount of a v1 hierarchy takes the kernel 100 µs, a clone 5.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum CgroupLayout {
    /// The v2 hierarchy itself.
    #[n(0)]
    #[cbor(map)]
    Unified {
        /// The directory on the host that is shown.
        #[n(0)]
        source: HostPath,
    },
    /// A tmpfs with a directory for each hierarchy, as v1 and hybrid hosts have it.
    #[n(1)]
    #[cbor(map)]
    PerHierarchy {
        #[n(0)]
        hierarchies: Vec<HierarchyMount>,
    },
}

/// One hierarchy below a cgroup mount.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct HierarchyMount {
    /// The name of its directory: `cpu,cpuacct`, `systemd`, `unified`.
    #[n(0)]
    pub(crate) directory: String,
    /// The directory on the host that is shown.
    #[n(1)]
    pub(crate) source: HostPath,
    /// Controllers mounted together, each of which links to the directory.
    #[n(2)]
    pub(crate) aliases: Vec<String>,
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

/// The process itself: what `execve` gets, and with which identity and privileges.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct ProcessPlan {
    /// Never empty.
    #[n(0)]
    pub(crate) args: Vec<ProcessString>,
    #[n(1)]
    pub(crate) env: Vec<ProcessString>,
    #[n(2)]
    pub(crate) cwd: ContainerPath,
    #[n(3)]
    pub(crate) uid: u32,
    #[n(4)]
    pub(crate) gid: u32,
    #[n(5)]
    pub(crate) groups: Vec<u32>,
    #[n(6)]
    pub(crate) umask: u32,
    #[n(7)]
    pub(crate) capabilities: Capabilities,
    #[n(8)]
    pub(crate) no_new_privileges: bool,
    #[n(9)]
    pub(crate) rlimits: Vec<ResourceLimit>,
    #[n(10)]
    pub(crate) oom_score_adj: i32,
    #[n(11)]
    pub(crate) terminal: Option<Terminal>,
    /// What system calls it may make.
    #[n(40)]
    pub(crate) seccomp: Option<Filter>,
    /// The AppArmor profile that it is in from `execve` on.
    #[n(41)]
    pub(crate) apparmor: Option<ProcessString>,
    /// The SELinux label that it has from `execve` on.
    #[n(42)]
    pub(crate) selinux: Option<ProcessString>,
}

/// A terminal and its first size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Terminal {
    #[n(0)]
    pub(crate) rows: u16,
    #[n(1)]
    pub(crate) columns: u16,
}

/// Capability sets as bit masks. The inheritable set is the ambient one: no other use of it is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Capabilities {
    #[n(0)]
    pub(crate) bounding: u64,
    #[n(1)]
    pub(crate) effective: u64,
    #[n(2)]
    pub(crate) permitted: u64,
    #[n(3)]
    pub(crate) ambient: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct ResourceLimit {
    #[n(0)]
    pub(crate) resource: LimitedResource,
    #[n(1)]
    pub(crate) soft: u64,
    #[n(2)]
    pub(crate) hard: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(crate) enum LimitedResource {
    #[n(0)]
    AddressSpace,
    #[n(1)]
    Core,
    #[n(2)]
    Cpu,
    #[n(3)]
    Data,
    #[n(4)]
    FileSize,
    #[n(5)]
    Locks,
    #[n(6)]
    Memlock,
    #[n(7)]
    Msgqueue,
    #[n(8)]
    Nice,
    #[n(9)]
    OpenFiles,
    #[n(10)]
    Processes,
    #[n(11)]
    Rss,
    #[n(12)]
    RealtimePriority,
    #[n(13)]
    RealtimeTime,
    #[n(14)]
    PendingSignals,
    #[n(15)]
    Stack,
}

impl LaunchPlan {
    /// Confines the container's process by a filter. The caller compiles it: once for all containers of a profile, and
    /// where a mistake in the profile can still be told.
    #[must_use]
    pub fn filtered(mut self, filter: Option<Filter>) -> Self {
        self.process.seccomp = filter;
        self
    }

    /// Writes the plan into a sealed memfd, to be passed to a supervisor.
    ///
    /// # Errors
    /// What `memfd_create`, `write` and `fcntl(F_ADD_SEALS)` answer.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        seal(self)
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
