//! One message on the socket: header, CBOR body, file descriptors.
//!
//! ```text
//!   0        2        4                8
//!   ├────────┼────────┼────────────────┼──────────── … ≤ 64 KiB ──┐
//!   │version │ kind   │ request id     │ CBOR map, integer keys   │   + 0..64 fds (SCM_RIGHTS)
//!   └────────┴────────┴────────────────┴──────────────────────────┘   all integers little-endian
//! ```

use std::os::fd::OwnedFd;

/// Version of the header and of the rules around it.
pub const VERSION: u16 = 1;
/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;
/// Largest body in bytes; a longer one is refused before it is read.
pub const MAX_BODY: usize = 64 * 1024;
/// Most file descriptors in one message.
pub const MAX_FDS: usize = 64;

/// What a frame is: requests count up from 1, replies have bit 14 set, events bit 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(pub u16);

/// A message as it crosses the socket.
#[derive(Debug)]
pub struct Frame {
    /// What the body means.
    pub kind: Kind,
    /// Chosen by the requester, repeated by the reply; 0 in events.
    pub request_id: u32,
    /// A CBOR map.
    pub body: Vec<u8>,
    /// Descriptors, in the order that the message type documents.
    pub fds: Vec<OwnedFd>,
}

/// Why a frame, or the message in it, could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The message is shorter than a header.
    #[error("message of {0} bytes is shorter than the header")]
    Short(usize),
    /// The body is larger than [`MAX_BODY`] or the kernel cut the message or its descriptors.
    #[error("message is larger than the protocol allows")]
    TooLarge,
    /// The peer speaks another version of the header.
    #[error("protocol version {0}, this side speaks {VERSION}")]
    Version(u16),
    /// The kind is not known to this build.
    #[error("unknown message kind {:#06x}", .0.0)]
    UnknownKind(Kind),
    /// The body is not the CBOR map that the kind demands.
    #[error("body of message {:#06x}: {source}", .kind.0)]
    Body {
        /// The message's kind.
        kind: Kind,
        /// Where the decoder gave up.
        source: minicbor::decode::Error,
    },
    /// The body announces other descriptors than came along.
    #[error("message {:#06x} came with {got} descriptors, its body asks for {want}", .kind.0)]
    Descriptors {
        /// The message's kind.
        kind: Kind,
        /// How many the body asks for.
        want: usize,
        /// How many came.
        got: usize,
    },
}

impl Kind {
    pub(super) const REPLY: u16 = 0x4000;
    pub(super) const EVENT: u16 = 0x8000;

    /// Whether this is a reply to a request.
    pub fn is_reply(self) -> bool {
        self.0 & Self::REPLY != 0
    }

    /// Whether this is an event.
    pub fn is_event(self) -> bool {
        self.0 & Self::EVENT != 0
    }
}

impl Frame {
    /// A frame whose body is the CBOR of `body`.
    pub fn new<B: minicbor::Encode<()>>(kind: Kind, request_id: u32, body: &B, fds: Vec<OwnedFd>) -> Frame {
        let mut bytes = Vec::new();
        // Encoding to memory has one error, "no room", which a Vec does not have.
        let written = minicbor::encode(body, &mut bytes);
        debug_assert!(written.is_ok());
        Frame {
            kind,
            request_id,
            body: bytes,
            fds,
        }
    }

    /// The header's bytes.
    pub fn header(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[0..2].copy_from_slice(&VERSION.to_le_bytes());
        header[2..4].copy_from_slice(&self.kind.0.to_le_bytes());
        header[4..8].copy_from_slice(&self.request_id.to_le_bytes());
        header
    }

    /// Takes apart one received message.
    ///
    /// # Errors
    /// [`ProtocolError::Short`], [`ProtocolError::TooLarge`] or [`ProtocolError::Version`].
    pub fn parse(mut message: Vec<u8>, fds: Vec<OwnedFd>) -> Result<Frame, ProtocolError> {
        let Some((header, body)) = message.split_first_chunk::<HEADER_LEN>() else {
            return Err(ProtocolError::Short(message.len()));
        };
        if body.len() > MAX_BODY || fds.len() > MAX_FDS {
            return Err(ProtocolError::TooLarge);
        }
        let [v0, v1, k0, k1, r0, r1, r2, r3] = *header;
        let version = u16::from_le_bytes([v0, v1]);
        if version != VERSION {
            return Err(ProtocolError::Version(version));
        }
        let kind = Kind(u16::from_le_bytes([k0, k1]));
        let request_id = u32::from_le_bytes([r0, r1, r2, r3]);
        message.drain(..HEADER_LEN);
        Ok(Frame {
            kind,
            request_id,
            body: message,
            fds,
        })
    }

    /// Decodes the body.
    ///
    /// # Errors
    /// [`ProtocolError::Body`] when the bytes are not a `B`.
    pub(super) fn body<'b, B: minicbor::Decode<'b, ()>>(&'b self) -> Result<B, ProtocolError> {
        minicbor::decode(&self.body).map_err(|source| ProtocolError::Body {
            kind: self.kind,
            source,
        })
    }

    /// Takes the descriptors, of which there must be exactly `want`.
    pub(super) fn take_fds(&mut self, want: usize) -> Result<Descriptors, ProtocolError> {
        let wrong = ProtocolError::Descriptors {
            kind: self.kind,
            want,
            got: self.fds.len(),
        };
        if self.fds.len() != want {
            return Err(wrong);
        }
        Ok(Descriptors {
            fds: std::mem::take(&mut self.fds).into_iter(),
            wrong: Some(wrong),
        })
    }

    /// Takes the one descriptor of a message that always has one.
    pub(super) fn take_fd(&mut self) -> Result<OwnedFd, ProtocolError> {
        self.take_fds(1)?.required()
    }
}

/// A message's descriptors, handed out in their order.
pub(super) struct Descriptors {
    fds: std::vec::IntoIter<OwnedFd>,
    wrong: Option<ProtocolError>,
}

impl Descriptors {
    /// The next one, which the message always has.
    pub(super) fn required(&mut self) -> Result<OwnedFd, ProtocolError> {
        self.fds
            .next()
            .ok_or_else(|| self.wrong.take().unwrap_or(ProtocolError::TooLarge))
    }

    /// The next one when the body announced it.
    pub(super) fn announced(&mut self, announced: bool) -> Option<OwnedFd> {
        if announced { self.fds.next() } else { None }
    }
}
