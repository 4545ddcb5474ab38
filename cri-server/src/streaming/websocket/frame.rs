//! Frames: from bytes and to bytes (RFC 6455, section 5), without any knowledge of channels.
//!
//! ```text
//!  FIN 1│RSV 3│opcode 4│mask 1│length 7 (+16 or +64)│mask key 32│payload
//! ```
//!
//! Payload is handed on as it comes, whatever length its frame names, and however a message was cut into frames.

use bytes::{Buf, Bytes, BytesMut};

/// Most bytes of one [`Event::Payload`].
pub const MAX_CHUNK: usize = 64 << 10;
/// Most bytes that a control frame may carry.
const MAX_CONTROL: u64 = 125;

/// What a peer sent breaks RFC 6455. The connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A client must mask what it sends.
    #[error("frame without a mask")]
    Unmasked,
    /// No extension was agreed on that would use these bits.
    #[error("reserved bits are set")]
    Reserved,
    /// An opcode that does not exist.
    #[error("opcode {0}")]
    Opcode(u8),
    /// A control frame that is cut into several, or too long.
    #[error("control frame that is fragmented or too long")]
    Control,
    /// A continuation of nothing, or a new message within another.
    #[error("message out of order")]
    Order,
    /// A length that does not fit 63 bits, or not in its shortest form.
    #[error("malformed length")]
    Length,
    /// Beyond the limit of who reads the messages.
    #[error("message too long")]
    TooLong,
    /// Text that must be base64 and is not.
    #[error("message is not base64")]
    Base64,
}

/// What a peer says.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A message or a part of one.
    Payload {
        /// At most [`MAX_CHUNK`].
        bytes: Bytes,
        /// The message begins here.
        first: bool,
        /// The message ends here.
        last: bool,
    },
    /// To be answered with the same bytes.
    Ping(Bytes),
    /// The answer to a ping.
    Pong,
    /// The peer says goodbye.
    Close,
}

/// Reads frames.
#[derive(Default)]
pub struct Decoder {
    /// The data frame of which something is still to come.
    open: Option<OpenFrame>,
    /// A message has begun and not ended.
    within: bool,
}

struct OpenFrame {
    left: u64,
    mask: [u8; 4],
    first: bool,
    last: bool,
}

struct Head {
    fin: bool,
    opcode: u8,
    length: u64,
    mask: [u8; 4],
}

impl Decoder {
    /// The next event, once `buffer` holds enough of it; what it took is gone from the buffer.
    ///
    /// # Errors
    /// [`FrameError`]; the decoder is of no use any more.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Event>, FrameError> {
        if self.open.is_some() {
            return Ok(self.chunk(buffer));
        }
        let Some((head, size)) = head(buffer)? else {
            return Ok(None);
        };
        match head.opcode {
            CONTINUATION | TEXT | BINARY => {
                let continues = head.opcode == CONTINUATION;
                if continues != self.within {
                    return Err(FrameError::Order);
                }
                buffer.advance(size);
                self.within = !head.fin;
                self.open = Some(OpenFrame {
                    left: head.length,
                    mask: head.mask,
                    first: !continues,
                    last: head.fin,
                });
                Ok(self.chunk(buffer))
            }
            CLOSE | PING | PONG => {
                if !head.fin || head.length > MAX_CONTROL {
                    return Err(FrameError::Control);
                }
                // At most 125.
                let length = usize::try_from(head.length).unwrap_or(0);
                if buffer.len() < size + length {
                    return Ok(None);
                }
                buffer.advance(size);
                let mut bytes = buffer.split_to(length);
                unmask(&mut bytes, &mut { head.mask });
                Ok(Some(match head.opcode {
                    CLOSE => Event::Close,
                    PING => Event::Ping(bytes.freeze()),
                    _ => Event::Pong,
                }))
            }
            opcode => Err(FrameError::Opcode(opcode)),
        }
    }

    fn chunk(&mut self, buffer: &mut BytesMut) -> Option<Event> {
        let frame = self.open.as_mut()?;
        let left = usize::try_from(frame.left).unwrap_or(usize::MAX);
        let count = left.min(buffer.len()).min(MAX_CHUNK);
        if count == 0 && left > 0 {
            return None;
        }
        let mut bytes = buffer.split_to(count);
        unmask(&mut bytes, &mut frame.mask);
        frame.left -= count as u64;
        let done = frame.left == 0;
        let event = Event::Payload {
            bytes: bytes.freeze(),
            first: std::mem::take(&mut frame.first),
            last: frame.last && done,
        };
        if done {
            self.open = None;
        }
        Some(event)
    }
}

/// The head of the frame that begins the buffer, and its size; `None` when it is not all there.
fn head(buffer: &[u8]) -> Result<Option<(Head, usize)>, FrameError> {
    let &[first, second, ..] = buffer else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(FrameError::Reserved);
    }
    if second & 0x80 == 0 {
        return Err(FrameError::Unmasked);
    }
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let size = 2 + extended + 4;
    if buffer.len() < size {
        return Ok(None);
    }
    let number = buffer[2..2 + extended]
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte));
    let length = match extended {
        0 => u64::from(second & 0x7f),
        2 if number > 125 => number,
        8 if number > 0xffff && number >> 63 == 0 => number,
        _ => return Err(FrameError::Length),
    };
    let key = &buffer[2 + extended..size];
    let head = Head {
        fin: first & 0x80 != 0,
        opcode: first & 0x0f,
        length,
        mask: [key[0], key[1], key[2], key[3]],
    };
    Ok(Some((head, size)))
}

/// Takes the mask off, and turns it so that it fits what follows.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let word = u32::from_ne_bytes(*mask);
    let (words, rest) = bytes.as_chunks_mut::<4>();
    for chunk in words {
        *chunk = (u32::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    rest.iter_mut().zip(*mask).for_each(|(byte, key)| *byte ^= key);
    mask.rotate_left(rest.len());
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What a message is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Bytes.
    Binary,
}

/// The head of a message of so many bytes, in one frame, from server to client (unmasked).
pub fn message(kind: Kind, length: usize, out: &mut BytesMut) {
    let opcode = match kind {
        Kind::Text => TEXT,
        Kind::Binary => BINARY,
    };
    put_head(opcode, length, out);
}

/// The close of a session that went well: status 1000.
pub fn close(out: &mut BytesMut) {
    put_head(CLOSE, 2, out);
    out.extend_from_slice(&1000_u16.to_be_bytes());
}

/// The answer to a ping.
pub fn pong(bytes: &[u8], out: &mut BytesMut) {
    put_head(PONG, bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// A ping of our own, without content.
pub fn ping(out: &mut BytesMut) {
    put_head(PING, 0, out);
}

fn put_head(opcode: u8, length: usize, out: &mut BytesMut) {
    out.extend_from_slice(&[0x80 | opcode]);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ ..=125), _) => out.extend_from_slice(&[length]),
        (_, Ok(length)) => {
            out.extend_from_slice(&[126]);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.extend_from_slice(&[127]);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        put_head(first & 0x0f, payload.len(), &mut out);
        out[0] = first;
        out[1] |= 0x80;
        let mask = [0xa1, 0x02, 0x33, 0xc4];
        out.extend_from_slice(&mask);
        let mut payload = payload.to_vec();
        unmask(&mut payload, &mut { mask });
        [&out[..], &payload].concat()
    }

    fn decode(bytes: &[u8], step: usize) -> Result<Vec<Event>, FrameError> {
        let (mut decoder, mut buffer, mut events) = (Decoder::default(), BytesMut::new(), vec![]);
        for part in bytes.chunks(step) {
            buffer.extend_from_slice(part);
            while let Some(event) = decoder.next(&mut buffer)? {
                events.push(event);
            }
        }
        Ok(events)
    }

    #[test]
    fn messages_survive_fragments_and_any_chunking() {
        let long: Vec<u8> = (0..70_000_u32).map(|n| n as u8).collect();
        let bytes = [
            frame(0x02, &long[..200]),
            frame(0x89, b"ping"),
            frame(0x80, &long[200..]),
            frame(0x81, b""),
            frame(0x88, &1000_u16.to_be_bytes()),
        ]
        .concat();
        for step in [1, 2, 5, 11, 4096, bytes.len()] {
            let (mut data, mut marks, mut others) = (vec![], vec![], vec![]);
            for event in decode(&bytes, step).expect("valid frames") {
                match event {
                    Event::Payload { bytes, first, last } => {
                        marks.extend([first.then_some('('), last.then_some(')')].into_iter().flatten());
                        data.extend_from_slice(&bytes);
                    }
                    other => others.push(other),
                }
            }
            assert_eq!(data, long, "in steps of {step}");
            assert_eq!(marks, ['(', ')', '(', ')']);
            assert_eq!(others, [Event::Ping(Bytes::from_static(b"ping")), Event::Close]);
        }
    }

    #[test]
    fn hostile_frames_are_refused() {
        let refused = |bytes: &[u8]| decode(bytes, bytes.len()).expect_err("refused");
        assert_eq!(refused(&[0x82, 0x01, 0]), FrameError::Unmasked);
        assert_eq!(refused(&frame(0xc2, b"x")), FrameError::Reserved);
        assert_eq!(refused(&frame(0x83, b"x")), FrameError::Opcode(3));
        assert_eq!(refused(&frame(0x09, b"x")), FrameError::Control, "fragmented");
        assert_eq!(refused(&frame(0x89, &[0; 126])), FrameError::Control);
        assert_eq!(refused(&frame(0x80, b"x")), FrameError::Order, "of nothing");
        assert_eq!(
            refused(&[frame(0x02, b"x"), frame(0x82, b"y")].concat()),
            FrameError::Order
        );
        assert_eq!(
            refused(&[0x82, 0xfe, 0, 1, 0, 0, 0, 0]),
            FrameError::Length,
            "not the shortest form"
        );
        assert_eq!(
            refused(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            FrameError::Length
        );
    }

    #[test]
    fn a_frame_of_any_length_is_handed_on_in_parts() {
        let mut bytes = vec![0x82, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0];
        bytes.extend(vec![7; 3 * MAX_CHUNK]);
        let events = decode(&bytes, bytes.len()).expect("valid so far");
        assert_eq!(events.len(), 3);
    }
}
