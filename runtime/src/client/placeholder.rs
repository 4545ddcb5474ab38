//! A process that does nothing but be in a cgroup.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, PipeWriter};
use std::os::fd::AsFd;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::SupervisorBinary;
use crate::supervisor::HOLD;
use crate::sys;

/// A child of this process, asleep until it is dropped. It also ends by itself when this process does, however that
/// ends: then nobody holds the other end of its standard input any more.
#[derive(Debug)]
pub struct Placeholder {
    pid: Pid,
    _alive: PipeWriter,
}

impl Placeholder {
    pub(super) fn start(binary: &SupervisorBinary) -> io::Result<Placeholder> {
        let (stdin, alive) = io::pipe()?;
        let null = File::create("/dev/null")?;
        let stdio = [stdin.as_fd(), null.as_fd(), null.as_fd()];
        let arguments = ["crisp-pod", HOLD].map(OsStr::new);
        let pid = sys::spawn::spawn(binary.program().as_ref(), &arguments, stdio)?;
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Placeholder { pid, _alive: alive })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }
}

impl Drop for Placeholder {
    /// Waits until it is gone, which takes some ten microseconds.
    fn drop(&mut self) {
        // Nobody else waits for it, so the pid is its own until we have.
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}
