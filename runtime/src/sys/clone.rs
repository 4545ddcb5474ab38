//! `clone3(2)` used as a fork with namespaces, and `unshare(2)`.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::Result;
use rustix::thread::UnshareFlags;

use super::check;

/// The libc crate's constant is too narrow for its value.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The kernel's `struct clone_args`, version 2 (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// How the clone differs from a plain fork.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CloneOptions<'fd> {
    /// New namespaces.
    pub(crate) namespaces: Namespaces,
    /// Become a child of the caller's parent, a sibling of the caller.
    pub(crate) as_sibling: bool,
    /// Be born in this cgroup of the v2 hierarchy.
    pub(crate) cgroup: Option<BorrowedFd<'fd>>,
}

/// The namespaces that a clone creates.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Namespaces {
    pub(crate) mount: bool,
    pub(crate) pid: bool,
    pub(crate) cgroup: bool,
    /// It owns all others of the same clone.
    pub(crate) user: bool,
    pub(crate) net: bool,
    pub(crate) ipc: bool,
    pub(crate) uts: bool,
}

/// A cloned process.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

/// Clones the calling process; the clone runs `child` and exits with the code it returns, or 125 when it panics.
///
/// The memory is copied as by `fork`, but no at-fork handler runs: the clone may allocate only if no other thread
/// of the process ever holds the allocator's locks. The supervisor's other threads never allocate.
pub(crate) fn clone3(options: CloneOptions<'_>, child: impl FnOnce() -> i32) -> Result<Child> {
    let mut pidfd: RawFd = -1;
    let mut flags = libc::CLONE_PIDFD as u64;
    for (wanted, flag) in [
        (options.namespaces.mount, libc::CLONE_NEWNS),
        (options.namespaces.pid, libc::CLONE_NEWPID),
        (options.namespaces.cgroup, libc::CLONE_NEWCGROUP),
        (options.namespaces.user, libc::CLONE_NEWUSER),
        (options.namespaces.net, libc::CLONE_NEWNET),
        (options.namespaces.ipc, libc::CLONE_NEWIPC),
        (options.namespaces.uts, libc::CLONE_NEWUTS),
        (options.as_sibling, libc::CLONE_PARENT),
    ] {
        if wanted {
            flags |= flag as u64;
        }
    }
    if options.cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    let args = CloneArgs {
        flags,
        pidfd: &raw mut pidfd as u64,
        // A sibling inherits the caller's own exit signal; the kernel refuses to be told one.
        exit_signal: if options.as_sibling {
            0
        } else {
            libc::SIGCHLD as u64
        },
        cgroup: options.cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM and with no stack given, this is a fork: the child continues on a copy of this very
    // stack and never returns from this function, so no frame is left twice. `args` outlives the call, and `pidfd`
    // is written before the call returns in the parent.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        run_in_clone(child);
    }
    // SAFETY: the kernel stored a new fd that nobody else owns (CLONE_PIDFD was set and the call succeeded).
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child {
        pid: pid as i32,
        pidfd,
    })
}

/// As [`clone3`] of a sibling without new namespaces, through the older call, which seccomp filters can look into and
/// therefore allow.
pub(crate) fn clone_sibling(child: impl FnOnce() -> i32) -> Result<Child> {
    clone(libc::CLONE_PARENT, child)
}

/// As [`clone_sibling`], of a child.
pub(crate) fn clone_child(child: impl FnOnce() -> i32) -> Result<Child> {
    clone(libc::SIGCHLD, child)
}

fn clone(flags: libc::c_int, child: impl FnOnce() -> i32) -> Result<Child> {
    let mut pidfd: RawFd = -1;
    let flags = (libc::CLONE_PIDFD | flags) as u64;
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: as in `clone3`. The third argument is where the pidfd goes; the order of the last two, both unused,
    // depends on the machine.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, none, &raw mut pidfd, none, none) })?;
    if pid == 0 {
        run_in_clone(child);
    }
    // SAFETY: as in `clone3`.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child {
        pid: pid as i32,
        pidfd,
    })
}

fn run_in_clone(child: impl FnOnce() -> i32) -> ! {
    exit_now(catch_unwind(AssertUnwindSafe(child)).unwrap_or(125))
}

/// Exits without running anything that the process registered for its exit: that belongs to the parent.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// `unshare(2)` of namespaces; the process must have one thread.
pub(crate) fn unshare(flags: UnshareFlags) -> Result<()> {
    assert!(
        !flags.contains(UnshareFlags::FILES),
        "a table of fds is never unshared here"
    );
    // SAFETY: the one danger of unshare, threads with tables of fds of their own, is excluded above.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    use std::os::fd::AsFd;

    fn exit_code(child: &Child) -> i32 {
        let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
            .unwrap()
            .unwrap();
        status.exit_status().unwrap()
    }

    #[test]
    fn the_child_exits_with_its_code() {
        let child = clone3(CloneOptions::default(), || 42).unwrap();
        assert_eq!(exit_code(&child), 42);
    }

    #[test]
    fn a_new_pid_namespace_starts_at_one() {
        let namespaces = Namespaces {
            pid: true,
            mount: true,
            cgroup: true,
            ..Namespaces::default()
        };
        let options = CloneOptions {
            namespaces,
            ..CloneOptions::default()
        };
        let child = clone3(options, || rustix::process::getpid().as_raw_nonzero().get()).unwrap();
        assert_eq!(exit_code(&child), 1);
    }
}
