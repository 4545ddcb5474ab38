//! Frames to bytes.

use super::{
    GOAWAY, HEADER_LEN, INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS, PING, RST_STREAM, SETTINGS, SYN_REPLY,
    SYN_STREAM, VERSION, WINDOW_UPDATE,
};
use crate::streaming::spdy::headers::{Deflater, Headers};

/// Why a stream is refused or ended (section 2.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ResetStatus {
    /// The peer broke the rules of the stream.
    ProtocolError = 1,
    /// Data for a stream that is not open.
    InvalidStream = 2,
    /// Not accepted; nothing of it was acted on.
    RefusedStream = 3,
    /// No longer wanted.
    Cancel = 5,
}

/// Writes frames.
#[derive(Default)]
pub struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    /// SYN_STREAM. Only a client opens streams: this is for tests, and for the corpus of hostile conversations.
    pub fn syn_stream(&mut self, stream: u32, headers: &Headers, last: bool) -> Vec<u8> {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend([0; 6]);
        payload.extend(self.deflater.block(headers));
        control(SYN_STREAM, u8::from(last), &payload)
    }

    /// SYN_REPLY: a stream is accepted.
    pub fn syn_reply(&mut self, stream: u32) -> Vec<u8> {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend(self.deflater.block(&Headers::default()));
        control(SYN_REPLY, 0, &payload)
    }
}

/// The header of a data frame with `length` bytes, which must be less than 2²⁴.
pub fn data(stream: u32, length: usize, last: bool) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = stream.to_be_bytes();
    let [_, e, f, g] = u32::try_from(length).unwrap_or(0x00ff_ffff).to_be_bytes();
    [a, b, c, d, u8::from(last), e, f, g]
}

/// RST_STREAM.
pub fn reset(stream: u32, status: ResetStatus) -> Vec<u8> {
    pair(RST_STREAM, stream, status as u32)
}

/// GOAWAY: no stream above `last_accepted` was acted on.
pub fn go_away(last_accepted: u32, protocol_error: bool) -> Vec<u8> {
    pair(GOAWAY, last_accepted, u32::from(protocol_error))
}

/// WINDOW_UPDATE; stream 0 is the connection.
pub fn window_update(stream: u32, delta: u32) -> Vec<u8> {
    pair(WINDOW_UPDATE, stream, delta)
}

/// PING.
pub fn ping(id: u32) -> Vec<u8> {
    control(PING, 0, &id.to_be_bytes())
}

/// SETTINGS: how many streams the peer may have open at once, and how much it may send on each before it must wait.
pub fn limits(streams: u32, window: u32) -> Vec<u8> {
    let words = [2, MAX_CONCURRENT_STREAMS, streams, INITIAL_WINDOW_SIZE, window];
    control(SETTINGS, 0, &words.map(u32::to_be_bytes).concat())
}

fn pair(kind: u16, first: u32, second: u32) -> Vec<u8> {
    control(kind, 0, &[first, second].map(u32::to_be_bytes).concat())
}

pub(super) fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or(0x00ff_ffff).to_be_bytes();
    let [version, kind] = [0x8000 | VERSION, kind].map(u16::to_be_bytes);
    let mut frame = [&version[..], &kind, &[flags, a, b, c]].concat();
    frame.extend(payload);
    frame
}
