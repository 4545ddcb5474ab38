//! A WebSocket connection: channels over any pair of byte streams.
//!
//! | Codec | Message | Protocols |
//! |---|---|---|
//! | [`Codec::Binary`] | channel, bytes | `channel.k8s.io`, `v4.channel.k8s.io`, `v5.channel.k8s.io` |
//! | [`Codec::Base64`] | channel as a digit, base64 | `base64.channel.k8s.io`, `v4.base64.channel.k8s.io` |
//! | [`Codec::Tunnel`] | bytes of one stream | `SPDY/3.1+portforward.k8s.io` |
//!
//! In version 5 the message 255, channel is the end of that channel; before, a channel ends with the connection.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

use super::frame::{self, Decoder, Event, FrameError, Kind};
use crate::streaming::channel::{Activity, Control, Feed, Outbox, Outgoing, Queues, Receiver, Sender};
use crate::streaming::link::{Link, Tasks};

/// Bytes read at once, and written at once.
const BATCH: usize = 128 << 10;
/// Most bytes of a message that has to be read whole.
const MAX_TEXT: usize = 1 << 20;
/// The channel that ends others.
const CLOSE_SIGNAL: u8 = 255;
/// The only channel of a tunnel.
const TUNNEL: u8 = 0;
/// What a tunnel holds between its two protocols.
const TUNNEL_BUFFER: usize = 256 << 10;
/// How long the last bytes of a tunnel may take to leave.
const TUNNEL_FAREWELL: Duration = Duration::from_secs(60);

/// How a message says which channel it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// By its first byte.
    Binary {
        /// Whether a channel can be ended.
        close_signal: bool,
    },
    /// By a digit before base64.
    Base64,
    /// There is but one.
    Tunnel,
}

/// A connection whose tasks end when it is dropped.
pub struct Connection {
    /// Its end, and how to bring it about.
    pub link: Link,
    outbox: Outbox,
    receivers: HashMap<u8, Receiver>,
}

impl Connection {
    /// Serves a connection on which the peer may send on `inputs`.
    pub fn serve<I>(io: I, codec: Codec, inputs: &[u8], activity: Activity) -> Self
    where
        I: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (incoming, outgoing) = tokio::io::split(io);
        let (outbox, queues) = Outbox::new(None, activity.clone());
        let (mut feeds, mut receivers) = (HashMap::new(), HashMap::new());
        for &input in inputs {
            let (feed, receiver) = outbox.receiver(u32::from(input));
            feeds.insert(input, feed);
            receivers.insert(input, receiver);
        }
        let reader = Reader {
            decoder: Decoder::default(),
            buffer: BytesMut::new(),
            codec,
            message: Message::Begins,
            feeds,
            outbox: outbox.clone(),
            activity: activity.clone(),
        };
        let reading = async move {
            if let Err(error) = reader.run(incoming).await {
                tracing::debug!(%error, "WebSocket connection broken off");
            }
        };
        let tasks = Tasks::spawn(reading, write(outgoing, codec, queues));
        Self {
            link: Link::new(outbox.clone(), activity, tasks),
            outbox,
            receivers,
        }
    }

    /// The bytes of a channel that was named as an input, once.
    pub fn receiver(&mut self, channel: u8) -> Option<Receiver> {
        self.receivers.remove(&channel)
    }

    /// The direction to the peer of a channel.
    pub fn sender(&self, channel: u8) -> Sender {
        self.outbox.sender(u32::from(channel))
    }

    /// A tunnel's bytes as an ordinary stream. The pumps end with either side.
    pub fn tunnel(io: impl AsyncRead + AsyncWrite + Send + 'static) -> DuplexStream {
        let (near, far) = tokio::io::duplex(TUNNEL_BUFFER);
        let mut connection = Self::serve(io, Codec::Tunnel, &[TUNNEL], Activity::default());
        let (sender, receiver) = (connection.sender(TUNNEL), connection.receiver(TUNNEL));
        crate::task::spawn(async move {
            let (from_inside, to_inside) = tokio::io::split(far);
            tokio::join!(inwards(receiver, to_inside), async {
                outwards(from_inside, sender).await;
                connection.link.finish(TUNNEL_FAREWELL).await;
            });
        });
        near
    }
}

async fn inwards(receiver: Option<Receiver>, mut to_inside: WriteHalf<DuplexStream>) {
    let Some(mut receiver) = receiver else { return };
    while let Some(mut bytes) = receiver.receive().await {
        if to_inside.write_all_buf(&mut bytes).await.is_err() {
            return;
        }
    }
    // The session that has ended already needs not be told.
    let _ = to_inside.shutdown().await;
}

async fn outwards(mut from_inside: ReadHalf<DuplexStream>, mut sender: Sender) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(64 << 10);
        match from_inside.read_buf(&mut buffer).await {
            Ok(1..) if sender.send(buffer.split().freeze()).await.is_ok() => {}
            _ => return,
        }
    }
}

/// Why a connection was broken off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("too many pings without reading an answer")]
    Flood,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What is known of the message that is being read.
enum Message {
    Begins,
    Of(u8),
    /// Read whole before it can be understood.
    Whole(BytesMut),
}

struct Reader {
    decoder: Decoder,
    buffer: BytesMut,
    codec: Codec,
    message: Message,
    feeds: HashMap<u8, Feed>,
    outbox: Outbox,
    activity: Activity,
}

impl Reader {
    async fn run(mut self, mut io: impl AsyncRead + Unpin) -> Result<(), Broken> {
        loop {
            while let Some(event) = self.decoder.next(&mut self.buffer)? {
                match event {
                    Event::Payload { bytes, first, last } => self.payload(bytes, first, last).await?,
                    Event::Ping(bytes) => {
                        if !self.outbox.control(Control::Pong(bytes)) {
                            return Err(Broken::Flood);
                        }
                    }
                    Event::Pong => {}
                    Event::Close => return Ok(()),
                }
            }
            self.buffer.reserve(BATCH);
            if io.read_buf(&mut self.buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn payload(&mut self, mut bytes: Bytes, first: bool, last: bool) -> Result<(), FrameError> {
        self.activity.touch();
        if first {
            self.message = match self.codec {
                Codec::Binary { .. } => Message::Begins,
                Codec::Base64 => Message::Whole(BytesMut::new()),
                Codec::Tunnel => Message::Of(TUNNEL),
            };
        }
        if matches!(self.message, Message::Begins) && !bytes.is_empty() {
            self.message = match bytes.get_u8() {
                CLOSE_SIGNAL if self.codec == (Codec::Binary { close_signal: true }) => {
                    Message::Whole(BytesMut::new())
                }
                channel => Message::Of(channel),
            };
        }
        match &mut self.message {
            Message::Begins => {}
            // A channel that the session does not have is nobody's: thrown away.
            Message::Of(channel) => {
                if let Some(feed) = self.feeds.get(channel) {
                    let outbox = &self.outbox;
                    feed.put(bytes, || outbox.probe()).await;
                }
            }
            Message::Whole(message) => {
                if message.len() + bytes.len() > MAX_TEXT {
                    return Err(FrameError::TooLong);
                }
                message.extend_from_slice(&bytes);
                if last {
                    let message = std::mem::take(message).freeze();
                    self.whole(message).await?;
                }
            }
        }
        Ok(())
    }

    async fn whole(&mut self, message: Bytes) -> Result<(), FrameError> {
        if self.codec != Codec::Base64 {
            // A close signal: the channels that end.
            message
                .iter()
                .for_each(|channel| drop(self.feeds.remove(channel)));
            return Ok(());
        }
        let Some((digit, text)) = message.split_first() else {
            return Ok(());
        };
        let bytes = STANDARD.decode(text).map_err(|_| FrameError::Base64)?;
        if let Some(feed) = self.feeds.get(&digit.wrapping_sub(b'0')) {
            let outbox = &self.outbox;
            for chunk in bytes.chunks(frame::MAX_CHUNK) {
                feed.put(Bytes::copy_from_slice(chunk), || outbox.probe()).await;
            }
        }
        Ok(())
    }
}

async fn write(mut io: impl AsyncWrite + Unpin, codec: Codec, mut queues: Queues) -> std::io::Result<()> {
    let mut batch = BytesMut::with_capacity(BATCH);
    loop {
        let mut over = false;
        tokio::select! {
            biased;
            Some(control) = queues.control.recv() => answer(control, &mut batch),
            Some(outgoing) = queues.data.recv() => over = !put(outgoing, codec, &mut batch),
            else => return Ok(()),
        }
        while !over && batch.len() < BATCH {
            if let Ok(control) = queues.control.try_recv() {
                answer(control, &mut batch);
            } else if let Ok(outgoing) = queues.data.try_recv() {
                over = !put(outgoing, codec, &mut batch);
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
fn put(outgoing: Outgoing, codec: Codec, batch: &mut BytesMut) -> bool {
    let Outgoing::Data { channel, bytes, last } = outgoing else {
        frame::close(batch);
        return false;
    };
    // The protocols have no way to end a channel of ours; clients take the end of the connection for it.
    if last && bytes.is_empty() {
        return true;
    }
    let channel = u8::try_from(channel).unwrap_or(CLOSE_SIGNAL);
    match codec {
        Codec::Binary { .. } => {
            frame::message(Kind::Binary, 1 + bytes.len(), batch);
            batch.extend_from_slice(&[channel]);
            batch.extend_from_slice(&bytes);
        }
        Codec::Base64 => {
            let text = STANDARD.encode(&bytes);
            frame::message(Kind::Text, 1 + text.len(), batch);
            batch.extend_from_slice(&[b'0'.wrapping_add(channel)]);
            batch.extend_from_slice(text.as_bytes());
        }
        Codec::Tunnel => {
            frame::message(Kind::Binary, bytes.len(), batch);
            batch.extend_from_slice(&bytes);
        }
    }
    true
}

fn answer(control: Control, batch: &mut BytesMut) {
    match control {
        Control::Pong(bytes) => frame::pong(&bytes, batch),
        Control::Probe => frame::ping(batch),
        // Of the other protocol.
        Control::Credit { .. } | Control::Accept(_) | Control::Reset(..) | Control::Echo(_) => {}
    }
}
