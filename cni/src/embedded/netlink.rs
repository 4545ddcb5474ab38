//! A netlink socket: it sends a batch in one system call and knows which message of it the kernel refused.
//!
//! Everything is synchronous. A request takes 10 to 100 µs and runs on a thread that may block, so an event loop around
//! it would cost more than the work. A socket belongs to the network namespace it was opened in for good, whichever
//! thread uses it later.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::message::{HEADER, Message, NLM_F_ACK, Reply};
use crate::error::Error;

const NLM_F_MULTI: u16 = 0x2;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// No request here is legitimately slow; a kernel that does not answer in this time never will.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// A datagram of a dump is at most 32 KiB (`NLMSG_GOODSIZE` of the kernel's dump path).
const RECEIVE_BUFFER: usize = 64 * 1024;

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
