//! Pumps between a process's stdio and a session's channels, one per direction.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use super::channel::{Receiver, Sender};
use super::endpoint::Endpoint;
use super::resize::Sizes;

/// Bytes read at once: what a pipe holds by default.
const CHUNK: usize = 64 << 10;
/// What a terminal may hold at most.
const TERMINAL_BUFFER: usize = 64 << 10;

/// Client to process. The process's stdin is closed when the client has half-closed. A process that reads no more
/// is no error: what still comes is thrown away.
pub async fn feed(from: Option<Receiver>, to: Option<&Endpoint>) {
    let (Some(mut from), Some(to)) = (from, to) else {
        return;
    };
    while let Some(bytes) = from.receive().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// The client's window to the process's terminal.
pub async fn resize(from: Option<Receiver>, terminal: &Endpoint) {
    let Some(mut from) = from else { return };
    let mut sizes = Sizes::default();
    while let Some(bytes) = from.receive().await {
        if let Some(size) = sizes.newest(&bytes) {
            // A terminal whose process has just ended keeps its size.
            let _ = rustix::termios::tcsetwinsize(terminal, size);
        }
    }
}

/// What is left to wait for when the process has ended.
#[derive(Clone, Debug)]
pub struct Patience {
    /// Becomes true with the process's end.
    pub ended: watch::Receiver<bool>,
    /// How long others that hold its output may keep us waiting after that.
    pub drain: Duration,
}

/// Process to client, to the last byte, and then the end. After the process has ended, what it has written is still
/// sent, however slowly the client reads; but a process that it left behind, with its output in hand, does not hold
/// the session open.
pub async fn drain(from: Option<&Endpoint>, to: Option<Sender>, mut patience: Patience) {
    let (Some(from), Some(mut to)) = (from, to) else {
        return;
    };
    let mut buffer = vec![0; CHUNK];
    let mut left = Leftovers::new(from, &patience);
    loop {
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = left.wait(&mut patience.ended) => break,
        };
        let Ok(count @ 1..) = read else { break };
        if to.send(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
            return;
        }
        if *patience.ended.borrow() && !left.may_still_be_its_own(count) {
            break;
        }
    }
    // A connection that has ended needs no end of a stream.
    let _ = to.finish().await;
}

/// Output after the end of the process that should have written it.
struct Leftovers {
    waited: Duration,
    limit: Duration,
    /// So much can have been in the pipe when it ended; what comes beyond that is others'.
    in_flight: usize,
}

impl Leftovers {
    fn new(pipe: &Endpoint, patience: &Patience) -> Self {
        let size: io::Result<usize> = rustix::pipe::fcntl_getpipe_size(pipe).map_err(io::Error::from);
        Self {
            waited: Duration::ZERO,
            limit: patience.drain,
            in_flight: size.unwrap_or(TERMINAL_BUFFER),
        }
    }

    /// Resolves when the process has ended and nothing has come for as long as we are willing to wait, taken together.
    async fn wait(&mut self, ended: &mut watch::Receiver<bool>) {
        if ended.wait_for(|ended| *ended).await.is_err() {
            return std::future::pending().await;
        }
        let left = self.limit.saturating_sub(self.waited);
        let _counted = Waited {
            total: &mut self.waited,
            began: Instant::now(),
        };
        tokio::time::sleep(left).await;
    }

    fn may_still_be_its_own(&mut self, count: usize) -> bool {
        self.in_flight = self.in_flight.saturating_sub(count);
        self.in_flight > 0
    }
}

/// Counts a wait also when it is given up.
struct Waited<'a> {
    total: &'a mut Duration,
    began: Instant,
}

impl Drop for Waited<'_> {
    fn drop(&mut self) {
        *self.total += self.began.elapsed();
    }
}
