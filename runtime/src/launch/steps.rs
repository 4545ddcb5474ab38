//! The ordered steps that turn a process into a container's process.
//!
//! [`enter_root`] changes what the process sees, [`confine`] what it may do. Between the two and `execve` lies only
//! `exec::become_program`.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::channel::Reporter;
use super::console::{Console, find_devpts};
use super::exec::{freshen, lead_session};
use super::failure::{InStep, StepResult, failure};
use super::hooks::{self, Runner};
use super::mounts::{Source, attach_fresh, attach_image, attach_volume, fresh};
use super::plan::{FileSystem, LaunchPlan, MountPlan, MountSource, ProcessPlan};
use super::rooted::{Kind, Root};
use super::rootfs::Entry;
use super::stdio::{Absent, wire};
use super::stock::Shelf;
use super::values::ContainerPath;
use super::{ChildStdio, Step, cgroup_mounts, devices, identity, lsm, masks, rlimits, rootfs};
use crate::sys;
use crate::sys::mount::{AttrChange, set_attributes};

/// What stage-1 made in the host's mount namespace.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The root file system.
    pub(crate) root: OwnedFd,
    /// What each mount of the plan comes from.
    pub(crate) sources: Vec<Source>,
    /// The procfs of a PID namespace that the process is not in.
    pub(crate) procfs: Option<OwnedFd>,
    /// The procfs through which a security module is told of the program.
    pub(crate) attributes: Option<OwnedFd>,
    /// Who runs the hooks of the host.
    pub(crate) runner: Option<Runner>,
}

/// What was found or made on the way into the root and is needed afterwards.
#[derive(Debug)]
pub(crate) struct Entered<'a> {
    root: Root<'a>,
    dev: Option<OwnedFd>,
    console: Option<Console>,
}

impl<'a> Entered<'a> {
    /// Where streams come from that nobody passed.
    pub(crate) fn absent_stdio(&self) -> Absent<'_> {
        absent_of(self.console.as_ref(), self.dev.as_ref(), self.root)
    }
}

/// The terminal if there is one, else a null device that can be trusted.
pub(crate) fn absent_of<'a>(
    console: Option<&'a Console>,
    dev: Option<&'a OwnedFd>,
    root: Root<'a>,
) -> Absent<'a> {
    match (console, dev) {
        (Some(console), _) => Absent::Console(console.slave.as_fd()),
        (None, Some(dev)) => Absent::Dev(dev.as_fd()),
        (None, None) => Absent::Root(root),
    }
}

/// Builds the container's file tree in a mount namespace of its own, and makes it the only one there is. What the shelf has
/// need not be made.
pub(crate) fn enter_root<'a>(
    plan: &LaunchPlan,
    prepared: &'a Prepared,
    (entry, mut shelf): (Entry, Shelf<'_>),
    reporter: &Reporter,
) -> StepResult<Entered<'a>> {
    if entry == Entry::Pivot {
        rootfs::make_all_private().step(Step::AttachRoot)?;
    }
    let root_fd = prepared.root.as_fd();
    match &plan.hooks {
        Some(hooks) => {
            let bundle = std::path::Path::new(std::ffi::OsStr::from_bytes(hooks.bundle.to_bytes()));
            rootfs::attach(root_fd, &bundle.join(hooks::ROOT))?;
        }
        None => rootfs::attach(root_fd, "/".as_ref())?,
    }
    let root = Root::new(root_fd);
    let (mut dev, mut devpts) = (None, None);
    for (mount, source) in plan.mounts.iter().zip(&prepared.sources) {
        match (&mount.source, source) {
            (_, Source::Volume(volume)) => attach_volume(root, mount, volume)?,
            (MountSource::Image { path, .. }, Source::Image(tree)) => attach_image(root, mount, path, tree)?,
            (_, Source::Dev(made)) => {
                attach_fresh(root, mount, FileSystem::Dev, made.as_fd())?;
                let kept = rustix::io::fcntl_dupfd_cloexec(made, 3).step_at(Step::Mount, &mount.target)?;
                dev = Some(kept);
            }
            (MountSource::Cgroup { layout }, Source::Cgroups(clones)) => {
                let made = shelf.take(mount, &plan.devices);
                cgroup_mounts::attach_all(root, mount, layout, clones, made)?;
            }
            (MountSource::Fresh { kind, options }, Source::Fresh) => {
                let made = match shelf.take(mount, &plan.devices) {
                    Some(made) => made,
                    None => make_fresh(plan, mount, *kind, options, prepared.procfs.as_ref())?,
                };
                attach_fresh(root, mount, *kind, made.as_fd())?;
                match kind {
                    FileSystem::Dev => dev = Some(made),
                    FileSystem::Devpts => devpts = Some(made),
                    _ => {}
                }
            }
            _ => return Err(failure(Step::Internal, None, Errno::INVAL)),
        }
    }
    let console = container_console(root, &plan.process, devpts.as_ref(), reporter)?;
    masks::mask(root, &plan.masked, dev.as_ref().map(AsFd::as_fd), shelf)?;
    masks::make_readonly(root, &plan.readonly)?;
    if let Some(hooks) = &plan.hooks {
        hooks::before_pivot(hooks, prepared.runner.as_ref())?;
    }
    rootfs::enter(root_fd, entry)?;
    root.ensure(&plan.process.cwd, Kind::Directory)
        .step_at(Step::WorkingDir, &plan.process.cwd)?;
    rootfs::finish(root_fd, &plan.root)?;
    Ok(Entered { root, dev, console })
}

fn make_fresh(
    plan: &LaunchPlan,
    mount: &MountPlan,
    kind: FileSystem,
    options: &[(String, String)],
    procfs: Option<&OwnedFd>,
) -> StepResult<OwnedFd> {
    match (kind, procfs) {
        (FileSystem::Proc, Some(borrowed)) => {
            let attributes = mount.attributes;
            let change = AttrChange {
                set: rustix::mount::MountAttrFlags::from_bits_retain(attributes.set),
                clear: rustix::mount::MountAttrFlags::from_bits_retain(attributes.clear),
                ..AttrChange::default()
            };
            let procfs = rustix::io::fcntl_dupfd_cloexec(borrowed, 3).step_at(Step::Mount, &mount.target)?;
            set_attributes(procfs.as_fd(), change).step_at(Step::Mount, &mount.target)?;
            Ok(procfs)
        }
        (FileSystem::Dev, _) => {
            let dev = fresh(kind, options, mount.attributes).step_at(Step::Mount, &mount.target)?;
            devices::populate(dev.as_fd(), &plan.devices, None)?;
            Ok(dev)
        }
        _ => fresh(kind, options, mount.attributes).step_at(Step::Mount, &mount.target),
    }
}

/// Allocates the terminal of a container, shows it as `/dev/console` and sends its master to the supervisor.
fn container_console(
    root: Root<'_>,
    process: &ProcessPlan,
    devpts: Option<&OwnedFd>,
    reporter: &Reporter,
) -> StepResult<Option<Console>> {
    let Some(terminal) = process.terminal else {
        return Ok(None);
    };
    let console = match devpts {
        Some(devpts) => Console::allocate(devpts.as_fd(), terminal, process.uid)?,
        None => Console::allocate(find_devpts(root)?.as_fd(), terminal, process.uid)?,
    };
    console.bind(root)?;
    reporter.console(console.master.as_fd()).step(Step::Console)?;
    Ok(Some(console))
}

/// Allocates the terminal of an exec'd process.
pub(crate) fn exec_console(
    root: Root<'_>,
    process: &ProcessPlan,
    reporter: &Reporter,
) -> StepResult<Option<Console>> {
    let Some(terminal) = process.terminal else {
        return Ok(None);
    };
    let console = Console::allocate(find_devpts(root)?.as_fd(), terminal, process.uid)?;
    reporter.console(console.master.as_fd()).step(Step::Console)?;
    Ok(Some(console))
}

/// What a process still holds of the outside when it is confined.
#[derive(Debug)]
pub(crate) struct Ties<'a> {
    pub(crate) stdio: &'a ChildStdio,
    /// Where streams come from that nobody passed.
    pub(crate) absent: Absent<'a>,
    /// As in [`Prepared`].
    pub(crate) attributes: Option<&'a OwnedFd>,
    pub(crate) reporter: &'a Reporter,
}

/// What a process does once it is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It becomes the program.
    Program,
    /// It clones the process that does, into a PID namespace that others are in.
    Clone,
}

/// Takes away everything that the program is not to have: fds, keys, limits, identity, system calls, privileges.
///
/// What comes after the seccomp filter is all that the filter must allow for the launch to succeed. With
/// `no_new_privs`, or a program that keeps CAP_SYS_ADMIN, that is `execve` alone: the filter is loaded there. Otherwise
/// it takes the privileges that are about to go, so `capset`, `prctl` and `execve` follow it. Where another clone must
/// come between, so do `clone`, `write` to tell of it, `setsid`, and with a terminal `ioctl`. That cannot be spared: a
/// process gets a filter from seccomp(2), which takes `no_new_privs` or CAP_SYS_ADMIN, from a thread of its own, which
/// is in the same PID namespace, or from who clones it; and whoever is in a PID namespace with others is to have
/// neither CAP_SYS_ADMIN nor less of a filter than they.
pub(crate) fn confine(process: &ProcessPlan, ties: &Ties<'_>, next: Next) -> StepResult<()> {
    new_keyring()?;
    wire(ties.stdio, &ties.absent, process.uid)?;
    lsm::label_on_exec(process, ties.attributes)?;
    // No fd of the host is left when the working directory is entered: it may be named /proc/self/fd/N.
    sys::fds::close_all_except(&mut [0, 1, 2, ties.reporter.as_fd().as_raw_fd()]).step(Step::Stdio)?;
    rlimits::set(&process.rlimits)?;
    // Raising what was lowered takes privileges; where they lack, the inherited value stays.
    let _ = rustix::process::setpriority_process(None, 0);
    if next == Next::Program {
        lead_session(process)?;
    }
    freshen(process)?;
    // Entered as root first, as a directory that only root may enter is still a working directory; a network file
    // system that trusts no root wants it the other way round.
    let entered_as_root = enter_working_dir(&process.cwd);
    identity::change(process)?;
    match entered_as_root {
        Err(refused) if refused.errno == libc::EACCES || refused.errno == libc::EPERM => {
            enter_working_dir(&process.cwd)?;
        }
        other => other?,
    }
    identity::filter_early(process)?;
    identity::give_up_privileges(process)
}

/// Enters the working directory, and makes sure that it is in the container (CVE-2024-21626).
fn enter_working_dir(path: &ContainerPath) -> StepResult<()> {
    rustix::process::chdir(path.as_c_str()).step_at(Step::WorkingDir, path)?;
    let reached = rustix::process::getcwd(Vec::new()).step_at(Step::WorkingDir, path)?;
    if reached.as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(failure(Step::WorkingDir, Some(path.to_string()), Errno::XDEV))
    }
}

/// Keys of the supervisor are not the container's. A kernel without keyrings, or a user at the quota, has none.
fn new_keyring() -> StepResult<()> {
    match sys::credentials::join_new_session_keyring() {
        Err(Errno::NOSYS | Errno::DQUOT | Errno::PERM | Errno::ACCESS) => Ok(()),
        other => other.step_at(Step::Identity, "session keyring"),
    }
}
