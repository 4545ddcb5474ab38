//! Frames: from bytes and to bytes, without any knowledge of streams.
//!
//! ```text
//!  control  1│version 15│type 16│flags 8│length 24│ …        data  0│stream 31│flags 8│length 24│ …
//! ```
//!
//! Control frames are bounded and read whole. Data is handed on as it comes, so that the size of a frame, which
//! is the peer's to choose, never decides how much is held.

mod encode;

use bytes::{Buf, Bytes, BytesMut};

pub use self::encode::{Encoder, ResetStatus, data, go_away, limits, ping, reset, window_update};
use super::headers::{Headers, Inflater};

/// Bytes before each frame's payload.
pub const HEADER_LEN: usize = 8;
/// Most bytes of a control frame's payload.
pub const MAX_CONTROL: usize = 64 << 10;
/// Most bytes of one [`Event::Data`].
pub const MAX_CHUNK: usize = 64 << 10;
/// The protocol's version, as control frames carry it.
const VERSION: u16 = 3;
/// No more is to come from the sender on this stream.
const FLAG_FIN: u8 = 1;
/// The receiver must not send on this stream.
const FLAG_UNIDIRECTIONAL: u8 = 2;

/// What a peer sent is not SPDY/3.1, or beyond our limits. The connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A control frame of another version.
    #[error("control frame of version {0}, not 3")]
    Version(u16),
    /// A control frame that its type does not allow this length.
    #[error("control frame of type {kind} with {length} bytes")]
    Length {
        /// The frame's type.
        kind: u16,
        /// Its length.
        length: usize,
    },
    /// A stream number that is zero where it must not be.
    #[error("frame for stream 0")]
    Stream,
    /// A window that grows by nothing.
    #[error("window update of 0")]
    Window,
    /// More headers than [`MAX_HEADERS`](super::headers::MAX_HEADERS).
    #[error("{0} headers in one block")]
    TooManyHeaders(usize),
    /// A header block that inflates beyond [`MAX_INFLATED`](super::headers::MAX_INFLATED).
    #[error("header block too long")]
    TooLong,
    /// A header block that is no list of names and values.
    #[error("malformed header block")]
    HeaderBlock,
    /// A header's name that is empty or not in lower case.
    #[error("malformed header name")]
    HeaderName,
    /// A header's name that comes again.
    #[error("duplicate header name")]
    HeaderTwice,
    /// Not zlib, or not with the dictionary of SPDY/3.
    #[error("header block not compressed as SPDY/3 has it")]
    Compression,
}

/// What a peer says.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes of a stream: a frame or a part of one.
    Data {
        /// The stream, never 0.
        stream: u32,
        /// At most [`MAX_CHUNK`].
        bytes: Bytes,
        /// Nothing follows on this stream.
        last: bool,
    },
    /// A new stream.
    SynStream {
        /// Its number.
        stream: u32,
        /// What it is for.
        headers: Headers,
        /// The peer sends nothing on it.
        last: bool,
        /// We must send nothing on it.
        unidirectional: bool,
    },
    /// The answer to a stream of ours, of which there are none.
    SynReply {
        /// The stream.
        stream: u32,
    },
    /// The end of a stream in both directions.
    Reset {
        /// The stream.
        stream: u32,
        /// Why (section 2.6.3).
        status: u32,
    },
    /// The window that new streams begin with, if the settings name one.
    Settings {
        /// SETTINGS_INITIAL_WINDOW_SIZE.
        initial_window: Option<u32>,
    },
    /// To be sent back.
    Ping(u32),
    /// The peer opens no more streams.
    GoAway,
    /// More headers for a stream; nothing here uses them.
    Headers {
        /// The stream.
        stream: u32,
        /// The direction ends with them.
        last: bool,
    },
    /// We may send more.
    WindowUpdate {
        /// The stream; 0 for the connection.
        stream: u32,
        /// So many bytes more, from 1.
        delta: u32,
    },
    /// A control frame of a type that SPDY/3.1 does not have, to be ignored.
    Unknown,
}

/// Reads frames.
#[derive(Default)]
pub struct Decoder {
    inflater: Inflater,
    /// The data frame of which something is still to come.
    open: Option<OpenFrame>,
}

struct OpenFrame {
    stream: u32,
    last: bool,
    left: usize,
}

impl Decoder {
    /// The next event, once `buffer` holds enough of it; what it took is gone from the buffer.
    ///
    /// # Errors
    /// [`FrameError`]; the decoder is of no use any more.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Event>, FrameError> {
        loop {
            if self.open.is_some() {
                return Ok(self.chunk(buffer));
            }
            if buffer.len() < HEADER_LEN {
                return Ok(None);
            }
            let head = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
            let flags = buffer[4];
            let length = usize::from(buffer[5]) << 16 | usize::from(buffer[6]) << 8 | usize::from(buffer[7]);
            if head >> 31 == 0 {
                if head == 0 {
                    return Err(FrameError::Stream);
                }
                buffer.advance(HEADER_LEN);
                self.open = Some(OpenFrame {
                    stream: head,
                    last: flags & FLAG_FIN != 0,
                    left: length,
                });
                continue;
            }
            let version = (head >> 16 & 0x7fff) as u16;
            let kind = (head & 0xffff) as u16;
            if version != VERSION {
                return Err(FrameError::Version(version));
            }
            if length > MAX_CONTROL {
                return Err(FrameError::Length { kind, length });
            }
            if buffer.len() < HEADER_LEN + length {
                return Ok(None);
            }
            buffer.advance(HEADER_LEN);
            let payload = buffer.split_to(length).freeze();
            return self.control(kind, flags, payload).map(Some);
        }
    }

    fn chunk(&mut self, buffer: &mut BytesMut) -> Option<Event> {
        let frame = self.open.as_mut()?;
        let count = frame.left.min(buffer.len()).min(MAX_CHUNK);
        if count == 0 && frame.left > 0 {
            return None;
        }
        frame.left -= count;
        let done = frame.left == 0;
        let event = Event::Data {
            stream: frame.stream,
            bytes: buffer.split_to(count).freeze(),
            last: frame.last && done,
        };
        if done {
            self.open = None;
        }
        Some(event)
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: Bytes) -> Result<Event, FrameError> {
        let wrong = FrameError::Length {
            kind,
            length: payload.len(),
        };
        let fits = match kind {
            SYN_STREAM => payload.len() >= 10,
            SYN_REPLY | SETTINGS | HEADERS => payload.len() >= 4,
            RST_STREAM | GOAWAY | WINDOW_UPDATE => payload.len() == 8,
            PING => payload.len() == 4,
            _ => return Ok(Event::Unknown),
        };
        if !fits {
            return Err(wrong);
        }
        let last = flags & FLAG_FIN != 0;
        let first = payload.get_u32();
        let stream = first & 0x7fff_ffff;
        if stream == 0 && matches!(kind, SYN_STREAM | SYN_REPLY | HEADERS | RST_STREAM) {
            return Err(FrameError::Stream);
        }
        Ok(match kind {
            SYN_STREAM => {
                // The associated stream, the priority and the slot mean nothing here.
                payload.advance(6);
                Event::SynStream {
                    stream,
                    headers: self.inflater.headers(&payload)?,
                    last,
                    unidirectional: flags & FLAG_UNIDIRECTIONAL != 0,
                }
            }
            // A block that nobody reads still moves the stream that all blocks share.
            SYN_REPLY => self
                .inflater
                .headers(&payload)
                .map(|_| Event::SynReply { stream })?,
            HEADERS => self
                .inflater
                .headers(&payload)
                .map(|_| Event::Headers { stream, last })?,
            RST_STREAM => Event::Reset {
                stream,
                status: payload.get_u32(),
            },
            SETTINGS => settings(first, &payload).ok_or(wrong)?,
            PING => Event::Ping(first),
            GOAWAY => Event::GoAway,
            _ => match payload.get_u32() & 0x7fff_ffff {
                0 => return Err(FrameError::Window),
                delta => Event::WindowUpdate { stream, delta },
            },
        })
    }
}

/// The count must be what the frame's length says (CVE-2026-35469): it is never a reason to make room.
fn settings(count: u32, entries: &Bytes) -> Option<Event> {
    if u64::from(count) * 8 != entries.len() as u64 {
        return None;
    }
    let initial = entries.chunks_exact(8).rfind(|entry| {
        let id = u32::from_be_bytes([0, entry[1], entry[2], entry[3]]);
        id == INITIAL_WINDOW_SIZE
    });
    Some(Event::Settings {
        initial_window: initial
            .map(|entry| u32::from_be_bytes([entry[4], entry[5], entry[6], entry[7]]) & 0x7fff_ffff),
    })
}

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const MAX_CONCURRENT_STREAMS: u32 = 4;
const INITIAL_WINDOW_SIZE: u32 = 7;

#[cfg(test)]
mod tests;
