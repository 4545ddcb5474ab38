//! The table of open files of a process that is about to become something else.

use std::os::fd::RawFd;

use rustix::io::Result;

use super::check;

/// Closes every fd but those named. Only for a freshly cloned child: owners of closed fds must never be dropped
/// or used there, and the child ends in `execve` or `_exit`, which drop nothing.
pub(crate) fn close_all_except(keep: &mut [RawFd]) -> Result<()> {
    keep.sort_unstable();
    let mut first = 0;
    for &fd in keep.iter() {
        if fd > first {
            close_range(first, fd - 1, 0)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, RawFd::MAX, 0)
}

/// Marks every fd from `first` on to be closed by `execve`.
pub(crate) fn close_on_exec_from(first: RawFd) -> Result<()> {
    close_range(first, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: RawFd, last: RawFd, flags: libc::c_uint) -> Result<()> {
    // SAFETY: memory is not touched. That no owner of a closed fd is used afterwards is what the callers promise:
    // they run in a cloned child that keeps only the fds it named.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}
