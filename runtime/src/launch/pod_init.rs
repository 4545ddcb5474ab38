//! The pid 1 of a pod that shares its PID namespace.
//!
//! It exists so that the namespace does, and so that orphans have a parent. Containers see it and may trace it, so
//! there is nothing to find in it: an empty read-only root (but for the procfs that containers of the pod start
//! from), no fds, no capabilities, no system call but to wait. The kernel reaps its children by itself, and it dies with the supervisor.

use std::os::fd::AsFd;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSyscall};
use rustix::fs::Mode;
use rustix::mount::{MountAttrFlags, MoveMountFlags, move_mount};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};

use super::channel;
use super::channel::Reporter;
use super::failure::{InStep, StepResult, failure};
use super::mounts::fresh;
use super::plan::{Attributes, Capabilities, FileSystem, ProcessPlan};
use super::pod::PodInit;
use super::rootfs::Entry;
use super::values::ContainerPath;
use super::{LaunchMessage, Received, Step, identity, rootfs, stage1};
use crate::seccomp::{Filter, Machine, compile};
use crate::sys;
use crate::sys::clone::{CloneOptions, Namespaces, clone3};
use crate::sys::mount::{AttrChange, set_attributes};

/// Starts it, and waits until it is harmless: below a filter that was made by [`only_wait`]. `as_sibling` makes it a child
/// of the caller's parent.
pub(crate) fn start(filter: &Filter, as_sibling: bool) -> StepResult<PodInit> {
    let (channel, reporter) = channel::pair().map_err(errno).step(Step::PodInit)?;
    let namespaces = Namespaces {
        mount: true,
        pid: true,
        ..Namespaces::default()
    };
    let options = CloneOptions {
        namespaces,
        as_sibling,
        ..CloneOptions::default()
    };
    let child = clone3(options, || {
        stage1::run(&reporter, || become_init(filter, &reporter))
    })
    .step(Step::PodInit)?;
    drop(reporter);
    // The end of the stream comes when it has closed its last fd, or failed.
    match channel.wait().map_err(errno).step(Step::PodInit)? {
        Received::Message(LaunchMessage::Failed(failed)) => Err(failed),
        Received::Eof => Ok(PodInit {
            pid: child.pid,
            pidfd: child.pidfd,
        }),
        _ => Err(failure(Step::PodInit, None, rustix::io::Errno::PROTO)),
    }
}

fn errno(error: std::io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)
}

fn become_init(filter: &Filter, reporter: &Reporter) -> StepResult<()> {
    enter_empty_root().step(Step::PodInit)?;
    rustix::process::setsid().step(Step::PodInit)?;
    sys::signal::reset_all();
    sys::signal::ignore_children().step(Step::PodInit)?;
    let nobody = nobody_special();
    identity::change(&nobody)?;
    identity::give_up_privileges(&nobody)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step(Step::PodInit)?;
    // After the change of credentials, which clears it.
    set_parent_process_death_signal(Some(Signal::KILL)).step(Step::PodInit)?;
    filter.load().step(Step::Seccomp)?;
    let _ = reporter;
    sys::fds::close_all_except(&mut []).step(Step::PodInit)?;
    sys::signal::wait_forever()
}

fn enter_empty_root() -> rustix::io::Result<()> {
    rootfs::make_all_private()?;
    let hardened = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let attributes = Attributes {
        set: hardened.bits(),
        ..Attributes::default()
    };
    let options = [
        ("mode".to_owned(), "755".to_owned()),
        ("nr_inodes".to_owned(), "2".to_owned()),
    ];
    let root = fresh(FileSystem::Tmpfs, &options, attributes)?;
    rustix::fs::mkdirat(&root, "proc", Mode::from(0o555))?;
    rootfs::attach(root.as_fd(), "/".as_ref())
        .map_err(|failed| rustix::io::Errno::from_raw_os_error(failed.errno))?;
    let procfs = fresh(FileSystem::Proc, &[], attributes)?;
    move_mount(
        &procfs,
        "",
        &root,
        "proc",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    rootfs::enter(root.as_fd(), Entry::Pivot)
        .map_err(|failed| rustix::io::Errno::from_raw_os_error(failed.errno))?;
    set_attributes(
        root.as_fd(),
        AttrChange {
            set: MountAttrFlags::MOUNT_ATTR_RDONLY,
            ..AttrChange::default()
        },
    )
}

/// The calls that are left to it. A container that may trace it gains nothing but one more process that waits.
pub(crate) fn only_wait() -> Filter {
    let names = [
        "close_range",
        "pause",
        "ppoll",
        "restart_syscall",
        "rt_sigreturn",
        "exit",
        "exit_group",
    ];
    let mut allowed = LinuxSyscall::default();
    allowed
        .set_names(names.map(str::to_owned).to_vec())
        .set_action(LinuxSeccompAction::ScmpActAllow);
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_syscalls(Some(vec![allowed]));
    compile(&profile, Machine::HOST)
        .expect("a constant profile compiles")
        .filter
}

/// Root, but with no capability in any set and no way to gain one.
fn nobody_special() -> ProcessPlan {
    ProcessPlan {
        args: Vec::new(),
        env: Vec::new(),
        cwd: ContainerPath::parse(b"/").expect("a constant path is valid"),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        umask: 0o22,
        capabilities: Capabilities::default(),
        no_new_privileges: true,
        rlimits: Vec::new(),
        oom_score_adj: 0,
        terminal: None,
        seccomp: None,
        apparmor: None,
        selinux: None,
    }
}
