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
use super::log::tap;
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
        let made = tap_if(attach.stdout)
            .and_then(|stdout| Ok((stdout, tap_if(attach.stderr && !terminal)?)))
            .and_then(|taps| Ok((taps, self.hand_out_stdin(key, attach.stdin)?)));
        let ((stdout, stderr), stdin) = match made {
            Ok(made) => made,
            Err(error) => return Ok(Some(Reply::system(&error))),
        };
        let (stdout, out_tap) = stdout.unzip();
        let (stderr, err_tap) = stderr.unzip();
        self.log.attach(key, [out_tap, err_tap]);
        Ok(Some(Reply::Attached(AttachStdio {
            stdin,
            stdout,
            stderr,
            terminal,
        })))
    }

    fn hand_out_stdin(&mut self, key: u32, wanted: bool) -> io::Result<Option<OwnedFd>> {
        match self.containers.get_mut(key).map(|container| &mut container.phase) {
            Some(Phase::Running(running)) if wanted => running.stdin.hand_out(),
            _ => Ok(None),
        }
    }
}

fn tap_if(wanted: bool) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
    wanted.then(tap).transpose()
}
