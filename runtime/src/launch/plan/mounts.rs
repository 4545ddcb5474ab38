//! The part of a plan that says what a container sees: its mounts.

use minicbor::{Decode, Encode};

use super::RootSource;
use crate::launch::userns::IdMapping;
use crate::launch::values::{ContainerPath, HostPath};

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
    /// The option that labels all that is on a file system.
    pub(crate) const LABEL: &'static str = "context";

    /// Gives what is on a file system of the container's own an SELinux label. Those that show the kernel's objects
    /// have labels by policy.
    pub(crate) fn label(&mut self, label: &str) {
        if let MountSource::Fresh { kind, options } = &mut self.source
            && matches!(
                kind,
                FileSystem::Tmpfs | FileSystem::Dev | FileSystem::Devpts | FileSystem::Mqueue
            )
        {
            options.push((Self::LABEL.to_owned(), label.to_owned()));
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

impl HierarchyMount {
    /// The name of its directory, and of the links to it.
    pub(crate) fn names(&self) -> (&str, &[String]) {
        (&self.directory, &self.aliases)
    }
}
