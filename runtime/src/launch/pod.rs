//! The namespaces that the containers of a pod share.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use minicbor::{Decode, Encode};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::failure::{InStep, StepResult, failure};
use super::sealed::{seal, unseal};
use super::sysctl::{self, Sysctl};
use super::userns::{self, IdMapping};
use super::{LaunchMessage, PlanError, Received, SetupFailure, Step, channel, pod_init, pod_network, stage1};
use crate::seccomp::Filter;
use crate::sys;
use crate::sys::clone::{Namespaces, unshare};

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
    /// The ids of a user namespace of the pod's own, which then owns all others; `None` is the host's.
    pub user: Option<IdMapping>,
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
    #[n(50)]
    user: Option<IdMapping>,
    /// What its own pid 1 may call: compiled here, so that no supervisor carries a compiler.
    #[n(140)]
    init_filter: Option<Filter>,
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
    /// User; `None` is the host's.
    pub user: Option<OwnedFd>,
}

impl PodPlan {
    /// Validates a request.
    ///
    /// # Errors
    /// [`PlanError`] naming the field: a hostname that is none, a kernel parameter that does not belong to a
    /// namespace of the pod, or a user namespace together with a namespace of the host's that it could not own.
    pub fn new(request: PodNamespaceRequest) -> Result<PodPlan, PlanError> {
        if let Some(hostname) = &request.hostname {
            check_hostname(hostname)?;
        }
        if request.user.is_some() {
            let shared = [
                ("network", request.network == NetworkMode::Host),
                ("ipc", request.ipc == IpcMode::Host),
                ("pid", request.pid == PodPidMode::Host),
            ];
            if let Some((field, _)) = shared.into_iter().find(|(_, host)| *host) {
                return Err(PlanError::Contradiction {
                    field: field.into(),
                    with: "the pod's own user namespace",
                });
            }
        }
        let sysctls = request
            .sysctls
            .iter()
            .map(|(name, value)| Sysctl::parse(name, value, request.network, request.ipc))
            .collect::<Result<_, _>>()?;
        Ok(PodPlan {
            hostname: request.hostname,
            network: request.network,
            ipc: request.ipc,
            pid: request.pid,
            sysctls,
            user: request.user,
            init_filter: (request.pid == PodPidMode::Pod).then(pod_init::only_wait),
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

/// Creates the pod's namespaces around the calling process, which must have a single thread: network, unless it is given
/// (see [`make_network_namespace`](super::make_network_namespace)), IPC, UTS with the hostname, and for a shared PID namespace
/// a pid 1. Sysctls are written last.
///
/// # Errors
/// The step that failed; [`Step::Namespaces`] for a plan to which a given network namespace does not belong. The process
/// is then in an unknown mixture of namespaces and should exit.
pub fn create_namespaces(plan: &PodPlan, network: Option<OwnedFd>) -> Result<PodNamespaces, SetupFailure> {
    if network.is_some() && (plan.user.is_some() || plan.network == NetworkMode::Host) {
        return Err(failure(Step::Namespaces, Some("net".into()), Errno::INVAL));
    }
    if let Some(mapping) = &plan.user {
        return create_owned(plan, mapping);
    }
    let net = match (plan.network, network) {
        (NetworkMode::Host, _) => None,
        (NetworkMode::Pod, None) => Some(pod_network::enter_new()?),
        (NetworkMode::Pod, Some(given)) => {
            move_into_link_name_space(given.as_fd(), Some(LinkNameSpaceType::Network))
                .step_at(Step::Namespaces, "net")?;
            Some(given)
        }
    };
    let mut flags = UnshareFlags::empty();
    flags.set(UnshareFlags::NEWIPC, plan.ipc == IpcMode::Pod);
    flags.set(UnshareFlags::NEWUTS, plan.hostname.is_some());
    if !flags.is_empty() {
        unshare(flags).step(Step::Namespaces)?;
    }
    let procfs = sysctl::procfs_for(&plan.sysctls)?;
    set_up(plan, procfs.as_ref())?;
    let init = match plan.pid {
        PodPidMode::Pod => Some(pod_init::start(init_filter(plan)?, false)?),
        PodPidMode::Container | PodPidMode::Host => None,
    };
    Ok(PodNamespaces {
        net,
        ipc: own("ipc", flags.contains(UnshareFlags::NEWIPC))?,
        uts: own("uts", flags.contains(UnshareFlags::NEWUTS))?,
        init,
        user: None,
    })
}

fn init_filter(plan: &PodPlan) -> StepResult<&Filter> {
    let missing = || failure(Step::PodInit, None, Errno::INVAL);
    plan.init_filter.as_ref().ok_or_else(missing)
}

/// What is done in the namespaces once they exist, by a process that has the privileges of their owner.
fn set_up(plan: &PodPlan, procfs: Option<&OwnedFd>) -> StepResult<()> {
    if let Some(hostname) = &plan.hostname {
        rustix::system::sethostname(hostname.as_bytes()).step_at(Step::Hostname, hostname)?;
    }
    match procfs {
        Some(procfs) => sysctl::write_all(&plan.sysctls, procfs),
        None => Ok(()),
    }
}

/// As [`create_namespaces`], with a user namespace that owns all others. A child makes them, since the supervisor
/// stays in the host's: it is from there that volumes and layers are id-mapped. It then joins the rest.
fn create_owned(plan: &PodPlan, mapping: &IdMapping) -> StepResult<PodNamespaces> {
    // The host's process namespace is not the pod's root's to show, and some parameters are its alone to write.
    let procfs = sysctl::procfs_for(&plan.sysctls)?;
    let (channel, reporter) = channel::pair()
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        .step(Step::Namespaces)?;
    let namespaces = Namespaces {
        net: true,
        ipc: true,
        uts: plan.hostname.is_some(),
        ..Namespaces::default()
    };
    let work = || {
        stage1::run(&reporter, || {
            sys::net::raise_loopback().step(Step::Loopback)?;
            set_up(plan, procfs.as_ref())?;
            if plan.pid == PodPidMode::Pod {
                let init = pod_init::start(init_filter(plan)?, true)?;
                reporter
                    .started(init.pid, init.pidfd.as_fd())
                    .step(Step::PodInit)?;
            }
            Ok(())
        })
    };
    let parked = userns::park(mapping, namespaces, work).step_at(Step::Namespaces, "user")?;
    drop(reporter);
    let open = |name: &str| parked.namespace(name).step_at(Step::Namespaces, name);
    let mut made = PodNamespaces {
        user: Some(open("user")?),
        net: Some(open("net")?),
        ipc: Some(open("ipc")?),
        uts: plan.hostname.as_ref().map(|_| open("uts")).transpose()?,
        init: None,
    };
    parked.release().step(Step::Namespaces)?;
    loop {
        match channel.wait() {
            Ok(Received::Message(LaunchMessage::Started { pid, pidfd })) => {
                made.init = Some(PodInit { pid, pidfd });
            }
            Ok(Received::Message(LaunchMessage::Failed(failed))) => return Err(failed),
            Ok(Received::Eof) => break,
            _ => return Err(failure(Step::Namespaces, None, Errno::PROTO)),
        }
    }
    if !userns::finished(parked) || made.init.is_some() != (plan.pid == PodPidMode::Pod) {
        return Err(failure(Step::Namespaces, Some("user".into()), Errno::CHILD));
    }
    for (namespace, kind) in [
        (&made.net, LinkNameSpaceType::Network),
        (&made.ipc, LinkNameSpaceType::InterProcessCommunication),
        (&made.uts, LinkNameSpaceType::HostNameAndNISDomainName),
    ] {
        if let Some(namespace) = namespace {
            move_into_link_name_space(namespace.as_fd(), Some(kind)).step(Step::Namespaces)?;
        }
    }
    Ok(made)
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
            user: None,
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
