//! Netlink, as little of it as the embedded network needs: messages with nested attributes, a socket that
//! sends a batch in one system call and knows which message of it the kernel refused.
//!
//! Everything is synchronous. A request takes 10 to 100 µs and runs on a thread that may block, so an event
//! loop around it would cost more than the work. A socket belongs to the network namespace it was opened in
//! for good, whichever thread uses it later.
//!
//! Wire format: netlink(7). Integers are in host order, except in nftables, which speaks network order.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::error::Error;

const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;

pub(super) const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_MULTI: u16 = 0x2;
pub(super) const NLM_F_ACK: u16 = 0x4;
pub(super) const NLM_F_REPLACE: u16 = 0x100;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// No request here is legitimately slow; a kernel that does not answer in this time never will.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// A datagram of a dump is at most 32 KiB (`NLMSG_GOODSIZE` of the kernel's dump path).
const RECEIVE_BUFFER: usize = 64 * 1024;

/// One request: its header, a fixed body and attributes.
///
/// `step` says in the words of an error message what the request does, `object` to what.
#[derive(Debug, Clone)]
pub(super) struct Message {
    step: &'static str,
    object: String,
    bytes: Vec<u8>,
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

    fn add_flags(&mut self, flags: u16) {
        let old = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]);
        self.bytes[6..8].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    fn seal(&mut self, sequence: u32) {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }

    fn failed(&self, source: io::Error) -> Error {
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
    body: Vec<u8>,
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

/// A netlink socket of the namespace its opener was in.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// A socket for links, addresses and routes.
    pub(super) fn route() -> Result<Self, Error> {
        Self::open(SockProtocol::NetlinkRoute, 0)
    }

    /// A socket that is told of changes of links: group `RTMGRP_LINK`.
    pub(super) fn link_events() -> Result<Self, Error> {
        Self::open(SockProtocol::NetlinkRoute, 1)
    }

    /// A socket for nftables.
    pub(super) fn netfilter() -> Result<Self, Error> {
        Self::open(SockProtocol::NetlinkNetFilter, 0)
    }

    fn open(protocol: SockProtocol, groups: u32) -> Result<Self, Error> {
        let failed = |errno: Errno| Error::Netlink {
            step: "open socket",
            object: format!("{protocol:?}"),
            source: errno.into(),
        };
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )
        .map_err(failed)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(failed)?;
        let socket = Socket {
            fd,
            sequence: 1,
            buffer: vec![0; RECEIVE_BUFFER],
        };
        socket.set_timeout(REPLY_TIMEOUT).map_err(failed)?;
        Ok(socket)
    }

    fn set_timeout(&self, timeout: Duration) -> Result<(), Errno> {
        let micros = i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX).max(1);
        setsockopt(&self.fd, sockopt::ReceiveTimeout, &TimeVal::microseconds(micros))
    }

    /// Sends one request and waits for the kernel's acknowledgement.
    pub(super) fn request(&mut self, message: Message) -> Result<(), Error> {
        self.batch(vec![message])
    }

    /// Sends all requests in one system call and waits for every acknowledgement.
    ///
    /// The kernel works through all of them even if one fails; the error names the first that did.
    pub(super) fn batch(&mut self, mut messages: Vec<Message>) -> Result<(), Error> {
        let first = self.sequence;
        let mut datagram = Vec::with_capacity(messages.len() * 128);
        for message in &mut messages {
            message.add_flags(NLM_F_ACK);
            message.seal(self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
            datagram.extend_from_slice(&message.bytes);
        }
        let Some(last) = messages.last() else {
            return Ok(());
        };
        send(self.fd.as_raw_fd(), &datagram, MsgFlags::empty())
            .map_err(|errno| messages[0].failed(errno.into()))?;

        let mut outcome: Vec<Option<i32>> = vec![None; messages.len()];
        while outcome.contains(&None) {
            self.receive(|sequence, reply| {
                let index = sequence.wrapping_sub(first) as usize;
                if let (NLMSG_ERROR, Some(slot)) = (reply.kind, outcome.get_mut(index)) {
                    *slot = Some(error_code(&reply));
                }
            })
            .map_err(|source| last.failed(source))?;
        }
        let failed = outcome
            .iter()
            .zip(&messages)
            .find(|(code, _)| !matches!(code, Some(0)));
        match failed {
            Some((code, message)) => Err(message.failed(io::Error::from_raw_os_error(code.unwrap_or(0)))),
            None => Ok(()),
        }
    }

    /// Sends an nftables transaction: between `begin` and `end` nothing is acknowledged but what fails, and
    /// the kernel applies all of it or nothing. `end` is acknowledged when the transaction is committed.
    pub(super) fn transaction(&mut self, mut messages: Vec<Message>) -> Result<(), Error> {
        let first = self.sequence;
        let mut datagram = Vec::with_capacity(messages.len() * 160);
        let end = messages.len().saturating_sub(1);
        for (index, message) in messages.iter_mut().enumerate() {
            // The end marker itself is never answered; the last real message is, once it is committed.
            if index + 1 == end {
                message.add_flags(NLM_F_ACK);
            }
            message.seal(self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
            datagram.extend_from_slice(&message.bytes);
        }
        let Some(opening) = messages.first() else {
            return Ok(());
        };
        send(self.fd.as_raw_fd(), &datagram, MsgFlags::empty())
            .map_err(|errno| opening.failed(errno.into()))?;

        let mut verdict: Option<(usize, i32)> = None;
        while verdict.is_none() {
            self.receive(|sequence, reply| {
                let index = sequence.wrapping_sub(first) as usize;
                if reply.kind == NLMSG_ERROR && index < messages.len() && verdict.is_none() {
                    verdict = Some((index, error_code(&reply)));
                }
            })
            .map_err(|source| opening.failed(source))?;
        }
        match verdict {
            Some((index, code)) if code != 0 => {
                Err(messages[index].failed(io::Error::from_raw_os_error(code)))
            }
            _ => Ok(()),
        }
    }

    /// Asks for one object, or with `NLM_F_DUMP` among the message's flags for all.
    pub(super) fn query(&mut self, mut message: Message) -> Result<Vec<Reply>, Error> {
        let wanted = self.sequence;
        message.seal(wanted);
        self.sequence = self.sequence.wrapping_add(1);
        send(self.fd.as_raw_fd(), &message.bytes, MsgFlags::empty())
            .map_err(|errno| message.failed(errno.into()))?;

        let mut replies = Vec::new();
        let mut finished = None;
        while finished.is_none() {
            self.receive(|sequence, reply| {
                if sequence != wanted {
                    return;
                }
                match reply.kind {
                    NLMSG_ERROR => finished = Some(error_code(&reply)),
                    NLMSG_DONE => finished = Some(0),
                    _ => {
                        let more = reply.multi;
                        replies.push(reply.into_reply());
                        if !more {
                            finished = Some(0);
                        }
                    }
                }
            })
            .map_err(|source| message.failed(source))?;
        }
        match finished {
            Some(code) if code != 0 => Err(message.failed(io::Error::from_raw_os_error(code))),
            _ => Ok(replies),
        }
    }

    /// Waits up to `timeout` for the next datagram of events; false if none came.
    ///
    /// What it held is not returned: whoever waits looks at the state again, which also covers events that
    /// the kernel had to drop.
    pub(super) fn await_event(&mut self, timeout: Duration) -> Result<bool, Error> {
        let failed = |source| Error::Netlink {
            step: "wait for link events",
            object: "host".into(),
            source,
        };
        self.set_timeout(timeout).map_err(|errno| failed(errno.into()))?;
        match self.receive(|_, _| ()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => Ok(true),
            Err(error) => Err(failed(error)),
        }
    }

    fn receive(&mut self, mut each: impl FnMut(u32, Incoming<'_>)) -> io::Result<()> {
        let length = loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };
        let mut rest = &self.buffer[..length];
        while let Some(header) = rest.first_chunk::<HEADER>() {
            let size = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let Some(body) = rest.get(HEADER..size) else { break };
            let flags = u16::from_ne_bytes([header[6], header[7]]);
            let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            each(
                sequence,
                Incoming {
                    kind,
                    multi: flags & NLM_F_MULTI != 0,
                    body,
                },
            );
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}

struct Incoming<'a> {
    kind: u16,
    multi: bool,
    body: &'a [u8],
}

impl Incoming<'_> {
    fn into_reply(self) -> Reply {
        Reply {
            body: self.body.to_vec(),
        }
    }
}

/// The errno of an `NLMSG_ERROR`, 0 for an acknowledgement.
fn error_code(reply: &Incoming<'_>) -> i32 {
    reply.body.first_chunk().map_or(Errno::EPROTO as i32, |code| {
        i32::from_ne_bytes(*code).wrapping_neg()
    })
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
