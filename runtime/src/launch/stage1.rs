//! Stage-1: the child that still belongs to the host.
//!
//! It is a clone of the supervisor with one thread. What may take long or hang (a dead volume) hangs here and not
//! in the supervisor. For a PID namespace that others are already in, it does everything up to the last step by
//! itself: whoever appears in such a namespace must already be harmless.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};

use super::channel::Reporter;
use super::exec::{become_program, lead_session};
use super::failure::{InStep, StepResult, failure};
use super::hooks::{self, Runner};
use super::mounts::{self, borrow_procfs};
use super::plan::{CgroupEntry, ExecPlan, HooksPlan, LaunchPlan, PidMode, ProcessPlan};
use super::rooted::{Root, file_type};
use super::rootfs::Entry;
use super::sealed::unseal;
use super::steps::{Entered, Next, Prepared, Ties, absent_of, confine, enter_root, exec_console};
use super::stock::Shelf;
use super::userns::{self, IdMapping, UserNamespace};
use super::{ChildStdio, Step, Surroundings, lsm, rlimits, rootfs};
use crate::sys;
use crate::sys::clone::{CloneOptions, Namespaces, clone_sibling, clone3, unshare};
use crate::sys::fds::close_all_except;

/// What to do when a filter denies the last clone: see [`confine`].
const UNDER_FILTER: &str = "(under a seccomp profile, which must allow clone, write and setsid for an exec and in a shared \
                            pid namespace, or the container set no_new_privs)";

/// Runs a stage and reports how it failed; returns the exit code.
pub(crate) fn run(reporter: &Reporter, stage: impl FnOnce() -> StepResult<()>) -> i32 {
    let failed = match catch_unwind(AssertUnwindSafe(stage)) {
        Ok(Ok(())) => return 0,
        Ok(Err(failed)) => failed,
        Err(_) => failure(Step::Internal, None, Errno::NOTRECOVERABLE),
    };
    reporter.failed(&failed);
    1
}

/// Starts a container.
pub(crate) fn container(
    plan: BorrowedFd<'_>,
    stdio: &ChildStdio,
    around: Surroundings<'_>,
    reporter: &Reporter,
) -> StepResult<()> {
    let pod_init = around.pod.init.as_ref().map(|init| init.pidfd.as_fd());
    let user = around.pod.user.as_ref().map(AsFd::as_fd);
    let given = [
        Some(plan),
        Some(reporter.as_fd()),
        around.pid_target,
        pod_init,
        user,
    ];
    keep_only(stdio, given.into_iter().flatten())?;
    let plan: LaunchPlan = unseal(plan).step(Step::DecodePlan)?;
    let user = agree_on_user(plan.user.as_ref(), user)?;
    settle(&plan.cgroup, &plan.process)?;
    let shared_pid = match plan.pid {
        PidMode::Container | PidMode::Host => None,
        PidMode::Pod => Some(pod_init.ok_or(Errno::SRCH).step_at(Step::Namespaces, "pod pid")?),
        PidMode::Target => Some(
            around
                .pid_target
                .ok_or(Errno::SRCH)
                .step_at(Step::Namespaces, "target pid")?,
        ),
    };
    let prepared = Host { user, shared_pid }.prepare(&plan, None)?;
    if let Some(user) = user {
        // The last that is done as the host's root.
        rlimits::set(&plan.process.rlimits)?;
        give_stdio(stdio, user.ids)?;
        if let Some(namespace) = shared_pid {
            // By a pidfd this takes privileges over the process, which the pod's root does not have.
            join_pid_later(namespace)?;
        }
        userns::enter(user.namespace).step_at(Step::Namespaces, "user")?;
    }
    // From here on fds are closed by number, under the feet of their owners, which therefore are never dropped.
    let prepared = ManuallyDrop::new(prepared);
    match shared_pid {
        None => clone_then_set_up(&plan, stdio, &prepared, reporter),
        Some(namespace) => set_up_then_clone(&plan, stdio, &prepared, namespace, reporter),
    }
}

/// Which of the host's and the pod's namespaces have a part in a container.
#[derive(Clone, Copy, Default)]
pub(super) struct Host<'a> {
    user: Option<UserNamespace<'a>>,
    /// The PID namespace of others that it joins.
    shared_pid: Option<BorrowedFd<'a>>,
}

impl Host<'_> {
    /// Makes all that comes from the host, while the process is in its mount and user namespace. `root` is a root file
    /// system that has been made already.
    pub(super) fn prepare(self, plan: &LaunchPlan, root: Option<BorrowedFd<'_>>) -> StepResult<Prepared> {
        let Host { user, shared_pid } = self;
        let (source, label) = (&plan.root.source, plan.root.label.as_deref());
        let runner = Runner::start(plan.hooks.as_ref())?;
        let attributes = lsm::procfs_for(&plan.process)?;
        let root = match root {
            Some(root) => Some(rustix::io::fcntl_dupfd_cloexec(root, 3).step(Step::PrepareRoot)?),
            None => rootfs::prepare(source, label, user)?,
        };
        let mut sources = mounts::prepare(plan, user)?;
        let procfs = shared_pid
            .map(borrow_procfs)
            .transpose()
            .step_at(Step::Mount, "/proc")?;
        let root = root.map_or_else(|| rootfs::prepare_by_mount(source, label, user), Ok)?;
        mounts::prepare_images(plan, &mut sources, user)?;
        mounts::fill_volumes(plan, &sources, root.as_fd())?;
        Ok(Prepared {
            root,
            sources,
            procfs,
            attributes,
            runner,
        })
    }
}

/// Init is the first in a PID namespace of its own, or in the host's, and sets itself up there.
fn clone_then_set_up(
    plan: &LaunchPlan,
    stdio: &ChildStdio,
    prepared: &Prepared,
    reporter: &Reporter,
) -> StepResult<()> {
    let namespaces = Namespaces {
        mount: true,
        pid: plan.pid == PidMode::Container,
        cgroup: plan.cgroup.namespace,
        ..Namespaces::default()
    };
    let init = last_clone(namespaces, reporter, || {
        let seen = ManuallyDrop::new(enter_root(
            plan,
            prepared,
            (Entry::Pivot, Shelf::default()),
            reporter,
        )?);
        confine(
            &plan.process,
            &ties(stdio, prepared, &seen, reporter),
            Next::Program,
        )?;
        hooks::before_exec(plan.hooks.as_ref())?;
        Err(become_program(&plan.process))
    })?;
    match &prepared.runner {
        Some(runner) => runner.tell(init),
        None => Ok(()),
    }
}

/// The way into a PID namespace that others are in: set up here, and enter it with the last clone.
fn set_up_then_clone(
    plan: &LaunchPlan,
    stdio: &ChildStdio,
    prepared: &Prepared,
    namespace: BorrowedFd<'_>,
    reporter: &Reporter,
) -> StepResult<()> {
    if let Some(runner) = &prepared.runner {
        // Who has the namespaces now; what becomes the program joins the PID namespace last.
        runner.tell(rustix::process::getpid().as_raw_nonzero().get())?;
    }
    let mut own = UnshareFlags::NEWNS;
    own.set(UnshareFlags::NEWCGROUP, plan.cgroup.namespace);
    unshare(own).step(Step::Namespaces)?;
    let seen = ManuallyDrop::new(enter_root(
        plan,
        prepared,
        (Entry::Pivot, Shelf::default()),
        reporter,
    )?);
    if plan.user.is_none() {
        join_pid_later(namespace)?;
    }
    confine(
        &plan.process,
        &ties(stdio, prepared, &seen, reporter),
        Next::Clone,
    )?;
    clone_program(&plan.process, plan.hooks.as_ref(), reporter)
}

pub(super) fn ties<'a>(
    stdio: &'a ChildStdio,
    prepared: &'a Prepared,
    seen: &'a Entered<'_>,
    reporter: &'a Reporter,
) -> Ties<'a> {
    Ties {
        stdio,
        absent: seen.absent_stdio(),
        attributes: prepared.attributes.as_ref(),
        reporter,
    }
}

/// Makes a PID namespace the one that later children are born into; the process itself stays where it is.
fn join_pid_later(namespace: BorrowedFd<'_>) -> StepResult<()> {
    move_into_thread_name_spaces(namespace, ThreadNameSpaceType::PROCESS_ID).step_at(Step::Namespaces, "pid")
}

/// A container is in the user namespace of its pod or in none: a plan that does not know of it would run as the host's
/// root, one that knows of another would show wrong owners.
fn agree_on_user<'a>(
    ids: Option<&'a IdMapping>,
    namespace: Option<BorrowedFd<'a>>,
) -> StepResult<Option<UserNamespace<'a>>> {
    match (ids, namespace) {
        (None, None) => Ok(None),
        (Some(ids), Some(namespace)) => Ok(Some(UserNamespace { namespace, ids })),
        _ => Err(failure(Step::Namespaces, Some("user".into()), Errno::INVAL)),
    }
}

/// Gives the pipes to the root of the user namespace, which could not take them itself.
fn give_stdio(stdio: &ChildStdio, ids: &IdMapping) -> StepResult<()> {
    let (uid, gid) = ids.root();
    for stream in [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten() {
        let kind = file_type(stream.as_fd()).step(Step::Stdio)?;
        if matches!(kind, FileType::Fifo | FileType::Socket) {
            rustix::fs::fchown(stream, Some(uid), Some(gid)).step(Step::Stdio)?;
        }
    }
    Ok(())
}

/// Starts a process in a running container, whose init `init` is the pidfd of.
pub(crate) fn exec(
    plan: BorrowedFd<'_>,
    stdio: &ChildStdio,
    around: Surroundings<'_>,
    init: BorrowedFd<'_>,
    reporter: &Reporter,
) -> StepResult<()> {
    let user = around.pod.user.as_ref().map(AsFd::as_fd);
    let given = [Some(plan), Some(reporter.as_fd()), Some(init), user];
    keep_only(stdio, given.into_iter().flatten())?;
    let plan: ExecPlan = unseal(plan).step(Step::DecodePlan)?;
    agree_on_user(plan.user.as_ref(), user)?;
    settle(&plan.cgroup, &plan.process)?;
    if let Some(ids) = &plan.user {
        rlimits::set(&plan.process.rlimits)?;
        give_stdio(stdio, ids)?;
    }
    // Closed by number with all others.
    let attributes = ManuallyDrop::new(lsm::procfs_for(&plan.process)?);
    let mut all = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::CONTROL_GROUP
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::PROCESS_ID;
    all.set(ThreadNameSpaceType::USER, plan.user.is_some());
    move_into_thread_name_spaces(init, all).step(Step::Namespaces)?;
    if plan.user.is_some() {
        userns::become_root().step_at(Step::Namespaces, "user")?;
    }
    let root = ManuallyDrop::new(rootfs::open_root().step(Step::Namespaces)?);
    let root = Root::new(root.as_fd());
    let console = ManuallyDrop::new(exec_console(root, &plan.process, reporter)?);
    let ties = Ties {
        stdio,
        absent: absent_of(console.as_ref(), None, root),
        attributes: attributes.as_ref(),
        reporter,
    };
    confine(&plan.process, &ties, Next::Clone)?;
    clone_program(&plan.process, None, reporter)
}

/// Clones the process that becomes the program out of one that is confined already.
fn clone_program(process: &ProcessPlan, hooks: Option<&HooksPlan>, reporter: &Reporter) -> StepResult<()> {
    let stage = || {
        hooks::before_exec(hooks)?;
        lead_session(process)?;
        Err(become_program(process))
    };
    // Filters deny clone3, whose flags they cannot see; clone can be told from a clone with new namespaces.
    let child = clone_sibling(|| run(reporter, stage)).map_err(|errno| match process.seccomp {
        Some(_) => failure(Step::CloneInit, Some(UNDER_FILTER.into()), errno),
        None => failure(Step::CloneInit, None, errno),
    })?;
    reporter.started_here(child.pid).step(Step::CloneInit)
}

/// Clones the process that becomes the program, as a sibling of this one, and tells the supervisor. Its process id.
fn last_clone(
    namespaces: Namespaces,
    reporter: &Reporter,
    stage: impl FnOnce() -> StepResult<()>,
) -> StepResult<i32> {
    let options = CloneOptions {
        namespaces,
        as_sibling: true,
        cgroup: None,
    };
    let child = clone3(options, || run(reporter, stage)).step(Step::CloneInit)?;
    reporter
        .started(child.pid, child.pidfd.as_fd())
        .step(Step::CloneInit)?;
    Ok(child.pid)
}

/// Closes what the supervisor had open: pipes of other containers must not live as long as a hanging launch.
pub(super) fn keep_only<'a>(stdio: &ChildStdio, fds: impl Iterator<Item = BorrowedFd<'a>>) -> StepResult<()> {
    let mut keep: Vec<i32> = stdio.raw().chain(fds.map(|fd| fd.as_raw_fd())).collect();
    // The three standard streams stay until others are put over them, so that no new fd takes their numbers.
    keep.extend([0, 1, 2]);
    close_all_except(&mut keep).step(Step::Internal)
}

/// Enters the container's cgroups and takes its place in the order of OOM victims, before anything is allocated
/// on its behalf.
pub(super) fn settle(cgroup: &CgroupEntry, process: &ProcessPlan) -> StepResult<()> {
    rustix::process::umask(Mode::empty());
    // A real-time process would be refused by the cpu controller. That failing here is as good as what comes next.
    let _ = sys::sched::use_default_policy();
    for tasks in &cgroup.tasks {
        // "0" is the writer itself. Unlike a pid, it needs no lock on all threads of the system, for which the
        // kernel would wait up to 10 ms.
        write(tasks.as_c_str(), b"0").step_at(Step::JoinCgroup, tasks)?;
    }
    let adj = process.oom_score_adj.to_string();
    match write(c"/proc/self/oom_score_adj", adj.as_bytes()) {
        // Lowering takes CAP_SYS_RESOURCE; a daemon that lacks it keeps the inherited value.
        Err(Errno::ACCESS | Errno::PERM) => Ok(()),
        other => other.step_at(Step::OomScore, adj),
    }
}

fn write(path: &std::ffi::CStr, bytes: &[u8]) -> rustix::io::Result<()> {
    let file: OwnedFd = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, bytes).map(drop)
}
