//! The part of a plan that says what a process is and may do.

use minicbor::{Decode, Encode};

use crate::launch::values::{ContainerPath, ProcessString};
use crate::seccomp::Filter;

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
