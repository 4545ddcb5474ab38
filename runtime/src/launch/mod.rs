//! The launch of a container process, in two stages or alone.
//!
//! ```text
//! supervisor ──clone3──► stage-1 ─────────────clone3(CLONE_PARENT)──► init ──► execve
//!   parent of both         │ host's mount and pid namespace             │ the container's namespaces
//!                          │ joins the cgroups, decodes the plan        │ moves the mounts, pivots,
//!                          │ makes every mount, detached                │ drops identity and privilege
//!                          ▼                                            ▼
//!        LaunchChannel:  Started{pid} + pidfd          Console + fd, Failed{step, path, errno}
//! ```
//! The end of the stream after `Started` means that `execve` succeeded: the channel closes on exec.
//!
//! Most containers begin a PID namespace of their own and take part in nothing else's. There init is alone until it executes,
//! so it does stage-1's work as well, and one clone is all there is:
//!
//! ```text
//! supervisor ──clone3(CLONE_NEWPID)──► init ─────────────────────────────────────────────────────► execve
//!   parent                               │ host's mount namespace   │ a copy of an empty one
//!                                        │ as stage-1 above         │ as init above, without a root to pivot from
//!                                        ▼                          ▼
//!                              LaunchChannel:  Prepared      Console + fd, Failed{step, path, errno}
//! ```

mod alone;
mod cgroup_mounts;
mod channel;
mod console;
mod devices;
mod empty;
mod exec;
mod failure;
mod hooks;
mod identity;
mod layers;
mod lsm;
mod masks;
mod mounts;
mod plan;
mod pod;
mod pod_init;
mod pod_network;
mod rlimits;
mod rooted;
mod rootfs;
mod sealed;
mod shared;
mod spec;
mod stage1;
mod stdio;
mod step;
mod steps;
mod stock;
mod sysctl;
mod userns;
mod values;
mod volume_fill;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use channel::Reporter;
use failure::StepResult;

use crate::sys::clone::{CloneOptions, Namespaces, clone3};

pub use channel::{LaunchChannel, LaunchMessage, Received};
pub use empty::make as make_empty_namespace;
pub use mounts::probe_recursive_read_only;
pub(crate) use plan::{CgroupLayout, HierarchyMount};
pub use plan::{ExecPlan, LaunchPlan, PidMode, Root};
pub use pod::{
    IpcMode, NetworkMode, PodInit, PodNamespaceRequest, PodNamespaces, PodPidMode, PodPlan, create_namespaces,
};
pub use pod_network::make_network_namespace;
pub use spec::{ExactStrings, ExecContext, HookContext, LaunchContext, Layer, PlanError, Rootfs, Sharing};
pub use step::{SetupFailure, Step};
pub use stock::{Stock, StockPlan};
pub use sysctl::check_sysctl;
pub use userns::{IdMapping, IdRange, probe_user_namespaces};
pub(crate) use values::HostPath;

/// The child's ends of its standard streams. `None` means the container's own `/dev/null`, or the terminal
/// when the plan asks for one.
#[derive(Debug, Default)]
pub struct ChildStdio {
    /// Standard input, to be read by the child.
    pub stdin: Option<OwnedFd>,
    /// Standard output, to be written by the child.
    pub stdout: Option<OwnedFd>,
    /// Standard error, to be written by the child.
    pub stderr: Option<OwnedFd>,
}

/// What a launch needs to know of its surroundings besides the plan.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The pod's namespaces; the calling process must itself be in its network, IPC and UTS namespaces.
    pub pod: &'a PodNamespaces,
    /// The container's directory in the v2 (or hybrid `unified`) hierarchy, for `CLONE_INTO_CGROUP`.
    pub cgroup_v2: Option<BorrowedFd<'a>>,
    /// Pidfd of the container whose PID namespace is shared, when the plan says [`PidMode::Target`].
    pub pid_target: Option<BorrowedFd<'a>>,
}

/// What was made ready for a container that is launched alone. It can do without any of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ahead<'a> {
    /// The root file system as a detached mount, as [`Root::make`] gives it.
    pub root: Option<BorrowedFd<'a>>,
    /// What [`make_empty_namespace`] gives: the container's mount namespace is copied from it, and not from the host's,
    /// which costs for each mount that the host has.
    pub empty: Option<BorrowedFd<'a>>,
    /// Mounts that are the same for most containers.
    pub stock: Option<&'a Stock>,
}

/// A launch under way. All of its processes are children of the caller; reap them by pidfd.
#[derive(Debug)]
pub struct Launching {
    /// The process that was cloned.
    pub cloned: Cloned,
    /// Where the launch reports.
    pub channel: LaunchChannel,
}

/// Who the first process of a launch is.
#[derive(Debug)]
pub enum Cloned {
    /// Stage-1, by its pidfd. It always exits by itself; the other process is told of by `Started`.
    Stage1(OwnedFd),
    /// Init itself.
    Init {
        /// Its process id in the caller's PID namespace.
        pid: i32,
        /// Its pidfd.
        pidfd: OwnedFd,
    },
}

/// Starts a container from a sealed [`LaunchPlan`]. Returns as soon as stage-1 is cloned: everything slow happens there.
///
/// # Errors
/// Only what `socketpair` and `clone3` answer; failures of the launch itself arrive on the channel.
pub fn launch_container(
    plan: BorrowedFd<'_>,
    stdio: ChildStdio,
    around: Surroundings<'_>,
) -> io::Result<Launching> {
    launch(around, |reporter| {
        stage1::container(plan, &stdio, around, reporter)
    })
}

/// As [`launch_container`], of a plan that [is launched alone](LaunchPlan::is_alone), in a pod without a user namespace.
///
/// # Errors
/// As [`launch_container`].
pub fn launch_alone(
    plan: BorrowedFd<'_>,
    stdio: ChildStdio,
    around: Surroundings<'_>,
    ahead: Ahead<'_>,
) -> io::Result<Launching> {
    let (channel, reporter) = channel::pair()?;
    let options = CloneOptions {
        namespaces: Namespaces {
            pid: true,
            ..Namespaces::default()
        },
        cgroup: around.cgroup_v2,
        ..CloneOptions::default()
    };
    let init = clone3(options, || {
        stage1::run(&reporter, || alone::container(plan, &stdio, ahead, &reporter))
    })?;
    Ok(Launching {
        cloned: Cloned::Init {
            pid: init.pid,
            pidfd: init.pidfd,
        },
        channel,
    })
}

/// Starts a process inside a running container from a sealed [`ExecPlan`]. `init` is the pidfd of the container's
/// init.
///
/// # Errors
/// As [`launch_container`].
pub fn launch_exec(
    plan: BorrowedFd<'_>,
    stdio: ChildStdio,
    around: Surroundings<'_>,
    init: BorrowedFd<'_>,
) -> io::Result<Launching> {
    launch(around, |reporter| {
        stage1::exec(plan, &stdio, around, init, reporter)
    })
}

fn launch(
    around: Surroundings<'_>,
    stage: impl FnOnce(&Reporter) -> StepResult<()>,
) -> io::Result<Launching> {
    let (channel, reporter) = channel::pair()?;
    let options = CloneOptions {
        cgroup: around.cgroup_v2,
        ..CloneOptions::default()
    };
    let child = clone3(options, || stage1::run(&reporter, || stage(&reporter)))?;
    Ok(Launching {
        cloned: Cloned::Stage1(child.pidfd),
        channel,
    })
}
