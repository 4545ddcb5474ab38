//! A seqpacket socket under tokio.

use std::io;

use runtime::protocol::{Frame, Socket};
use tokio::io::unix::AsyncFd;

/// A connection that waits instead of answering `WouldBlock`.
pub(super) struct Connection(AsyncFd<Socket>);

impl Connection {
    #[allow(deprecated)] // its successor wants a promise that the descriptor stays open: the socket owns it
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        AsyncFd::new(socket).map(Self)
    }

    /// Sends a whole frame; frames of concurrent senders never mix.
    pub(super) async fn send(&self, frame: &Frame) -> io::Result<()> {
        loop {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|socket| socket.get_ref().send_frame(frame)) {
                Ok(outcome) => return outcome,
                Err(_would_block) => {}
            }
        }
    }

    /// Receives the next frame.
    pub(super) async fn receive(&self) -> io::Result<Frame> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|socket| socket.get_ref().recv_frame()) {
                Ok(outcome) => return outcome,
                Err(_would_block) => {}
            }
        }
    }
}
