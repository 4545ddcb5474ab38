//! The pipes between a process and whoever reads and feeds it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};

use crate::launch::ChildStdio;

/// Which pipes a process gets; the rest is `/dev/null`, or its terminal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

/// Our ends of a process's pipes.
#[derive(Debug, Default)]
pub(super) struct Stdio {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

impl Wanted {
    /// With a terminal there are no pipes.
    pub(super) const NONE: Wanted = Wanted {
        stdin: false,
        stdout: false,
        stderr: false,
    };

    /// Makes the pipes. Ours are non-blocking, the child's are as a shell would make them.
    pub(super) fn make(self) -> io::Result<(Stdio, ChildStdio)> {
        let stdin = pipe_if(self.stdin)?;
        let stdout = pipe_if(self.stdout)?;
        let stderr = pipe_if(self.stderr)?;
        let (child_stdin, our_stdin) = stdin.unzip();
        let (our_stdout, child_stdout) = stdout.unzip();
        let (our_stderr, child_stderr) = stderr.unzip();
        for ours in [&our_stdin, &our_stdout, &our_stderr].into_iter().flatten() {
            rustix::io::ioctl_fionbio(ours, true)?;
        }
        Ok((
            Stdio {
                stdin: our_stdin,
                stdout: our_stdout,
                stderr: our_stderr,
            },
            ChildStdio {
                stdin: child_stdin,
                stdout: child_stdout,
                stderr: child_stderr,
            },
        ))
    }
}

/// A pipe's read end and write end.
fn pipe_if(wanted: bool) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
    if wanted {
        Ok(Some(pipe_with(PipeFlags::CLOEXEC)?))
    } else {
        Ok(None)
    }
}
