//! A SPDY connection: streams that a peer opens, over any pair of byte streams.
//!
//! ```text
//!   io ──► read ──► streams ── Feed ──► Receiver          Opened { headers, sender, receiver } ──► session
//!            │ SYN_STREAM ─► Opened
//!   io ◄── write ◄── Outgoing, Control ◄── Sender
//! ```
//!
//! Two tasks, one per direction, so that neither can hold up the other; both end with the [`Connection`].

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::frame::{self, Decoder, Encoder, Event, FrameError, ResetStatus};
use super::headers::Headers;
use super::windows::Windows;
use crate::streaming::channel::{Activity, Control, Feed, Outbox, Outgoing, Queues, Receiver, Sender};
use crate::streaming::link::{Link, Tasks};

/// Most streams that a peer may have open at once.
pub const MAX_STREAMS: usize = 1024;
/// What a peer may send on one stream before we have read it; only to a peer that looks at windows.
const WINDOW: u32 = 512 << 10;
/// The same for the connection.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Streams opened by the peer that nobody has taken yet.
const BACKLOG: usize = 64;
/// Bytes read at once, and written at once.
const BATCH: usize = 128 << 10;

/// A stream that the peer has opened and we have accepted.
pub struct Opened {
    /// Its number.
    pub stream: u32,
    /// What it is for.
    pub headers: Headers,
    /// To the peer.
    pub sender: Sender,
    /// From the peer.
    pub receiver: Receiver,
}

/// A connection and the tasks that serve it, which end when it is dropped.
pub struct Connection {
    /// Streams as they are opened.
    pub opened: mpsc::Receiver<Opened>,
    /// The connection's end, and how to bring it about.
    pub link: Link,
}

impl Connection {
    /// Serves a connection.
    pub fn serve<I>(io: I, activity: Activity) -> Self
    where
        I: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (incoming, outgoing) = tokio::io::split(io);
        let windows = Arc::new(Windows::default());
        let (outbox, queues) = Outbox::new(Some(windows.clone()), activity.clone());
        let (opened, backlog) = mpsc::channel(BACKLOG);
        let reader = Reader {
            decoder: Decoder::default(),
            buffer: BytesMut::new(),
            streams: HashMap::new(),
            newest: 0,
            uncredited: 0,
            opened,
            outbox: outbox.clone(),
            windows: windows.clone(),
            activity: activity.clone(),
        };
        let reading = async move {
            let outcome = reader.run(incoming).await;
            windows.close();
            if let Err(error) = outcome {
                tracing::debug!(%error, "SPDY connection broken off");
            }
        };
        let tasks = Tasks::spawn(reading, write(outgoing, queues));
        Self {
            opened: backlog,
            link: Link::new(outbox, activity, tasks),
        }
    }
}

/// Why a connection was broken off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("stream number {0} is even, or lower than one before")]
    StreamNumber(u32),
    #[error("window beyond 2^31")]
    Window,
    #[error("too many pings, or streams that are refused, without reading an answer")]
    Flood,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

struct Reader {
    decoder: Decoder,
    buffer: BytesMut,
    /// Those on which the peer may still send.
    streams: HashMap<u32, Feed>,
    newest: u32,
    /// Bytes read from the connection for which it was given no credit yet.
    uncredited: u32,
    opened: mpsc::Sender<Opened>,
    outbox: Outbox,
    windows: Arc<Windows>,
    activity: Activity,
}

impl Reader {
    async fn run(mut self, mut io: impl AsyncRead + Unpin) -> Result<(), Broken> {
        loop {
            while let Some(event) = self.decoder.next(&mut self.buffer)? {
                self.take(event).await?;
            }
            self.buffer.reserve(BATCH);
            if io.read_buf(&mut self.buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn take(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Data { stream, bytes, last } => self.data(stream, bytes, last).await?,
            Event::SynStream {
                stream,
                headers,
                last,
                unidirectional,
            } => self.open(stream, headers, last, unidirectional).await?,
            Event::Reset { stream, .. } => {
                self.streams.remove(&stream);
                self.windows.forget(stream);
            }
            Event::Settings {
                initial_window: Some(initial),
            } => self.windows.set_initial(initial),
            // An even one is the answer to ours.
            Event::Ping(id) if id % 2 == 1 => self.say(Control::Echo(id))?,
            Event::Headers { stream, last: true } => drop(self.streams.remove(&stream)),
            Event::WindowUpdate { stream, delta } => match (self.windows.grow(stream, delta), stream) {
                (true, _) => {}
                (false, 0) => return Err(Broken::Window),
                (false, _) => {
                    self.windows.forget(stream);
                    self.say(Control::Reset(stream, ResetStatus::ProtocolError))?;
                }
            },
            // A peer that goes away may still read what it asked for.
            Event::GoAway
            | Event::Settings { .. }
            | Event::Headers { .. }
            | Event::Ping(_)
            | Event::SynReply { .. }
            | Event::Unknown => {}
        }
        Ok(())
    }

    async fn open(
        &mut self,
        stream: u32,
        headers: Headers,
        last: bool,
        unidirectional: bool,
    ) -> Result<(), Broken> {
        if stream.is_multiple_of(2) || stream <= self.newest {
            return Err(Broken::StreamNumber(stream));
        }
        self.newest = stream;
        if self.streams.len() >= MAX_STREAMS {
            // Of a stream that was reset nothing more is heard.
            self.streams.retain(|_, feed| !feed.is_closed());
        }
        let full = self.streams.len() >= MAX_STREAMS || self.windows.open_streams() >= MAX_STREAMS;
        if full || unidirectional {
            return self.say(Control::Reset(stream, ResetStatus::RefusedStream));
        }
        self.windows.open(stream);
        let (feed, receiver) = self.outbox.receiver(stream);
        if !last {
            self.streams.insert(stream, feed);
        }
        self.say(Control::Accept(stream))?;
        let opened = Opened {
            stream,
            headers,
            sender: self.outbox.sender(stream),
            receiver,
        };
        // A session that wants no more streams has dropped its end: then nobody answers on this one.
        if self.opened.send(opened).await.is_err() {
            self.streams.remove(&stream);
            self.windows.forget(stream);
            self.say(Control::Reset(stream, ResetStatus::Cancel))?;
        }
        Ok(())
    }

    async fn data(&mut self, stream: u32, bytes: Bytes, last: bool) -> Result<(), Broken> {
        self.activity.touch();
        // At most a chunk.
        self.uncredited += u32::try_from(bytes.len()).unwrap_or(0);
        if self.uncredited >= CONNECTION_WINDOW / 4 {
            let (channel, bytes) = (0, self.uncredited);
            if self.outbox.control(Control::Credit { channel, bytes }) {
                self.uncredited = 0;
            }
        }
        if let Some(feed) = self.streams.get(&stream) {
            let outbox = &self.outbox;
            feed.put(bytes, || outbox.probe()).await;
        } else if stream > self.newest || stream.is_multiple_of(2) {
            self.say(Control::Reset(stream, ResetStatus::InvalidStream))?;
        }
        if last {
            self.streams.remove(&stream);
        }
        Ok(())
    }

    fn say(&self, control: Control) -> Result<(), Broken> {
        match self.outbox.control(control) {
            true => Ok(()),
            false => Err(Broken::Flood),
        }
    }
}

async fn write(mut io: impl AsyncWrite + Unpin, mut queues: Queues) -> std::io::Result<()> {
    let mut encoder = Encoder::default();
    let mut batch = BytesMut::with_capacity(BATCH);
    batch.extend_from_slice(&frame::limits(
        u32::try_from(MAX_STREAMS).unwrap_or(u32::MAX),
        WINDOW,
    ));
    batch.extend_from_slice(&frame::window_update(0, CONNECTION_WINDOW - (64 << 10)));
    let mut newest = 0;
    loop {
        let mut over = false;
        tokio::select! {
            biased;
            Some(control) = queues.control.recv() => encode(control, &mut encoder, &mut batch, &mut newest),
            Some(outgoing) = queues.data.recv() => over = !put(outgoing, newest, &mut batch),
            else => return Ok(()),
        }
        while !over && batch.len() < BATCH {
            if let Ok(control) = queues.control.try_recv() {
                encode(control, &mut encoder, &mut batch, &mut newest);
            } else if let Ok(outgoing) = queues.data.try_recv() {
                over = !put(outgoing, newest, &mut batch);
            } else {
                break;
            }
        }
        io.write_all(&batch).await?;
        io.flush().await?;
        batch.clear();
        if over {
            return io.shutdown().await;
        }
    }
}

/// False when nothing comes after it.
fn put(outgoing: Outgoing, newest: u32, batch: &mut BytesMut) -> bool {
    match outgoing {
        Outgoing::Data { channel, bytes, last } => {
            batch.extend_from_slice(&frame::data(channel, bytes.len(), last));
            batch.extend_from_slice(&bytes);
            true
        }
        Outgoing::Farewell => {
            batch.extend_from_slice(&frame::go_away(newest, false));
            false
        }
    }
}

fn encode(control: Control, encoder: &mut Encoder, batch: &mut BytesMut, newest: &mut u32) {
    let bytes = match control {
        Control::Credit { channel, bytes } => frame::window_update(channel, bytes),
        Control::Accept(stream) => {
            *newest = stream;
            encoder.syn_reply(stream)
        }
        Control::Reset(stream, status) => frame::reset(stream, status),
        Control::Echo(id) => frame::ping(id),
        // Even: ours.
        Control::Probe => frame::ping(2),
        // Of the other protocol.
        Control::Pong(_) => return,
    };
    batch.extend_from_slice(&bytes);
}
