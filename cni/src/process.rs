//! A started plugin: talking to it, and ending it.
//!
//! Every plugin is waited for by pidfd, so its end is seen even when a process that it left behind keeps its pipes
//! open, and its id is never mistaken for another process'.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

/// A result is a few hundred bytes.
const LARGEST_OUTPUT: usize = 1 << 20;
const LARGEST_COMPLAINT: usize = 4096;
/// A killed process is gone within this time, or it hangs in the kernel and is left to a reaper thread.
const DEATH: Duration = Duration::from_secs(2);

/// Why a conversation with a plugin ended before the plugin did.
#[derive(Debug)]
pub(crate) enum Interrupted {
    /// The time is over.
    Deadline,
    /// It wrote more than a plugin may.
    TooMuch,
    /// It could not be talked to.
    Io(io::Error),
}

impl From<Errno> for Interrupted {
    fn from(errno: Errno) -> Self {
        Interrupted::Io(errno.into())
    }
}

/// A started plugin. Dropped before it ended, its process group is killed.
#[derive(Debug)]
pub(crate) struct Running {
    child: Option<Child>,
    exited: OwnedFd,
    /// What it wrote to stdout so far.
    pub(crate) output: Vec<u8>,
    /// What it wrote to stderr so far, its beginning.
    pub(crate) complaint: Vec<u8>,
}

impl Running {
    pub(crate) fn new(child: Child) -> io::Result<Self> {
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let exited = pid
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        match exited {
            Ok(exited) => Ok(Running {
                child: Some(child),
                exited,
                output: Vec::new(),
                complaint: Vec::new(),
            }),
            Err(errno) => {
                kill_and_reap(child);
                Err(errno.into())
            }
        }
    }

    /// Feeds the plugin and reads what it writes until it exits. Its pipes may stay open behind it, held by a
    /// process that it left: what is in them at its exit is read, more is not waited for.
    pub(crate) fn converse(&mut self, input: Vec<u8>, deadline: Instant) -> Result<ExitStatus, Interrupted> {
        let Some(child) = self.child.as_mut() else {
            return Err(Errno::ECHILD.into());
        };
        let (mut stdin, mut stdout, mut stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        for pipe in [
            stdin.as_ref().map(AsFd::as_fd),
            stdout.as_ref().map(AsFd::as_fd),
            stderr.as_ref().map(AsFd::as_fd),
        ] {
            pipe.map(|pipe| fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)))
                .transpose()?;
        }
        let mut unsent = &input[..];
        loop {
            let exited = self.wait(deadline, stdin.as_ref(), stdout.as_ref(), stderr.as_ref())?;
            if feed(stdin.as_mut(), &mut unsent) {
                stdin = None;
            }
            if drain(stdout.as_mut(), &mut self.output, LARGEST_OUTPUT) {
                stdout = None;
            }
            if drain(stderr.as_mut(), &mut self.complaint, LARGEST_COMPLAINT) {
                stderr = None;
            }
            if self.output.len() > LARGEST_OUTPUT {
                return Err(Interrupted::TooMuch);
            }
            if exited {
                let mut child = self.child.take().ok_or(Errno::ECHILD)?;
                return child.wait().map_err(Interrupted::Io);
            }
        }
    }

    /// Waits for something to do; true if the plugin has exited.
    fn wait(
        &self,
        deadline: Instant,
        stdin: Option<&impl AsFd>,
        stdout: Option<&impl AsFd>,
        stderr: Option<&impl AsFd>,
    ) -> Result<bool, Interrupted> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Interrupted::Deadline);
        }
        let mut fds = vec![PollFd::new(self.exited.as_fd(), PollFlags::POLLIN)];
        fds.extend(stdin.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)));
        fds.extend(stdout.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        fds.extend(stderr.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        // Rounded up, so that the last wait does not spin.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(fds[0].revents().is_some_and(|events| !events.is_empty())),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            kill_and_reap(child);
        }
    }
}

/// Kills the plugin's whole group and takes its exit status off the process table.
fn kill_and_reap(mut child: Child) {
    // Not yet waited for, so its id cannot have become another process'.
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = child.kill();
    let deadline = Instant::now() + DEATH;
    let gone = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .is_some_and(|pidfd| ends_by(&pidfd, deadline));
    if gone {
        let _ = child.wait();
    } else {
        // It hangs in the kernel. Nobody else may wait that long.
        let _ = std::thread::Builder::new()
            .name("cni-reap".into())
            .spawn(move || child.wait());
    }
}

fn ends_by(pidfd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            Ok(ready) => return ready > 0,
            Err(_) => return false,
        }
    }
}

/// Writes what the pipe takes; true when there is nothing left to write, or nobody to read it.
fn feed(pipe: Option<&mut impl Write>, unsent: &mut &[u8]) -> bool {
    let Some(pipe) = pipe else { return false };
    while !unsent.is_empty() {
        match pipe.write(unsent) {
            Ok(written) => *unsent = &unsent[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
    true
}

/// Reads what the pipe has; true at its end. Of what is above the limit, one byte more is kept as a sign.
fn drain(pipe: Option<&mut impl Read>, into: &mut Vec<u8>, limit: usize) -> bool {
    let Some(pipe) = pipe else { return false };
    let mut chunk = [0; 16 * 1024];
    // A plugin that writes without end must not keep us from looking at the clock.
    for _ in 0..64 {
        match pipe.read(&mut chunk) {
            Ok(0) => return true,
            Ok(length) => {
                let room = (limit + 1).saturating_sub(into.len()).min(length);
                into.extend_from_slice(&chunk[..room]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
    false
}
