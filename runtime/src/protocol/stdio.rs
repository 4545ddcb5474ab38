//! Stdio on its way to a client: descriptors, and the body that says which of them came.

use std::os::fd::OwnedFd;

use minicbor::{Decode, Encode};

use super::frame::{Frame, Kind, ProtocolError};
use super::value::Process;

/// The requester's ends of an exec's stdio.
#[derive(Debug)]
pub enum ExecStdio {
    /// Pipes, as far as they were asked for.
    Pipes {
        /// Write end.
        stdin: Option<OwnedFd>,
        /// Read end.
        stdout: Option<OwnedFd>,
        /// Read end.
        stderr: Option<OwnedFd>,
    },
    /// The master of its pty.
    Terminal(OwnedFd),
}

/// A client's ends of a container's stdio. All are non-blocking; for its own reads and writes the client may change none
/// of that, since the flag of stdin belongs to the container's pipe or terminal as a whole.
#[derive(Debug, Default)]
pub struct AttachStdio {
    /// Write end of the container's stdin, or the master of its terminal, which is to be written to and never read
    /// (resizing is `Resize`, for all clients). None when it was not asked for, when the container has no stdin, when the
    /// container's stdin was closed, and for all but the first client of a `stdin_once` container.
    ///
    /// Closing it ends nothing as long as the container keeps its stdin; the one of a `stdin_once` container is handed
    /// over for good, so that closing it is the end of the container's input.
    pub stdin: Option<OwnedFd>,
    /// Read end. It ends when the container closes the stream or ends, and when this client is cut off.
    pub stdout: Option<OwnedFd>,
    /// Read end, as stdout. None with a terminal.
    pub stderr: Option<OwnedFd>,
    /// An eventfd, if it was asked for: rung when an output of this client was cut off, because it was too slow or one too
    /// many, before that output's pipe ends.
    pub bell: Option<OwnedFd>,
    /// The container's stdio is a terminal.
    pub terminal: bool,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct ExecStartedBody {
    #[n(0)]
    process: Process,
    #[n(1)]
    tty: bool,
    #[n(2)]
    stdin: bool,
    #[n(3)]
    stdout: bool,
    #[n(4)]
    stderr: bool,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct AttachedBody {
    #[n(70)]
    stdin: bool,
    #[n(71)]
    stdout: bool,
    #[n(72)]
    stderr: bool,
    #[n(73)]
    terminal: bool,
    #[n(120)]
    #[cbor(default)]
    bell: bool,
}

impl ExecStdio {
    pub(super) fn into_frame(self, kind: Kind, id: u32, process: Process) -> Frame {
        let (tty, fds) = match self {
            ExecStdio::Terminal(master) => (true, [Some(master), None, None]),
            ExecStdio::Pipes {
                stdin,
                stdout,
                stderr,
            } => (false, [stdin, stdout, stderr]),
        };
        let [stdin, stdout, stderr] = [0, 1, 2].map(|place: usize| !tty && fds[place].is_some());
        let body = ExecStartedBody {
            process,
            tty,
            stdin,
            stdout,
            stderr,
        };
        Frame::new(kind, id, &body, fds.into_iter().flatten().collect())
    }

    pub(super) fn from_frame(mut frame: Frame) -> Result<(Process, ExecStdio), ProtocolError> {
        let body: ExecStartedBody = frame.body()?;
        if body.tty {
            return Ok((body.process, ExecStdio::Terminal(frame.take_fd()?)));
        }
        let count = [body.stdin, body.stdout, body.stderr].map(usize::from);
        let mut fds = frame.take_fds(count.iter().sum())?;
        let stdio = ExecStdio::Pipes {
            stdin: fds.announced(body.stdin),
            stdout: fds.announced(body.stdout),
            stderr: fds.announced(body.stderr),
        };
        Ok((body.process, stdio))
    }
}

impl AttachStdio {
    pub(super) fn into_frame(self, kind: Kind, id: u32) -> Frame {
        let body = AttachedBody {
            stdin: self.stdin.is_some(),
            stdout: self.stdout.is_some(),
            stderr: self.stderr.is_some(),
            terminal: self.terminal,
            bell: self.bell.is_some(),
        };
        let fds = [self.stdin, self.stdout, self.stderr, self.bell];
        Frame::new(kind, id, &body, fds.into_iter().flatten().collect())
    }

    pub(super) fn from_frame(mut frame: Frame) -> Result<AttachStdio, ProtocolError> {
        let body: AttachedBody = frame.body()?;
        let count = [body.stdin, body.stdout, body.stderr, body.bell].map(usize::from);
        let mut fds = frame.take_fds(count.iter().sum())?;
        Ok(AttachStdio {
            stdin: fds.announced(body.stdin),
            stdout: fds.announced(body.stdout),
            stderr: fds.announced(body.stderr),
            bell: fds.announced(body.bell),
            terminal: body.terminal,
        })
    }
}
