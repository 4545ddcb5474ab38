//! Children: who they are, how they ended, and signals to them. By pidfd, so that a pid used again is never hit.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};

use crate::protocol::{ExitStatus, Process, SignalScope, UnixNanos};
use crate::sys::{pidfd, proc};

/// A process that the supervisor is the parent of, not yet reaped.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) process: Process,
    pub(super) pidfd: OwnedFd,
}

/// A child that has not become its program yet.
#[derive(Debug)]
pub(super) struct Unborn {
    pid: i32,
    start_time: u64,
    pub(super) pidfd: OwnedFd,
}

impl Unborn {
    /// One that has been cloned, and is not reaped.
    pub(super) fn cloned(pid: i32, pidfd: OwnedFd) -> Unborn {
        Unborn {
            pid,
            // It has an entry in /proc; 0 where there is no descriptor left to read it.
            start_time: proc::start_time(pid).unwrap_or(0),
            pidfd,
        }
    }
}

impl Child {
    /// A child whose `execve` has just been seen to succeed.
    pub(super) fn started(child: Unborn) -> Child {
        Child {
            process: Process {
                pid: child.pid,
                start_time: child.start_time,
                started_at: UnixNanos::now(),
            },
            pidfd: child.pidfd,
        }
    }

    /// Signals it, or its process group. The pid names the group safely as long as the child is not reaped.
    pub(super) fn signal(&self, signal: i32, scope: SignalScope) -> io::Result<()> {
        match scope {
            SignalScope::Process => pidfd::signal(self.pidfd.as_fd(), signal),
            SignalScope::Group | SignalScope::All => pidfd::signal_group(self.process.pid, signal),
        }
    }

    /// Reaps it if it has ended.
    pub(super) fn reap(&self) -> Option<Ended> {
        Ended::reap(&self.pidfd)
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Exited(i32),
    Signalled(i32),
}

impl Ended {
    /// Reaps the child behind `pidfd` if it has ended.
    pub(super) fn reap(pidfd: &OwnedFd) -> Option<Ended> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), options)) {
            Ok(status) => status.map(|status| Ended::from_status(&status)),
            // Somebody else's child, or reaped already: nothing more will be heard of it.
            Err(Errno::CHILD) => Some(Ended::Exited(255)),
            Err(_) => None,
        }
    }

    pub(super) fn is_sigkill(self) -> bool {
        self == Ended::Signalled(libc::SIGKILL)
    }

    fn from_status(status: &WaitIdStatus) -> Ended {
        match status.terminating_signal() {
            Some(signal) => Ended::Signalled(signal),
            None => Ended::Exited(status.exit_status().unwrap_or(255)),
        }
    }

    /// As the protocol says it.
    pub(super) fn status(self, process: &Process, oom_killed: bool) -> ExitStatus {
        let finished_at = UnixNanos::now().max(process.started_at);
        match self {
            Ended::Exited(code) => ExitStatus {
                code,
                signal: None,
                oom_killed,
                finished_at,
            },
            Ended::Signalled(signal) => ExitStatus {
                code: 128 + signal,
                signal: Some(signal),
                oom_killed,
                finished_at,
            },
        }
    }
}

/// Reaps one child that has ended and that nobody knows. False when there is none, or when the first in the kernel's
/// list is a known one, whose own pidfd will tell.
pub(super) fn sweep(known: impl Fn(i32) -> bool) -> bool {
    let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let Ok(Some(pid)) = pidfd::ended_child(peek) else {
        return false;
    };
    if known(pid) {
        return false;
    }
    let Some(pid) = rustix::process::Pid::from_raw(pid) else {
        return false;
    };
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).is_ok()
}
