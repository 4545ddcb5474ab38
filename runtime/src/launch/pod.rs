//! The namespaces that the containers of a pod share.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use minicbor::{Decode, Encode};
use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

use super::failure::{InStep, StepResult};
use super::sealed::{seal, unseal};
use super::sysctl::{self, Sysctl};
use super::{PlanError, SetupFailure, Step, pod_init};
use crate::sys;
use crate::sys::clone::unshare;

/// The kernel's limit of a hostname (`__NEW_UTS_LEN`).
const HOSTNAME_MAX: usize = 64;

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

/// What the namespaces of a pod are to be, as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNamespaceRequest {
    /// The hostname; `None` keeps the host's UTS namespace.
    pub hostname: Option<String>,
    /// Network namespace.
    pub network: NetworkMode,
    /// IPC namespace.
    pub ipc: IpcMode,
    /// PID namespace.
    pub pid: PodPidMode,
    /// Kernel parameters as name and value.
    pub sysctls: Vec<(String, String)>,
}

/// What the namespaces of a pod are to be, validated. Travels as CBOR in a sealed memfd.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PodPlan {
    #[n(0)]
    hostname: Option<String>,
    #[n(1)]
    network: NetworkMode,
    #[n(2)]
    ipc: IpcMode,
    #[n(3)]
    pid: PodPidMode,
    #[n(4)]
    sysctls: Vec<Sysctl>,
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
    /// Validates a request.
    ///
    /// # Errors
    /// [`PlanError`] naming the field: a hostname that is none, or a kernel parameter that does not belong to a
    /// namespace of the pod.
    pub fn new(request: PodNamespaceRequest) -> Result<PodPlan, PlanError> {
        if let Some(hostname) = &request.hostname {
            check_hostname(hostname)?;
        }
        let sysctls = request
            .sysctls
            .iter()
            .map(|(name, value)| Sysctl::parse(name, value, &request))
            .collect::<Result<_, _>>()?;
        Ok(PodPlan {
            hostname: request.hostname,
            network: request.network,
            ipc: request.ipc,
            pid: request.pid,
            sysctls,
        })
    }

    /// Writes the plan into a sealed memfd, to be passed to a supervisor.
    ///
    /// # Errors
    /// What `memfd_create`, `write` and `fcntl(F_ADD_SEALS)` answer.
    pub fn seal(&self) -> std::io::Result<OwnedFd> {
        seal(self)
    }

    /// Reads a plan from its sealed memfd.
    ///
    /// # Errors
    /// [`Step::DecodePlan`] when it cannot be read or is no plan.
    pub fn from_memfd(memfd: BorrowedFd<'_>) -> Result<PodPlan, SetupFailure> {
        unseal(memfd).step(Step::DecodePlan)
    }
}

fn check_hostname(hostname: &str) -> Result<(), PlanError> {
    let reason = match hostname.len() {
        0 => "is empty",
        HOSTNAME_MAX.. if hostname.len() > HOSTNAME_MAX => "is longer than 64 bytes",
        _ if !hostname
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) =>
        {
            "has a character that no hostname has"
        }
        _ => return Ok(()),
    };
    Err(PlanError::Invalid {
        field: "hostname".into(),
        value: hostname.into(),
        reason,
    })
}

/// Creates the pod's namespaces around the calling process, which must have a single thread: network with its
/// loopback raised, IPC, UTS with the hostname, and for a shared PID namespace a pid 1. Sysctls are written last.
///
/// # Errors
/// The step that failed. The process is then in an unknown mixture of namespaces and should exit.
pub fn create_namespaces(plan: &PodPlan) -> Result<PodNamespaces, SetupFailure> {
    let mut flags = UnshareFlags::empty();
    flags.set(UnshareFlags::NEWNET, plan.network == NetworkMode::Pod);
    flags.set(UnshareFlags::NEWIPC, plan.ipc == IpcMode::Pod);
    flags.set(UnshareFlags::NEWUTS, plan.hostname.is_some());
    if !flags.is_empty() {
        unshare(flags).step(Step::Namespaces)?;
    }
    if let Some(hostname) = &plan.hostname {
        rustix::system::sethostname(hostname.as_bytes()).step_at(Step::Hostname, hostname)?;
    }
    if plan.network == NetworkMode::Pod {
        sys::net::raise_loopback().step(Step::Loopback)?;
    }
    sysctl::write_all(&plan.sysctls)?;
    let init = match plan.pid {
        PodPidMode::Pod => Some(pod_init::start()?),
        PodPidMode::Container | PodPidMode::Host => None,
    };
    Ok(PodNamespaces {
        net: own("net", flags.contains(UnshareFlags::NEWNET))?,
        ipc: own("ipc", flags.contains(UnshareFlags::NEWIPC))?,
        uts: own("uts", flags.contains(UnshareFlags::NEWUTS))?,
        init,
    })
}

fn own(name: &str, ours: bool) -> StepResult<Option<OwnedFd>> {
    if !ours {
        return Ok(None);
    }
    let path = format!("/proc/self/ns/{name}");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::empty())
        .map(Some)
        .step_at(Step::Namespaces, path)
}

impl PodNamespaces {
    /// The network namespace, for whoever pins it or connects interfaces.
    pub fn network(&self) -> Option<BorrowedFd<'_>> {
        self.net.as_ref().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> PodNamespaceRequest {
        PodNamespaceRequest {
            hostname: Some("web-0".into()),
            network: NetworkMode::Pod,
            ipc: IpcMode::Pod,
            pid: PodPidMode::Container,
            sysctls: vec![("net.ipv4.ip_unprivileged_port_start".into(), "0".into())],
        }
    }

    #[test]
    fn a_plan_survives_its_memfd() {
        let plan = PodPlan::new(request()).unwrap();
        let memfd = plan.seal().unwrap();
        assert_eq!(PodPlan::from_memfd(memfd.as_fd()).unwrap(), plan);
    }

    #[test]
    fn hostnames_are_checked() {
        for bad in ["", "a b", "a\nb", "a/b", &"x".repeat(65)] {
            let error = PodPlan::new(PodNamespaceRequest {
                hostname: Some(bad.into()),
                ..request()
            })
            .unwrap_err();
            assert!(
                matches!(error, PlanError::Invalid { field, .. } if field == "hostname"),
                "{bad:?}"
            );
        }
        assert!(
            PodPlan::new(PodNamespaceRequest {
                hostname: Some("x".repeat(64)),
                ..request()
            })
            .is_ok()
        );
    }

    #[test]
    fn sysctls_of_a_namespace_that_is_the_hosts_are_refused() {
        let host = PodNamespaceRequest {
            network: NetworkMode::Host,
            ..request()
        };
        assert!(matches!(PodPlan::new(host), Err(PlanError::Contradiction { .. })));
        let shm = vec![("kernel.shmmax".to_owned(), "1".to_owned())];
        let host = PodNamespaceRequest {
            ipc: IpcMode::Host,
            sysctls: shm.clone(),
            ..request()
        };
        assert!(matches!(PodPlan::new(host), Err(PlanError::Contradiction { .. })));
        assert!(
            PodPlan::new(PodNamespaceRequest {
                sysctls: shm,
                ..request()
            })
            .is_ok()
        );
    }
}
