//! The namespaces that the containers of a pod share.

use std::os::fd::{BorrowedFd, OwnedFd};

use minicbor::{Decode, Encode};

use super::{SetupFailure, Step};

/// Whose network namespace the pod uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum NetworkMode {
    /// One of its own.
    #[n(0)]
    Pod,
    /// The host's.
    #[n(1)]
    Host,
}

/// Whose IPC namespace the pod uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum IpcMode {
    /// One of its own.
    #[n(0)]
    Pod,
    /// The host's.
    #[n(1)]
    Host,
}

/// Whose PID namespace the pod's containers use by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum PodPidMode {
    /// Each container has its own.
    #[n(0)]
    Container,
    /// All share one, with a pid 1 of ours.
    #[n(1)]
    Pod,
    /// The host's.
    #[n(2)]
    Host,
}

/// What the namespaces of a pod are to be. Travels as CBOR in a sealed memfd.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PodPlan {
    /// The hostname; `None` keeps the host's UTS namespace.
    #[n(0)]
    pub hostname: Option<String>,
    /// Network namespace.
    #[n(1)]
    pub network: NetworkMode,
    /// IPC namespace.
    #[n(2)]
    pub ipc: IpcMode,
    /// PID namespace.
    #[n(3)]
    pub pid: PodPidMode,
    /// Kernel parameters, each of one of the pod's own namespaces.
    #[n(4)]
    pub sysctls: Vec<(String, String)>,
}

/// The pid 1 of a pod that shares its PID namespace.
#[derive(Debug)]
pub struct PodInit {
    /// Its process id in the supervisor's PID namespace.
    pub pid: i32,
    /// Its pidfd: the handle by which containers join the namespace.
    pub pidfd: OwnedFd,
}

/// The namespaces of a pod, held by fd. The process that created them is itself in them.
///
/// All fields are public so that a supervisor that executes a newer binary can hand them on and rebuild this.
#[derive(Debug, Default)]
pub struct PodNamespaces {
    /// Network; `None` is the host's.
    pub net: Option<OwnedFd>,
    /// IPC; `None` is the host's.
    pub ipc: Option<OwnedFd>,
    /// UTS; `None` is the host's.
    pub uts: Option<OwnedFd>,
    /// The pid 1 of the shared PID namespace, when there is one.
    pub init: Option<PodInit>,
}

impl PodPlan {
    /// Reads a plan from its sealed memfd.
    ///
    /// # Errors
    /// [`Step::DecodePlan`] when it cannot be read or is no plan.
    pub fn from_memfd(memfd: BorrowedFd<'_>) -> Result<PodPlan, SetupFailure> {
        let _ = memfd;
        Err(SetupFailure {
            step: Step::DecodePlan,
            path: None,
            errno: libc::ENOSYS,
        })
    }
}

/// Creates the pod's namespaces around the calling process, which must have a single thread.
///
/// # Errors
/// The step that failed. The process is then in an unknown mixture of namespaces and should exit.
pub fn create_namespaces(plan: &PodPlan) -> Result<PodNamespaces, SetupFailure> {
    let _ = plan;
    Err(SetupFailure {
        step: Step::Namespaces,
        path: None,
        errno: libc::ENOSYS,
    })
}
