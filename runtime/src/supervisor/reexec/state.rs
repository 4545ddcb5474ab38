//! The saved form of a supervisor. Descriptors are places in the bundle.
//!
//! A newer build reads what any older one wrote: keys are added, none is given another meaning.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::protocol::{ContainerId, ExitStatus, PodId, Process, Target, UnixNanos};

/// Everything.
#[derive(Debug, Encode, Decode)]
#[cbor(map)]
pub(super) struct State {
    #[n(0)]
    pub(super) pod: PodId,
    #[n(1)]
    pub(super) exits: u32,
    #[n(2)]
    pub(super) listener: u32,
    #[n(3)]
    pub(super) namespaces: Option<Namespaces>,
    #[n(4)]
    pub(super) connections: Vec<Connection>,
    #[n(5)]
    pub(super) containers: Vec<Container>,
    #[n(6)]
    pub(super) execs: Vec<Exec>,
    #[n(7)]
    pub(super) strays: Vec<u32>,
    /// Index of the connection that asked for the re-exec, if it is still there.
    #[n(8)]
    pub(super) asker: Option<u32>,
    /// The number of its request.
    #[n(9)]
    pub(super) request: u32,
}

#[derive(Debug, Encode, Decode)]
#[cbor(map)]
pub(super) struct Namespaces {
    #[n(0)]
    pub(super) net: Option<u32>,
    #[n(1)]
    pub(super) ipc: Option<u32>,
    #[n(2)]
    pub(super) uts: Option<u32>,
    #[n(3)]
    pub(super) init: Option<u32>,
    #[n(4)]
    pub(super) init_pid: i32,
    #[n(50)]
    pub(super) user: Option<u32>,
}

#[derive(Debug, Encode, Decode)]
#[cbor(map)]
pub(super) struct Connection {
    #[n(0)]
    pub(super) socket: u32,
    /// None before `Hello`, else whether it wants events.
    #[n(1)]
    pub(super) greeted: Option<bool>,
}

#[derive(Debug, Encode, Decode)]
#[cbor(map)]
pub(super) struct Container {
    #[n(0)]
    pub(super) id: ContainerId,
    #[n(1)]
    pub(super) cgroup: Option<String>,
    #[n(2)]
    pub(super) log_lost: u64,
    #[n(3)]
    pub(super) process: Process,
    /// Set when it runs.
    #[n(4)]
    pub(super) running: Option<Running>,
    /// Set when it has ended.
    #[n(5)]
    pub(super) exit: Option<ExitStatus>,
}

#[derive(Debug, Encode, Decode)]
#[cbor(map)]
pub(super) struct Running {
    #[n(0)]
    pub(super) pidfd: u32,
    #[n(1)]
    pub(super) stdin: Option<u32>,
    #[n(2)]
    pub(super) terminal: Option<u32>,
    #[n(3)]
    pub(super) oom: Option<u32>,
    #[n(4)]
    pub(super) oom_at_start: u64,
    #[n(5)]
    pub(super) log: Option<Log>,
    /// Stdin waits for its first client, and ends with it.
    #[n(70)]
    #[cbor(default)]
    pub(super) stdin_once: bool,
}

#[derive(Debug, Encode, Decode)]
#[cbor(map)]
pub(super) struct Log {
    #[n(0)]
    pub(super) file: Option<u32>,
    #[n(1)]
    pub(super) successor: Option<u32>,
    #[n(2)]
    pub(super) lost: u64,
    #[n(3)]
    pub(super) latest: UnixNanos,
    #[n(4)]
    pub(super) stdout: Stream,
    #[n(5)]
    pub(super) stderr: Stream,
    /// Records that the file has not taken yet.
    #[n(70)]
    pub(super) unwritten: Option<ByteVec>,
    /// Bytes of a stream that are not in records yet.
    #[n(71)]
    pub(super) uncut: Option<ByteVec>,
    /// They are of stderr.
    #[n(72)]
    #[cbor(default)]
    pub(super) uncut_stderr: bool,
}

#[derive(Debug, Encode, Decode)]
#[cbor(map)]
pub(super) struct Stream {
    #[n(0)]
    pub(super) fd: Option<u32>,
    /// The line that has no end yet.
    #[n(1)]
    pub(super) held: ByteVec,
    /// Pieces of it are in the file.
    #[n(2)]
    pub(super) continued: bool,
    /// The clients that listen to it.
    #[n(70)]
    #[cbor(default)]
    pub(super) taps: Vec<u32>,
    /// Their bells, in the same order.
    #[n(120)]
    #[cbor(default)]
    pub(super) bells: Vec<Option<u32>>,
}

#[derive(Debug, Encode, Decode)]
#[cbor(map)]
pub(super) struct Exec {
    #[n(0)]
    pub(super) target: Target,
    #[n(1)]
    pub(super) process: Process,
    #[n(2)]
    pub(super) pidfd: u32,
    #[n(3)]
    pub(super) terminal: Option<u32>,
    /// Index of its connection; none when that has gone.
    #[n(4)]
    pub(super) owner: Option<u32>,
    /// Milliseconds until it is killed, when its owner has gone.
    #[n(5)]
    pub(super) kill_in: Option<u64>,
}
