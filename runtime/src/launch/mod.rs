//! The launch of a container process, in two stages.
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

mod cgroup_mounts;
mod channel;
mod console;
mod devices;
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
mod sysctl;
mod userns;
mod values;
mod volume_fill;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use channel::Reporter;
use failure::StepResult;

use crate::sys::clone::{CloneOptions, clone3};

pub use channel::{LaunchChannel, LaunchMessage, Received};
pub use mounts::probe_recursive_read_only;
pub(crate) use plan::{CgroupLayout, HierarchyMount};
pub use plan::{ExecPlan, LaunchPlan, PidMode};
pub use pod::{
    IpcMode, NetworkMode, PodInit, PodNamespaceRequest, PodNamespaces, PodPidMode, PodPlan, begin_network,
    complete_namespaces, create_namespaces,
};
pub use spec::{ExactStrings, ExecContext, HookContext, LaunchContext, Layer, PlanError, Rootfs, Sharing};
pub use step::{SetupFailure, Step};
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

/// A launch under way. Both processes are children of the caller; reap them by pidfd.
#[derive(Debug)]
pub struct Launching {
    /// Process id of stage-1, in the caller's PID namespace.
    pub stage1_pid: i32,
    /// Pidfd of stage-1, which always exits by itself.
    pub stage1: OwnedFd,
    /// Where the launch reports.
    pub channel: LaunchChannel,
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
        stage1_pid: child.pid,
        stage1: child.pidfd,
        channel,
    })
}
