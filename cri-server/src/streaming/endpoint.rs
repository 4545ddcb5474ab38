//! Our end of a process's stdio: a pipe, a terminal's master, or a socket, read and written without blocking.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// A descriptor under tokio.
pub struct Endpoint(AsyncFd<OwnedFd>);

impl Endpoint {
    /// Takes a descriptor; makes it non-blocking.
    ///
    /// # Errors
    /// That of the reactor, which takes no plain files.
    #[allow(deprecated)] // its successor wants a promise that the descriptor stays open: we own it
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        AsyncFd::new(fd).map(Self)
    }

    /// Reads what there is, waiting for the first byte; 0 at the end.
    ///
    /// # Errors
    /// That of read(2).
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| read(fd.as_fd(), buffer)) {
                Ok(outcome) => return outcome,
                Err(_would_block) => {}
            }
        }
    }

    /// Writes all of it, waiting for room.
    ///
    /// # Errors
    /// That of write(2): EPIPE when nobody reads any more.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                Ok(written) => bytes = &bytes[written?..],
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    match rustix::io::read(fd, buffer) {
        Ok(count) => Ok(count),
        // How a terminal's master says that its last slave was closed, once everything before it was read.
        Err(Errno::IO) => Ok(0),
        Err(errno) => Err(errno.into()),
    }
}
