//! A launch under way, as its channel tells it. Nothing that it tells is of use before its end, so that wakes nobody.
//!
//! ```text
//!       Started{pid} or Prepared      EOF
//!   Waiting ──────────────► Begun ─────────► Launched: execve succeeded
//!      │                      │
//!      │ EOF                  │ Failed, EOF
//!      ▼                      ▼
//!    Died                  Refused{step, path, errno}
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::child::{Child, Unborn};
use crate::launch::{Cloned, LaunchChannel, LaunchMessage, Launching, Received, SetupFailure};
use crate::protocol::Failure;

/// What has been heard so far.
#[derive(Debug)]
pub(super) struct Launch {
    channel: LaunchChannel,
    /// The process that becomes the program, once it is known.
    process: Option<Unborn>,
    /// Whether that has got as far as `execve`, or died on the way without a word, when the channel ends.
    has_begun: bool,
    console: Option<OwnedFd>,
    failure: Option<Failure>,
}

/// What a wake-up brought.
#[derive(Debug)]
pub(super) enum Progress {
    /// Nothing final.
    Pending(Launch),
    /// The process has become its program.
    Launched { child: Child, console: Option<OwnedFd> },
    /// A step failed. The process, if there is one, is about to exit and must be reaped.
    Refused {
        failure: Failure,
        process: Option<Unborn>,
    },
    /// The launch ended without a word. Whatever stage-1 may have cloned is unknown: the cgroup must be killed.
    Died {
        /// The process that is known, to be reaped.
        process: Option<Unborn>,
    },
}

impl Launch {
    /// The launch, and the pidfd of a process of it that will exit by itself.
    pub(super) fn new(launching: Launching) -> (Launch, Option<OwnedFd>) {
        let (process, stage1) = match launching.cloned {
            Cloned::Stage1(pidfd) => (None, Some(pidfd)),
            // What takes a look at /proc is done while it is on its way.
            Cloned::Init { pid, pidfd } => (Some(Unborn::cloned(pid, pidfd)), None),
        };
        let launch = Launch {
            channel: launching.channel,
            process,
            has_begun: false,
            console: None,
            failure: None,
        };
        (launch, stage1)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Ends a launch that nobody can follow; gives the process to be reaped, if it is known.
    pub(super) fn give_up(self) -> Option<OwnedFd> {
        let Unborn { pidfd, .. } = self.process?;
        // ESRCH: it has ended.
        let _ = crate::sys::pidfd::signal(pidfd.as_fd(), libc::SIGKILL);
        Some(pidfd)
    }

    /// Reads what there is.
    pub(super) fn advance(mut self) -> Progress {
        loop {
            match self.channel.recv() {
                Ok(Received::Message(LaunchMessage::Started { pid, pidfd })) => {
                    self.process.get_or_insert_with(|| Unborn::cloned(pid, pidfd));
                    self.has_begun = true;
                }
                Ok(Received::Message(LaunchMessage::Prepared)) => self.has_begun = true,
                Ok(Received::Message(LaunchMessage::Console(master))) => {
                    self.console.get_or_insert(master);
                }
                Ok(Received::Message(LaunchMessage::Failed(failure))) => {
                    self.failure.get_or_insert(failure.into());
                }
                Ok(Received::WouldBlock) => return Progress::Pending(self),
                Ok(Received::Eof) | Err(_) => break,
            }
        }
        match (self.failure, self.process) {
            (Some(failure), process) => Progress::Refused { failure, process },
            (None, Some(child)) if self.has_begun => Progress::Launched {
                child: Child::started(child),
                console: self.console,
            },
            (None, process) => Progress::Died { process },
        }
    }
}

/// What is reported when a launch died without a word.
pub(super) fn died() -> Failure {
    Failure {
        step: "launch".into(),
        path: None,
        errno: rustix::io::Errno::SRCH.raw_os_error(),
    }
}

impl From<SetupFailure> for Failure {
    fn from(failure: SetupFailure) -> Failure {
        Failure {
            step: failure.step.name().into(),
            path: failure.path,
            errno: failure.errno,
        }
    }
}
