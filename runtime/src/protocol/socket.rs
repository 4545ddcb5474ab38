//! A connected `SOCK_SEQPACKET` socket that carries frames. Never blocks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::frame::{Frame, HEADER_LEN, MAX_BODY, ProtocolError};
use crate::sys::scm;

/// One end of a connection, non-blocking and close-on-exec.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Two ends connected to each other.
    ///
    /// # Errors
    /// Those of socketpair(2).
    pub fn pair() -> io::Result<(Socket, Socket)> {
        let (a, b) = scm::seqpacket_pair()?;
        Ok((Socket(a), Socket(b)))
    }

    /// Takes a connected seqpacket socket and makes it non-blocking.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn from_fd(fd: OwnedFd) -> io::Result<Socket> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Socket(fd))
    }

    /// Sends a frame, whole or not at all.
    ///
    /// # Errors
    /// `WouldBlock` when the peer has not read enough yet, `BrokenPipe` or `ConnectionReset` when it is gone,
    /// `InvalidInput` when the frame is larger than the protocol allows.
    pub fn send_frame(&self, frame: &Frame) -> io::Result<()> {
        if frame.body.len() > MAX_BODY || frame.fds.len() > super::MAX_FDS {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        scm::send(self.0.as_fd(), &[&frame.header(), &frame.body], &frame.fds)
    }

    /// Receives a frame.
    ///
    /// # Errors
    /// `WouldBlock` when there is none yet, `UnexpectedEof` when the peer has closed, `InvalidData` (around a
    /// [`ProtocolError`]) when the message breaks the protocol: the connection is then to be closed.
    pub fn recv_frame(&self) -> io::Result<Frame> {
        let invalid = |error: ProtocolError| io::Error::new(io::ErrorKind::InvalidData, error);
        let length = scm::next_length(self.0.as_fd())?;
        if length == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        if length > HEADER_LEN + MAX_BODY {
            return Err(invalid(ProtocolError::TooLarge));
        }
        let mut message = vec![0; length];
        let received = scm::receive(self.0.as_fd(), &mut message)?;
        if received.truncated || received.length != length {
            return Err(invalid(ProtocolError::TooLarge));
        }
        Frame::parse(message, received.fds).map_err(invalid)
    }

    /// As [`recv_frame`](Socket::recv_frame), with `WouldBlock` as `None`.
    ///
    /// # Errors
    /// As [`recv_frame`](Socket::recv_frame).
    pub fn try_recv_frame(&self) -> io::Result<Option<Frame>> {
        match self.recv_frame() {
            Ok(frame) => Ok(Some(frame)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl std::os::fd::AsRawFd for Socket {
    /// What `tokio::io::unix::AsyncFd` asks for.
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> OwnedFd {
        socket.0
    }
}
