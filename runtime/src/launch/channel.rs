//! The launch channel: what stage-1 and init tell the supervisor.
//!
//! A `SOCK_SEQPACKET` pair, one message per packet, at most one fd with it:
//! ```text
//! started  'S' pid(4, LE)              + pidfd, or without one: a child of the receiver
//! console  'C'                         + pty master
//! failed   'F' step(1) errno(4, LE) path(rest; empty = none)
//! ```
//! Whoever holds the sending end may have become the container by exploiting it: the receiver takes at most one
//! `Started` and one `Console`, a pid must be that of a child, and a `Failed` harms nobody but its own container.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::{SetupFailure, Step};

/// Longest path that a failure report carries; longer ones are cut.
const PATH_MAX: usize = 4096;
const MESSAGE_MAX: usize = 6 + PATH_MAX;

/// A message of the launch channel.
#[derive(Debug)]
pub enum LaunchMessage {
    /// The container's init, or the exec'd process, exists.
    Started {
        /// Its process id in the supervisor's PID namespace.
        pid: i32,
        /// Its pidfd.
        pidfd: OwnedFd,
    },
    /// Init, which is the only process of the launch, has made what comes from the host; nothing that follows can hang.
    Prepared,
    /// The master side of the terminal that the plan asked for.
    Console(OwnedFd),
    /// The launch failed; the process has exited or is about to.
    Failed(SetupFailure),
}

/// What [`LaunchChannel::recv`] found.
#[derive(Debug)]
pub enum Received {
    /// A message.
    Message(LaunchMessage),
    /// Nothing yet: wait for readability.
    WouldBlock,
    /// Every sender is gone. After `Started` or `Prepared`, and without `Failed`, this means that `execve` succeeded.
    Eof,
}

/// The supervisor's end of the launch channel, non-blocking.
#[derive(Debug)]
pub struct LaunchChannel(OwnedFd);

/// The child's end of the launch channel; closes on exec.
#[derive(Debug)]
pub(crate) struct Reporter(OwnedFd);

pub(crate) fn pair() -> io::Result<(LaunchChannel, Reporter)> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((LaunchChannel(ours), Reporter(theirs)))
}

impl AsFd for LaunchChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for LaunchChannel {
    /// For a supervisor that was executed anew and finds its fds in place.
    fn from(fd: OwnedFd) -> Self {
        LaunchChannel(fd)
    }
}

impl From<LaunchChannel> for OwnedFd {
    fn from(channel: LaunchChannel) -> Self {
        channel.0
    }
}

impl LaunchChannel {
    /// Waits for the next message or the end.
    pub(crate) fn wait(&self) -> io::Result<Received> {
        loop {
            match self.recv()? {
                Received::WouldBlock => {
                    let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
                    rustix::io::retry_on_intr(|| poll(&mut ready, None))?;
                }
                other => return Ok(other),
            }
        }
    }

    /// Receives the next message, without blocking.
    ///
    /// # Errors
    /// What `recvmsg` answers, and `InvalidData` for a packet that is no message.
    pub fn recv(&self) -> io::Result<Received> {
        let mut bytes = [0u8; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(received) => break received,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(Received::WouldBlock),
                Err(errno) => return Err(errno.into()),
            }
        };
        if received.bytes == 0 {
            return Ok(Received::Eof);
        }
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        decode(&bytes[..received.bytes], fd)
            .map(Received::Message)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

fn decode(bytes: &[u8], fd: Option<OwnedFd>) -> Option<LaunchMessage> {
    let (kind, body) = bytes.split_first()?;
    match (kind, fd) {
        (b'S', pidfd) => {
            let pid = i32::from_le_bytes(body.try_into().ok()?);
            let pidfd = pidfd.or_else(|| open_child(pid))?;
            Some(LaunchMessage::Started { pid, pidfd })
        }
        (b'P', None) if body.is_empty() => Some(LaunchMessage::Prepared),
        (b'C', Some(master)) => Some(LaunchMessage::Console(master)),
        (b'F', None) => {
            let (step, rest) = body.split_first()?;
            let (errno, path) = rest.split_first_chunk()?;
            Some(LaunchMessage::Failed(SetupFailure {
                step: Step::from_number(*step)?,
                path: (!path.is_empty()).then(|| String::from_utf8_lossy(path).into_owned()),
                errno: i32::from_le_bytes(*errno),
            }))
        }
        _ => None,
    }
}

/// The pidfd of a child that has not been reaped: its number is its own until then.
fn open_child(pid: i32) -> Option<OwnedFd> {
    // A negative number is no process, but a group or all there are.
    let pid = Pid::from_raw(pid.max(0))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::PidFd(pidfd.as_fd()), look)
        .is_ok()
        .then_some(pidfd)
}

impl AsFd for Reporter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Reporter {
    pub(crate) fn started(&self, pid: i32, pidfd: BorrowedFd<'_>) -> rustix::io::Result<()> {
        self.send(&started(pid), Some(pidfd))
    }

    /// As [`Reporter::started`] of a child of the receiver, by a call that every program needs and no filter denies.
    pub(crate) fn started_here(&self, pid: i32) -> rustix::io::Result<()> {
        self.write(&started(pid))
    }

    pub(crate) fn prepared(&self) -> rustix::io::Result<()> {
        self.write(b"P")
    }

    pub(crate) fn console(&self, master: BorrowedFd<'_>) -> rustix::io::Result<()> {
        self.send(b"C", Some(master))
    }

    /// Reports a failure. Nothing can be done when that fails too: the supervisor then sees the end of the stream
    /// and the exit of the process.
    pub(crate) fn failed(&self, failure: &SetupFailure) {
        let path = failure.path.as_deref().unwrap_or_default().as_bytes();
        let mut message = Vec::with_capacity(MESSAGE_MAX);
        message.extend([b'F', failure.step as u8]);
        message.extend(failure.errno.to_le_bytes());
        message.extend(&path[..path.len().min(PATH_MAX)]);
        let _ = self.write(&message);
    }

    fn write(&self, message: &[u8]) -> rustix::io::Result<()> {
        rustix::io::retry_on_intr(|| rustix::io::write(&self.0, message)).map(drop)
    }

    fn send(&self, message: &[u8], fd: Option<BorrowedFd<'_>>) -> rustix::io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.as_slice();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        loop {
            match sendmsg(
                &self.0,
                &[IoSlice::new(message)],
                &mut control,
                SendFlags::NOSIGNAL,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                other => return other.map(drop),
            }
        }
    }
}

fn started(pid: i32) -> [u8; 5] {
    let mut message = [b'S', 0, 0, 0, 0];
    message[1..].copy_from_slice(&pid.to_le_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_a_handle_must_be_a_child() {
        let (channel, reporter) = pair().unwrap();
        let mut child = std::process::Command::new("/bin/cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id().cast_signed();
        reporter.started_here(pid).unwrap();
        let heard = channel.recv().unwrap();
        assert!(matches!(heard, Received::Message(LaunchMessage::Started { pid: of, .. }) if of == pid));
        drop(child.stdin.take());
        child.wait().unwrap();
        for stranger in [pid, 1, 0, -1, std::process::id().cast_signed()] {
            reporter.started_here(stranger).unwrap();
            assert!(channel.recv().is_err(), "{stranger}");
        }
    }

    #[test]
    fn messages_arrive_in_order_and_then_the_end() {
        let (channel, reporter) = pair().unwrap();
        assert!(matches!(channel.recv().unwrap(), Received::WouldBlock));
        let file = std::fs::File::open("/dev/null").unwrap();
        reporter.started(4711, file.as_fd()).unwrap();
        reporter.prepared().unwrap();
        reporter.console(file.as_fd()).unwrap();
        let failure = SetupFailure {
            step: Step::Mount,
            path: Some("/proc".into()),
            errno: libc::EPERM,
        };
        reporter.failed(&failure);
        drop(reporter);
        assert!(matches!(
            channel.recv().unwrap(),
            Received::Message(LaunchMessage::Started { pid: 4711, .. })
        ));
        assert!(matches!(
            channel.recv().unwrap(),
            Received::Message(LaunchMessage::Prepared)
        ));
        assert!(matches!(
            channel.recv().unwrap(),
            Received::Message(LaunchMessage::Console(_))
        ));
        let Received::Message(LaunchMessage::Failed(got)) = channel.recv().unwrap() else {
            panic!("no failure")
        };
        assert_eq!(got, failure);
        assert!(matches!(channel.recv().unwrap(), Received::Eof));
    }

    #[test]
    fn a_packet_that_is_no_message_is_an_error_and_its_fd_is_closed() {
        let (channel, reporter) = pair().unwrap();
        for packet in [&b"S"[..], b"X", b"F", b"F\xff\0\0\0\0", b"C", b"P1"] {
            reporter.send(packet, None).unwrap();
            assert_eq!(
                channel.recv().unwrap_err().kind(),
                io::ErrorKind::InvalidData,
                "{packet:?}"
            );
        }
    }

    #[test]
    fn an_endless_path_is_cut() {
        let (channel, reporter) = pair().unwrap();
        reporter.failed(&SetupFailure {
            step: Step::Mount,
            path: Some("x".repeat(100_000)),
            errno: 1,
        });
        let Received::Message(LaunchMessage::Failed(got)) = channel.recv().unwrap() else {
            panic!("no failure")
        };
        assert_eq!(got.path.unwrap().len(), PATH_MAX);
    }
}
