//! Signals by number, and a look at ended children. rustix has the first for named signals only, and hides the pid that
//! waitid(2) found.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::process::WaitIdOptions;

/// Sends a signal through a pidfd (pidfd_send_signal(2)).
///
/// # Errors
/// ESRCH when the process has ended, EINVAL for a number that is no signal.
pub(crate) fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is passed; the descriptor is alive for the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends a signal to a process group, whose leader must be a child that is not reaped (else the number may be another's).
///
/// # Errors
/// As [`signal`].
pub(crate) fn signal_group(leader: i32, signal: i32) -> io::Result<()> {
    // kill(-1) would reach every process there is, kill(0) our own group.
    if leader <= 1 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill has no memory arguments.
    let result = unsafe { libc::kill(-leader, signal) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The pid of the first ended child that is not reaped.
///
/// # Errors
/// ECHILD when there are no children.
pub(crate) fn ended_child(options: WaitIdOptions) -> io::Result<Option<i32>> {
    // SAFETY: a siginfo_t of zeroes is one that waitid(2) may fill; it lives through the call and is read only for the
    // fields that waitid sets.
    let (result, pid) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let result = libc::waitid(libc::P_ALL, 0, &raw mut info, options.bits().cast_signed());
        (result, info.si_pid())
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((pid != 0).then_some(pid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::os::fd::AsFd;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Command, Stdio};

    #[test]
    fn a_real_time_signal_reaches_a_process_and_a_group() {
        for group in [false, true] {
            let mut child = Command::new("/bin/cat")
                .stdin(Stdio::piped())
                .process_group(0)
                .spawn()
                .unwrap();
            let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
            if group {
                signal_group(child.id().cast_signed(), 40).unwrap();
            } else {
                signal(pidfd.as_fd(), 40).unwrap();
            }
            assert_eq!(child.wait().unwrap().signal(), Some(40));
            assert_eq!(
                signal(pidfd.as_fd(), 9).unwrap_err().raw_os_error(),
                Some(libc::ESRCH)
            );
        }
    }

    #[test]
    fn groups_that_are_not_one_process_group_are_refused() {
        for group in [-5, -1, 0, 1] {
            assert!(signal_group(group, 0).is_err());
        }
    }
}
