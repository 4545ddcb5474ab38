//! Signal dispositions and mask as a fresh process expects them, and a process that does nothing but wait.

use super::check;

/// Size of the kernel's signal set in bytes.
const SET_SIZE: usize = 8;
/// The highest signal number.
const LAST_SIGNAL: libc::c_int = 64;

/// Sets all signals to their default disposition and unblocks them.
///
/// What is ignored survives `execve`, and every Rust program ignores SIGPIPE. The raw system call is used because
/// glibc hides two real-time signals that may be ignored all the same.
pub(crate) fn reset_all() {
    // The kernel's struct sigaction {handler, flags, restorer, mask}: all zero is SIG_DFL.
    let default = [0u64; 4];
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: `default` has the size of the kernel's structure and outlives the call; the old one is not asked for.
        // SIGKILL and SIGSTOP answer EINVAL, which is as good as default.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null::<u64>(),
                SET_SIZE,
            );
        }
    }
    let none = 0u64;
    // SAFETY: `none` is a signal set of the size passed and outlives the call.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null::<u64>(),
            SET_SIZE,
        );
    }
}

/// Lets the kernel reap the process's children by itself: SIGCHLD is ignored.
pub(crate) fn ignore_children() -> rustix::io::Result<()> {
    // The kernel's struct sigaction with handler SIG_IGN (1).
    let ignore = [1u64, 0, 0, 0];
    // SAFETY: as in `reset_all`.
    check(unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            libc::SIGCHLD,
            ignore.as_ptr(),
            std::ptr::null::<u64>(),
            SET_SIZE,
        )
    })
    .map(drop)
}

/// Waits for the end of the process.
pub(crate) fn wait_forever() -> ! {
    loop {
        // SAFETY: pause has no preconditions.
        unsafe {
            libc::pause();
        }
    }
}
