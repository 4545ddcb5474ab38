//! Values that several messages share.

use minicbor::{Decode, Encode};

use super::id::{ContainerId, ExecId};

/// Nanoseconds since the Unix epoch, by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct UnixNanos(#[n(0)] pub i64);

/// What a side can do beyond version 1 of the protocol; unknown bits are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Features(#[n(0)] pub u64);

/// A process, named so that a later process with the same pid is not taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Process {
    /// Process id, in the host's pid namespace.
    #[n(0)]
    pub pid: i32,
    /// Start of the process in clock ticks since boot: field 22 of `/proc/<pid>/stat`, proc(5).
    #[n(1)]
    pub start_time: u64,
    /// When its `execve` was seen to have succeeded.
    #[n(2)]
    pub started_at: UnixNanos,
}

/// A container's init, or one exec in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(map)]
pub struct Target {
    /// The container.
    #[n(0)]
    pub container: ContainerId,
    /// The exec; none means the container's init.
    #[n(1)]
    pub exec: Option<ExecId>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ExitStatus {
    /// The exit code; 128 + signal when a signal ended it, as shells have it.
    #[n(0)]
    pub code: i32,
    /// The signal that ended it.
    #[n(1)]
    pub signal: Option<i32>,
    /// Init died by SIGKILL and the `oom_kill` counter of its cgroup had risen.
    #[n(2)]
    pub oom_killed: bool,
    /// When the supervisor saw the end; never before `started_at`.
    #[n(3)]
    pub finished_at: UnixNanos,
}

impl Features {
    /// The supervisor can exec a newer binary in place.
    pub const REEXEC: Features = Features(1);

    /// The supervisor launches containers alone, with what was made ahead.
    pub const ALONE: Features = Features(2);

    /// What this build can do.
    pub const OURS: Features = Features(Features::REEXEC.0 | Features::ALONE.0);

    /// Whether all bits of `other` are set.
    pub fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }
}

impl UnixNanos {
    /// The wall clock now.
    pub fn now() -> UnixNanos {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        UnixNanos(now.tv_sec * 1_000_000_000 + now.tv_nsec)
    }
}

impl Target {
    /// The container's init.
    pub fn init(container: ContainerId) -> Target {
        Target {
            container,
            exec: None,
        }
    }

    /// An exec in the container.
    pub fn exec(container: ContainerId, exec: ExecId) -> Target {
        Target {
            container,
            exec: Some(exec),
        }
    }
}
