//! Attaching: a client listens to a container beside its log, and feeds it.
//!
//! ```text
//!   container ── pipe or pty ──► log writer ──► log file
//!                                    │ copies, never waits
//!                                    ├──► tap ──► client     each with a pipe of its own
//!                                    └──► tap ──► client
//!   container ◄── stdin pipe or pty master ◄── clients       the supervisor has no part in it
//! ```

use std::io;
use std::mem;
use std::os::fd::OwnedFd;

use super::container::Phase;
use super::control::Supervisor;
use super::log::Tap;
use super::poll::Bell;
use super::requests::Answer;
use crate::protocol::{Attach, AttachStdio, RefusalCode, Reply};

/// What a client that attaches can write to.
#[derive(Debug)]
pub(super) enum Stdin {
    /// `/dev/null` from the start, or closed since.
    Closed,
    /// Stays open; each client gets a handle of its own.
    Kept(OwnedFd),
    /// Waits for the first client, which gets the only handle that there is.
    Once(OwnedFd),
}

impl Stdin {
    /// The container's stdin as it was asked for.
    pub(super) fn new(fd: Option<OwnedFd>, once: bool) -> Stdin {
        match fd {
            None => Stdin::Closed,
            Some(fd) if once => Stdin::Once(fd),
            Some(fd) => Stdin::Kept(fd),
        }
    }

    /// Its descriptor, as long as it is here.
    pub(super) fn fd(&self) -> Option<&OwnedFd> {
        match self {
            Stdin::Closed => None,
            Stdin::Kept(fd) | Stdin::Once(fd) => Some(fd),
        }
    }

    /// Whether it ends with its first client.
    pub(super) fn is_once(&self) -> bool {
        matches!(self, Stdin::Once(_))
    }

    fn hand_out(&mut self) -> io::Result<Option<OwnedFd>> {
        match mem::replace(self, Stdin::Closed) {
            Stdin::Closed => Ok(None),
            Stdin::Once(fd) => Ok(Some(fd)),
            Stdin::Kept(fd) => {
                let handle = fd.try_clone();
                *self = Stdin::Kept(fd);
                handle.map(Some)
            }
        }
    }
}

impl Supervisor {
    /// Gives a client its ends of a running container's stdio.
    pub(super) fn attach(&mut self, attach: &Attach) -> Answer {
        let (key, container) = self.container(&attach.container)?;
        let terminal = container.phase.running()?.terminal.is_some();
        if self.reexec.is_some() {
            return Err(RefusalCode::Busy);
        }
        let (stdio, taps) = match self.tap(key, attach, terminal) {
            Ok(made) => made,
            Err(error) => return Ok(Some(Reply::system(&error))),
        };
        self.log.attach(key, taps);
        Ok(Some(Reply::Attached(stdio)))
    }

    /// The client's ends, and the log writer's.
    fn tap(
        &mut self,
        key: u32,
        attach: &Attach,
        terminal: bool,
    ) -> io::Result<(AttachStdio, [Option<Tap>; 2])> {
        let bell = attach.bell.then(Bell::new).transpose()?;
        let tap_if = |wanted: bool| wanted.then(|| Tap::new(bell.as_ref())).transpose();
        let (stdout, out_tap) = tap_if(attach.stdout)?.unzip();
        let (stderr, err_tap) = tap_if(attach.stderr && !terminal)?.unzip();
        let stdio = AttachStdio {
            // Last: what is handed out once must not be lost on the way.
            stdin: self.hand_out_stdin(key, attach.stdin)?,
            stdout,
            stderr,
            bell: bell.map(OwnedFd::from),
            terminal,
        };
        Ok((stdio, [out_tap, err_tap]))
    }

    fn hand_out_stdin(&mut self, key: u32, wanted: bool) -> io::Result<Option<OwnedFd>> {
        match self.containers.get_mut(key).map(|container| &mut container.phase) {
            Some(Phase::Running(running)) if wanted => running.stdin.hand_out(),
            _ => Ok(None),
        }
    }
}
