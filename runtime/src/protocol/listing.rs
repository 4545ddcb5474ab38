//! All that a supervisor keeps, as a daemon that starts anew wants to know it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use minicbor::{Decode, Encode};

use super::id::{ContainerId, ExecId, PodId};
use super::value::{ExitStatus, Process, Target};
use crate::sys::memfd;

/// Largest listing in bytes that a client reads.
const MAX_LISTING: u64 = 16 << 20;

/// Everything in one supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Listing {
    /// The pod.
    #[n(0)]
    pub pod: PodId,
    /// Whether `CreatePod` has succeeded.
    #[n(1)]
    pub created: bool,
    /// The pod's pid 1, when it has one.
    #[n(2)]
    pub init_pid: Option<i32>,
    /// Its containers.
    #[n(3)]
    pub containers: Vec<ContainerEntry>,
    /// Its execs that run.
    #[n(4)]
    pub execs: Vec<ExecEntry>,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ContainerEntry {
    /// Its id.
    #[n(0)]
    pub container: ContainerId,
    /// Where it is in its life.
    #[n(1)]
    pub state: ContainerState,
    /// Bytes of its log that could not be written.
    #[n(2)]
    pub log_lost: u64,
}

/// A container's life as the supervisor sees it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ContainerState {
    /// Its launch is under way.
    #[n(0)]
    Starting,
    /// Its init runs, or has ended and its last output is being written.
    #[n(1)]
    Running(#[n(0)] Process),
    /// Its init has ended and its exit record is written.
    #[n(2)]
    Exited(#[n(0)] Process, #[n(1)] ExitStatus),
}

/// An exec that runs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ExecEntry {
    /// The exec and its container.
    #[n(0)]
    pub target: Target,
    /// Its process.
    #[n(1)]
    pub process: Process,
}

impl Listing {
    /// The listing in a sealed memfd.
    ///
    /// # Errors
    /// Those of `memfd_create`, `write` and `F_ADD_SEALS`.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        let mut bytes = Vec::new();
        minicbor::encode(self, &mut bytes).map_err(io::Error::other)?;
        memfd::sealed(c"crisp-listing", &bytes)
    }

    /// Reads a listing that came as a descriptor.
    ///
    /// # Errors
    /// `InvalidData` when it is too large, not sealed, or no listing; else those of `read`.
    pub fn read(memfd: OwnedFd) -> io::Result<Listing> {
        let bytes = memfd::read(&File::from(memfd), MAX_LISTING)?;
        minicbor::decode(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
    }

    /// The entry of a container.
    pub fn container(&self, id: &ContainerId) -> Option<&ContainerEntry> {
        self.containers.iter().find(|entry| entry.container == *id)
    }

    /// The entry of an exec.
    pub fn exec(&self, container: &ContainerId, exec: &ExecId) -> Option<&ExecEntry> {
        let target = Target::exec(container.clone(), exec.clone());
        self.execs.iter().find(|entry| entry.target == target)
    }
}
