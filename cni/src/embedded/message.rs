//! Netlink messages: a header, a fixed body, and attributes that nest (netlink(7)).
//!
//! Integers are in host order, except in nftables, which speaks network order. What is read back comes from the kernel,
//! yet every length is checked: a walk over attributes ends where they make no sense.

use std::io;

use crate::error::Error;

pub(super) const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;

pub(super) const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_ACK: u16 = 0x4;
pub(super) const NLM_F_REPLACE: u16 = 0x100;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;

const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// One request: its header, a fixed body and attributes.
///
/// `step` says in the words of an error message what the request does, `object` to what.
#[derive(Debug, Clone)]
pub(super) struct Message {
    step: &'static str,
    object: String,
    pub(super) bytes: Vec<u8>,
}

impl Message {
    pub(super) fn new(step: &'static str, object: impl Into<String>, kind: u16, flags: u16) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Message {
            step,
            object: object.into(),
            bytes,
        }
    }

    /// Appends the family's fixed header, or any raw bytes inside a nest.
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    pub(super) fn attr(mut self, kind: u16, payload: &[u8]) -> Self {
        // An attribute's length includes its header; a payload over 64 KiB cannot occur with our inputs.
        let length = u16::try_from(ATTRIBUTE + payload.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.pad();
        self
    }

    pub(super) fn u8(self, kind: u16, value: u8) -> Self {
        self.attr(kind, &[value])
    }

    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A number in network order, as nftables wants it.
    pub(super) fn be32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut payload = Vec::with_capacity(value.len() + 1);
        payload.extend_from_slice(value.as_bytes());
        payload.push(0);
        self.attr(kind, &payload)
    }

    /// An attribute whose payload is what `fill` appends.
    pub(super) fn nest(mut self, kind: u16, fill: impl FnOnce(Message) -> Message) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; ATTRIBUTE]);
        let mut filled = fill(self);
        let length = u16::try_from(filled.bytes.len() - start).unwrap_or(u16::MAX);
        filled.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled.bytes[start + 2..start + 4].copy_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        filled
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(super) fn add_flags(&mut self, flags: u16) {
        let old = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]);
        self.bytes[6..8].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    pub(super) fn seal(&mut self, sequence: u32) {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }

    pub(super) fn failed(&self, source: io::Error) -> Error {
        Error::Netlink {
            step: self.step,
            object: self.object.clone(),
            source,
        }
    }
}

/// One message from the kernel, without its netlink header.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// The fixed header of `length` bytes, or nothing if the message is shorter.
    pub(super) fn fixed(&self, length: usize) -> Option<&[u8]> {
        self.body.get(..length)
    }

    /// The attributes that follow a fixed header of `length` bytes.
    pub(super) fn attributes(&self, length: usize) -> Attributes<'_> {
        Attributes(self.body.get(length..).unwrap_or_default())
    }
}

/// The attributes of a message or a nest; a truncated one ends the walk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        { self }
            .find(|(found, _)| *found == kind)
            .map(|(_, payload)| payload)
    }

    pub(super) fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes(self.get(kind).unwrap_or_default())
    }

    pub(super) fn get_u32(self, kind: u16) -> Option<u32> {
        self.get(kind)
            .and_then(|payload| payload.first_chunk().copied())
            .map(u32::from_ne_bytes)
    }

    pub(super) fn get_text(self, kind: u16) -> Option<&'a str> {
        let payload = self.get(kind)?;
        let end = payload
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(payload.len());
        std::str::from_utf8(&payload[..end]).ok()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header: [u8; ATTRIBUTE] = *self.0.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let payload = self.0.get(ATTRIBUTE..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((
            u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK,
            payload,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found_again() {
        let message = Message::new("test", "x", 1, 0)
            .text(3, "eth0")
            .u8(4, 7)
            .nest(18, |nest| nest.text(1, "veth").u32(2, 99));
        let attributes = Attributes(&message.bytes[HEADER..]);
        assert_eq!(attributes.get_text(3), Some("eth0"));
        assert_eq!(attributes.get(4), Some(&[7_u8][..]));
        assert_eq!(attributes.nested(18).get_text(1), Some("veth"));
        assert_eq!(attributes.nested(18).get_u32(2), Some(99));
        assert_eq!(attributes.get(5), None);
        assert_eq!(message.bytes.len() % 4, 0);
    }

    #[test]
    fn a_truncated_attribute_ends_the_walk() {
        let whole = Message::new("test", "x", 1, 0).u32(1, 5).u32(2, 6);
        let cut = &whole.bytes[HEADER..whole.bytes.len() - 2];
        assert_eq!(Attributes(cut).count(), 1);
        // A length below the header's own size must not loop for ever.
        assert_eq!(Attributes(&[0, 0, 1, 0, 0, 0, 0, 0]).count(), 0);
    }
}
