//! Channels: the directions of bytes that a session reads and writes, whatever carries them.
//!
//! ```text
//!   reader task ── Feed ──► Receiver ── session ── Sender ──► queue ──► writer task
//!        │  bounded: a full one holds the reader                 ▲ windows: held until the peer has room
//!        └───────────── Outgoing::Control (ping, credit) ────────┘
//! ```
//!
//! A SPDY stream is two channels under one number; a WebSocket channel is one. Memory is bounded on both ways:
//! a channel that nobody reads holds up the connection it came on, a peer that does not read holds up its senders.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::spdy::windows::Windows;

/// Chunks, each at most 64 KiB, that wait for a channel's reader.
const INBOX: usize = 16;
/// Bytes that wait for all readers of one connection together.
const INBOXES: usize = 8 << 20;
/// Chunks of at least that many bytes stay where they were read to; smaller ones get memory of their own.
const SHARED: usize = 32 << 10;
/// Chunks that wait for the writer.
const OUTBOX: usize = 8;
/// Answers to the peer that may wait for the writer; a peer that asks for more without reading is cut off.
const CONTROL: usize = 1024;
/// Most bytes in one frame of ours.
pub const MAX_FRAME: usize = 64 << 10;
/// Bytes that a reader takes before the peer is told that it may send more.
const CREDIT_STEP: u32 = 64 << 10;

/// The connection has ended; what was to be sent will not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection has ended")]
pub struct Disconnected;

/// What a session wants sent, in order.
#[derive(Debug)]
pub enum Outgoing {
    /// Bytes of a channel.
    Data {
        /// The channel.
        channel: u32,
        /// At most [`MAX_FRAME`].
        bytes: Bytes,
        /// Nothing follows on this channel.
        last: bool,
    },
    /// The session is over: say goodbye and close.
    Farewell,
}

/// What does not wait behind data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// So many bytes of a channel have been read; 0 is the connection.
    Credit {
        /// The channel.
        channel: u32,
        /// Bytes.
        bytes: u32,
    },
    /// A stream is accepted.
    Accept(u32),
    /// A stream is ended in both directions.
    Reset(u32, super::spdy::frame::ResetStatus),
    /// A peer's SPDY ping, to be sent back.
    Echo(u32),
    /// What a peer's WebSocket ping carried, to be sent back.
    Pong(Bytes),
    /// Something to make a peer that is gone show it.
    Probe,
}

/// The ends of a connection's queues that channels hold.
#[derive(Clone)]
pub struct Outbox {
    data: mpsc::Sender<Outgoing>,
    control: mpsc::Sender<Control>,
    windows: Option<Arc<Windows>>,
    activity: Activity,
    room: Arc<Semaphore>,
}

/// The ends that the writer task holds.
pub struct Queues {
    /// In order.
    pub data: mpsc::Receiver<Outgoing>,
    /// Before data.
    pub control: mpsc::Receiver<Control>,
}

impl Outbox {
    /// Queues for one connection; `windows` where the protocol has flow control.
    pub fn new(windows: Option<Arc<Windows>>, activity: Activity) -> (Self, Queues) {
        let (data, data_end) = mpsc::channel(OUTBOX);
        let (control, control_end) = mpsc::channel(CONTROL);
        let outbox = Self {
            data,
            control,
            windows,
            activity,
            room: Arc::new(Semaphore::new(INBOXES)),
        };
        let queues = Queues {
            data: data_end,
            control: control_end,
        };
        (outbox, queues)
    }

    /// Sends something ahead of data; false when the peer has let too much of it pile up, or is gone.
    pub fn control(&self, control: Control) -> bool {
        self.control.try_send(control).is_ok()
    }

    /// Sends something that a peer which is gone cannot take.
    pub fn probe(&self) {
        // Where so much waits already, that will do as well.
        let _ = self.control(Control::Probe);
    }

    /// Ends the connection once all that was sent before has left.
    pub async fn farewell(&self) {
        // A connection that has ended needs none.
        let _ = self.data.send(Outgoing::Farewell).await;
    }

    /// The direction to the peer of a channel.
    pub fn sender(&self, channel: u32) -> Sender {
        Sender {
            channel,
            outbox: self.clone(),
        }
    }

    /// The direction from the peer of a channel, and the end that the reader task feeds.
    pub fn receiver(&self, channel: u32) -> (Feed, Receiver) {
        let (feed, inbox) = mpsc::channel(INBOX);
        let receiver = Receiver {
            channel,
            inbox,
            credit: 0,
            outbox: self.clone(),
        };
        let feed = Feed {
            inbox: feed,
            room: self.room.clone(),
        };
        (feed, receiver)
    }
}

/// The direction of a channel to the peer.
pub struct Sender {
    channel: u32,
    outbox: Outbox,
}

impl Sender {
    /// Sends all of it; waits as long as the peer has no room.
    ///
    /// # Errors
    /// [`Disconnected`]
    pub async fn send(&mut self, mut bytes: Bytes) -> Result<(), Disconnected> {
        loop {
            let wanted = bytes.len().min(MAX_FRAME);
            let count = match &self.outbox.windows {
                Some(windows) => windows.take(self.channel, wanted).await?,
                None => wanted,
            };
            let part = bytes.split_to(count);
            self.put(part, false).await?;
            if bytes.is_empty() {
                return Ok(());
            }
        }
    }

    /// Half-closes: the peer sees the end when it has read everything before.
    ///
    /// # Errors
    /// [`Disconnected`]
    pub async fn finish(self) -> Result<(), Disconnected> {
        self.put(Bytes::new(), true).await
    }

    /// Ends the channel in both directions: what it leads to is broken. For SPDY streams.
    pub fn reset(self, status: super::spdy::frame::ResetStatus) {
        // A connection that takes no more is at its end, and the stream with it.
        let _ = self.outbox.control(Control::Reset(self.channel, status));
    }

    async fn put(&self, bytes: Bytes, last: bool) -> Result<(), Disconnected> {
        self.outbox.activity.touch();
        let data = Outgoing::Data {
            channel: self.channel,
            bytes,
            last,
        };
        self.outbox.data.send(data).await.map_err(|_| Disconnected)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if let Some(windows) = &self.outbox.windows {
            windows.forget(self.channel);
        }
    }
}

/// The direction of a channel from the peer. Dropped, it takes no more: what still comes is thrown away.
pub struct Receiver {
    channel: u32,
    inbox: mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>,
    credit: u32,
    outbox: Outbox,
}

impl Receiver {
    /// The next bytes, never empty; `None` when the peer has half-closed or is gone.
    pub async fn receive(&mut self) -> Option<Bytes> {
        let (bytes, _room) = self.inbox.recv().await?;
        self.credit = self
            .credit
            .saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        if self.outbox.windows.is_some() && self.credit >= CREDIT_STEP {
            let (channel, bytes) = (self.channel, self.credit);
            // Where there is no room now, the next time asks for both.
            if self.outbox.control(Control::Credit { channel, bytes }) {
                self.credit = 0;
            }
        }
        Some(bytes)
    }
}

/// The reader task's end of a [`Receiver`]. Dropped, the receiver sees the end.
pub struct Feed {
    inbox: mpsc::Sender<(Bytes, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

impl Feed {
    /// Hands bytes on; waits while the receiver, or all of the connection's together, have enough. While it waits,
    /// `probe` is called every `PROBE`, for nothing is read from the connection meanwhile and its end would go
    /// unnoticed.
    pub async fn put(&self, bytes: Bytes, probe: impl Fn()) {
        if bytes.is_empty() || self.inbox.is_closed() {
            return;
        }
        // A few bytes would keep all that was read together with them.
        let bytes = match bytes.len() {
            ..SHARED => Bytes::copy_from_slice(&bytes),
            _ => bytes,
        };
        // At most a chunk.
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let put = async {
            tokio::select! {
                room = self.room.clone().acquire_many_owned(size) => {
                    if let Ok(room) = room {
                        // Nobody left to read: thrown away.
                        let _ = self.inbox.send((bytes, room)).await;
                    }
                }
                () = self.inbox.closed() => {}
            }
        };
        let mut put = std::pin::pin!(put);
        while tokio::time::timeout(PROBE, &mut put).await.is_err() {
            probe();
        }
    }

    /// Whether nobody is left to read.
    pub fn is_closed(&self) -> bool {
        self.inbox.is_closed()
    }
}

/// How often a connection that is not read is probed.
const PROBE: Duration = match cfg!(test) {
    true => Duration::from_millis(20),
    false => Duration::from_secs(2),
};

/// When bytes last moved on a connection.
#[derive(Clone, Debug)]
pub struct Activity(Arc<watch::Sender<Instant>>);

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Instant::now())))
    }
}

impl Activity {
    /// Bytes have moved.
    pub fn touch(&self) {
        self.0.send_replace(Instant::now());
    }

    /// Resolves when none have for so long.
    pub async fn idle(&self, limit: Duration) {
        loop {
            let idle_at = *self.0.borrow() + limit;
            if idle_at <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(idle_at.into()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_receiver_gives_credit_for_what_it_has_read() {
        let (outbox, mut queues) = Outbox::new(Some(Arc::default()), Activity::default());
        let (feed, mut receiver) = outbox.receiver(3);
        for _ in 0..3 {
            feed.put(vec![0; 30_000].into(), || {}).await;
            receiver.receive().await.expect("bytes");
        }
        let credit = Control::Credit {
            channel: 3,
            bytes: 90_000,
        };
        assert_eq!(queues.control.try_recv(), Ok(credit));
        drop(feed);
        assert_eq!(receiver.receive().await, None);
    }

    #[tokio::test]
    async fn a_full_receiver_holds_its_feed_and_the_peer_is_probed() {
        let (outbox, _queues) = Outbox::new(None, Activity::default());
        let (feed, receiver) = outbox.receiver(0);
        for _ in 0..INBOX {
            feed.put(Bytes::from_static(b"x"), || panic!("there is room"))
                .await;
        }
        let probes = std::cell::Cell::new(0);
        let put = feed.put(Bytes::from_static(b"x"), || probes.set(probes.get() + 1));
        assert!(tokio::time::timeout(10 * PROBE, put).await.is_err());
        assert!(probes.get() >= 1, "while it waits");
        drop(receiver);
        assert!(feed.is_closed());
        feed.put(Bytes::from_static(b"thrown away"), || {}).await;
    }
}
