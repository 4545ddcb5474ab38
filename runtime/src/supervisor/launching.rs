//! A launch under way, as its channel tells it. One step per wake-up; never waits.
//!
//! ```text
//!           Started{pid}      EOF
//!   Waiting ─────────► Cloned ─────► Launched: execve succeeded
//!      │                 │
//!      │ EOF             │ Failed, EOF
//!      ▼                 ▼
//!    Died             Refused{step, path, errno}
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::launch::{LaunchChannel, LaunchMessage, Received, SetupFailure};
use crate::protocol::Failure;

/// What has been heard so far.
#[derive(Debug)]
pub(super) struct Launch {
    channel: LaunchChannel,
    process: Option<(i32, OwnedFd)>,
    console: Option<OwnedFd>,
    failure: Option<Failure>,
}

/// What a wake-up brought.
#[derive(Debug)]
pub(super) enum Progress {
    /// Nothing final.
    Pending(Launch),
    /// The process has become its program.
    Launched {
        pid: i32,
        pidfd: OwnedFd,
        console: Option<OwnedFd>,
    },
    /// A step failed. The process, if there is one, is about to exit and must be reaped.
    Refused {
        failure: Failure,
        process: Option<(i32, OwnedFd)>,
    },
    /// Stage-1 ended without a word. Whatever it may have cloned is unknown: the cgroup must be killed.
    Died,
}

impl Launch {
    pub(super) fn new(channel: LaunchChannel) -> Launch {
        Launch {
            channel,
            process: None,
            console: None,
            failure: None,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Reads what there is.
    pub(super) fn advance(mut self) -> Progress {
        loop {
            match self.channel.recv() {
                Ok(Received::Message(LaunchMessage::Started { pid, pidfd })) => {
                    self.process.get_or_insert((pid, pidfd));
                }
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
            (None, Some((pid, pidfd))) => Progress::Launched {
                pid,
                pidfd,
                console: self.console,
            },
            (None, None) => Progress::Died,
        }
    }
}

/// What is reported when stage-1 died without a word.
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
