//! Standard input, output and error.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::devices::is_null;
use super::failure::{InStep, StepResult};
use super::rooted::{Root, file_type};
use super::values::ContainerPath;
use super::{ChildStdio, Step};

/// Where a stream comes from that nobody passed.
#[derive(Debug)]
pub(crate) enum Absent<'fd> {
    /// The terminal.
    Console(BorrowedFd<'fd>),
    /// The null device of the `/dev` that we filled.
    Dev(BorrowedFd<'fd>),
    /// The null device of a tree that others fill.
    Root(Root<'fd>),
}

/// Puts the three streams in place and gives them to the process's user.
pub(crate) fn wire(stdio: &ChildStdio, absent: &Absent<'_>, owner: u32) -> StepResult<()> {
    let given = [&stdio.stdin, &stdio.stdout, &stdio.stderr];
    let substitute = match absent {
        _ if given.iter().all(|stream| stream.is_some()) => None,
        Absent::Console(slave) => Some(above_stdio(*slave)),
        Absent::Dev(dev) => Some(open_null_of(*dev)),
        Absent::Root(root) => Some(open_null(*root)),
    };
    let substitute = substitute.transpose().step_at(Step::Stdio, "/dev/null")?;
    let mut streams = Vec::with_capacity(3);
    for stream in given {
        let fd = stream
            .as_ref()
            .or(substitute.as_ref())
            .map(AsFd::as_fd)
            .ok_or(Errno::BADF)
            .step(Step::Stdio)?;
        streams.push(above_stdio(fd).step(Step::Stdio)?);
    }
    for stream in &streams {
        // A process that is not root must be able to reopen its own pipe by way of /dev/stdout. Nothing but pipes
        // and sockets: what else comes here, a log file or a device, belongs to somebody.
        if matches!(
            file_type(stream.as_fd()).step(Step::Stdio)?,
            FileType::Fifo | FileType::Socket
        ) {
            rustix::fs::fchown(stream, Some(Uid::from_raw(owner)), None).step(Step::Stdio)?;
        }
    }
    rustix::stdio::dup2_stdin(&streams[0]).step(Step::Stdio)?;
    rustix::stdio::dup2_stdout(&streams[1]).step(Step::Stdio)?;
    rustix::stdio::dup2_stderr(&streams[2]).step(Step::Stdio)
}

/// A duplicate that the three streams can be put over without destroying it.
fn above_stdio(fd: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
}

fn open_null_of(dev: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    verified(rustix::fs::openat(dev, "null", flags, Mode::empty())?)
}

/// A container may have put a FIFO or a device in the place of its `/dev/null`: opening must not wait, and what was
/// opened is judged by its number. The host's null device will not do: the container could change its mode.
fn open_null(root: Root<'_>) -> rustix::io::Result<OwnedFd> {
    let path = ContainerPath::parse(b"/dev/null").expect("a constant path is valid");
    if !is_null(root.open_plain(&path, OFlags::PATH)?.as_fd())? {
        return Err(Errno::NXIO);
    }
    let null = verified(root.open_plain(&path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY)?)?;
    rustix::fs::fcntl_setfl(&null, OFlags::RDWR)?;
    Ok(null)
}

fn verified(null: OwnedFd) -> rustix::io::Result<OwnedFd> {
    if is_null(null.as_fd())? {
        Ok(null)
    } else {
        Err(Errno::NXIO)
    }
}

impl ChildStdio {
    /// The numbers of the fds, for the list of what to keep.
    pub(crate) fn raw(&self) -> impl Iterator<Item = i32> {
        [&self.stdin, &self.stdout, &self.stderr]
            .into_iter()
            .flatten()
            .map(AsRawFd::as_raw_fd)
    }
}
