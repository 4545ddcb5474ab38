//! A container as requested: immutable once made. Each type is one field or message of the request, checked.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use runtime::launch::IdMapping;

use super::profile::{Profile, SelinuxOptions};
use crate::pod::Namespaces;

/// CPU, memory and the rest of a container's limits, in the units of CRI. Zero means "not set".
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(map)]
pub struct Resources {
    /// CFS period in µs.
    #[n(0)]
    pub cpu_period: i64,
    /// CFS quota in µs per period.
    #[n(1)]
    pub cpu_quota: i64,
    /// Relative weight, 2 to 262144.
    #[n(2)]
    pub cpu_shares: i64,
    /// Bytes.
    #[n(3)]
    pub memory_limit: i64,
    /// −1000 to 1000.
    #[n(4)]
    pub oom_score_adj: i64,
    /// List format, such as `0-3,8`.
    #[n(5)]
    pub cpuset_cpus: String,
    /// List format.
    #[n(6)]
    pub cpuset_mems: String,
    /// Page size (`2MB`) and limit in bytes.
    #[n(7)]
    pub hugepages: Vec<(String, u64)>,
    /// cgroup v2 files and their values.
    #[n(8)]
    pub unified: BTreeMap<String, String>,
    /// Memory plus swap, in bytes.
    #[n(9)]
    pub memory_swap_limit: i64,
}

/// Which processes' mounts follow which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Propagation {
    /// Neither side sees the other's.
    #[default]
    #[n(0)]
    Private,
    /// The container sees those of the host.
    #[n(1)]
    HostToContainer,
    /// Both ways.
    #[n(2)]
    Bidirectional,
}

/// An image whose content is a volume.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ImageVolume {
    /// The image, by any of its names.
    #[n(0)]
    pub image: String,
    /// As the user wrote it.
    #[n(1)]
    pub user_image: String,
    /// A relative path in the image; all of it when empty.
    #[n(2)]
    pub sub_path: String,
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Mount {
    /// In the container.
    #[n(0)]
    pub container_path: String,
    /// On the node.
    #[n(1)]
    pub host_path: String,
    /// Whether it is read-only.
    #[n(2)]
    pub readonly: bool,
    /// Mount propagation.
    #[n(3)]
    pub propagation: Propagation,
    /// Read-only with everything mounted below it.
    #[n(4)]
    pub recursive_read_only: bool,
    /// Whether its files get the SELinux label of the container.
    #[n(40)]
    #[cbor(default)]
    pub selinux_relabel: bool,
    /// With these ids in place of those that are stored.
    #[n(50)]
    pub ids: Option<IdMapping>,
    /// In place of `host_path`.
    #[n(51)]
    pub image: Option<ImageVolume>,
    /// Further attributes of the mount, in the words of mount(8).
    #[n(52)]
    pub options: Option<Vec<String>>,
}

/// A device of the node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Device {
    /// In the container.
    #[n(0)]
    pub container_path: String,
    /// On the node.
    #[n(1)]
    pub host_path: String,
    /// Some of `r`, `w`, `m`.
    #[n(2)]
    pub permissions: String,
}

/// The user that the request names.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RunAs {
    /// By number.
    #[n(0)]
    Uid(#[n(0)] u32),
    /// By a name in the image's `/etc/passwd`.
    #[n(1)]
    Username(#[n(0)] String),
}

/// How groups of the request and of the image come together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum GroupsPolicy {
    /// The request's, and those the image's `/etc/group` gives the user.
    #[default]
    #[n(0)]
    Merge,
    /// Only the request's.
    #[n(1)]
    Strict,
}

/// Who a container's processes are and what they may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Security {
    /// Everything is allowed.
    #[n(0)]
    pub privileged: bool,
    /// Capabilities beyond the default set, upper case without `CAP_`; `ALL` is one of them.
    #[n(1)]
    pub add_capabilities: Vec<String>,
    /// Capabilities taken from the default set.
    #[n(2)]
    pub drop_capabilities: Vec<String>,
    /// Capabilities that survive an exec by a user other than root.
    #[n(3)]
    pub add_ambient_capabilities: Vec<String>,
    /// Namespaces.
    #[n(4)]
    pub namespaces: Namespaces,
    /// The user; the image's when unset.
    #[n(5)]
    pub user: Option<RunAs>,
    /// The primary group; the user's when unset.
    #[n(6)]
    pub group: Option<u32>,
    /// Further groups.
    #[n(7)]
    pub supplemental_groups: Vec<u32>,
    /// How they combine with the image's.
    #[n(8)]
    pub groups_policy: GroupsPolicy,
    /// Whether the root file system is read-only.
    #[n(9)]
    pub readonly_rootfs: bool,
    /// No privileges are gained by exec.
    #[n(10)]
    pub no_new_privs: bool,
    /// Paths hidden from the container.
    #[n(11)]
    pub masked_paths: Vec<String>,
    /// Paths that are read-only in the container.
    #[n(12)]
    pub readonly_paths: Vec<String>,
    /// Which system calls it may make.
    #[n(40)]
    #[cbor(default)]
    pub seccomp: Profile,
    /// AppArmor.
    #[n(41)]
    #[cbor(default)]
    pub apparmor: Profile,
    /// SELinux; the pod's when unset.
    #[n(42)]
    pub selinux: Option<SelinuxOptions>,
}

/// The name of a container within its pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(map)]
pub struct ContainerName {
    /// Its name in the pod spec.
    #[n(0)]
    pub name: String,
    /// How often kubelet has made it before.
    #[n(1)]
    pub attempt: u32,
}

/// A container as requested: immutable once made.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct ContainerConfig {
    /// Its name.
    #[n(0)]
    pub name: ContainerName,
    /// The image as kubelet gives it (its id).
    #[n(1)]
    pub image: String,
    /// The image as the user wrote it.
    #[n(2)]
    pub user_image: String,
    /// Replaces the image's entrypoint.
    #[n(3)]
    pub command: Vec<String>,
    /// Replaces the image's command.
    #[n(4)]
    pub args: Vec<String>,
    /// Replaces the image's working directory.
    #[n(5)]
    pub working_dir: String,
    /// Values are bytes: not every environment is text.
    #[cbor(n(6), with = "crate::store::environment")]
    pub env: Vec<(String, Vec<u8>)>,
    /// Volumes.
    #[n(7)]
    pub mounts: Vec<Mount>,
    /// Devices.
    #[n(8)]
    pub devices: Vec<Device>,
    /// Echoed unchanged.
    #[n(9)]
    pub labels: BTreeMap<String, String>,
    /// Echoed unchanged.
    #[n(10)]
    pub annotations: BTreeMap<String, String>,
    /// Below the pod's log directory; no log when empty.
    #[n(11)]
    pub log_path: String,
    /// Whether stdin is kept open.
    #[n(12)]
    pub stdin: bool,
    /// Whether stdin ends with its first client.
    #[n(13)]
    pub stdin_once: bool,
    /// Whether it gets a terminal.
    #[n(14)]
    pub tty: bool,
    /// Limits.
    #[n(15)]
    pub resources: Resources,
    /// Identity and confinement.
    #[n(16)]
    pub security: Security,
    /// Signal number that asks it to end; the image's or SIGTERM when unset.
    #[n(17)]
    pub stop_signal: Option<u8>,
    /// Image annotations of the request.
    #[n(18)]
    pub image_annotations: BTreeMap<String, String>,
    /// Qualified names of CDI devices.
    #[n(50)]
    #[cbor(default)]
    pub cdi_devices: Vec<String>,
}
