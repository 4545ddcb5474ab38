//! Clients: they come, ask, and go; none of them can hold up the supervisor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, listen, sockopt::socket_peercred};

use super::control::Supervisor;
use super::poll::Poll;
use super::requests::Asker;
use super::token::Token;
use crate::protocol::{Event, Frame, ProtocolError, RefusalCode, Reply, Request, Socket};

/// Frames taken from one client before the others have their turn.
const TURN: usize = 16;
/// Pause after there was no descriptor left for a client.
const BACKOFF: Duration = Duration::from_millis(100);

/// A client.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) stage: Stage,
}

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Connected, no `Hello` yet.
    Silent,
    /// Has said `Hello`.
    Greeted {
        /// Wants to hear events.
        events: bool,
    },
}

/// The socket that clients connect to.
#[derive(Debug)]
pub(super) struct Listener {
    socket: OwnedFd,
    /// Set while there are no descriptors for further clients.
    paused_until: Option<Instant>,
}

impl Listener {
    /// Listens anew on a socket that is listening: its peers now see this process's credentials, not the daemon's.
    pub(super) fn new(socket: OwnedFd, poll: &Poll) -> io::Result<Listener> {
        listen(&socket, crate::client::BACKLOG)?;
        poll.add(socket.as_fd(), Token::Listener.pack())?;
        Ok(Listener {
            socket,
            paused_until: None,
        })
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.paused_until
    }

    fn pause(&mut self, poll: &Poll) {
        poll.remove(self.socket.as_fd());
        self.paused_until = Some(Instant::now() + BACKOFF);
    }

    pub(super) fn resume(&mut self, poll: &Poll) {
        self.paused_until = match poll.add(self.socket.as_fd(), Token::Listener.pack()) {
            Ok(()) => None,
            Err(_) => Some(Instant::now() + BACKOFF),
        };
    }

    fn accept(&self) -> Result<Option<OwnedFd>, Errno> {
        match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(client) => Ok(Some(client)),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl Supervisor {
    /// One client at a time: the set tells again while there are more.
    pub(super) fn accept(&mut self) {
        match self.listener.accept() {
            Ok(Some(client)) => {
                // The socket file is root's, mode 0600; this holds even where somebody widened that.
                if socket_peercred(&client).is_ok_and(|peer| peer.uid.is_root()) {
                    self.welcome(client, Stage::Silent);
                }
            }
            Ok(None) => {}
            Err(_) => self.listener.pause(&self.poll),
        }
    }

    /// Takes up a connected socket.
    pub(super) fn welcome(&mut self, client: OwnedFd, stage: Stage) -> Option<u32> {
        let socket = Socket::from_fd(client).ok()?;
        let key = self.connections.reserve();
        self.poll
            .add(socket.as_fd(), Token::Connection(key).pack())
            .ok()?;
        self.connections.put(key, Connection { socket, stage });
        Some(key)
    }

    /// A client has sent something, or has gone.
    pub(super) fn hear(&mut self, key: u32) {
        for _ in 0..TURN {
            let Some(connection) = self.connections.get(key) else {
                return;
            };
            match connection.socket.try_recv_frame() {
                Ok(Some(frame)) => self.ask(key, frame),
                Ok(None) => return,
                Err(_) => return self.close(key),
            }
        }
    }

    fn ask(&mut self, key: u32, frame: Frame) {
        let asker = Asker {
            connection: key,
            request: frame.request_id,
        };
        match Request::from_frame(frame) {
            Ok(request) => self.answer(asker, request),
            Err(ProtocolError::UnknownKind(_)) => self.reply(asker, Reply::refused(RefusalCode::Unsupported)),
            Err(_) => {
                self.reply(asker, Reply::refused(RefusalCode::Malformed));
                self.close(key);
            }
        }
    }

    /// Replies, if the one who asked is still there.
    pub(super) fn reply(&mut self, asker: Asker, reply: Reply) {
        self.send(asker.connection, &reply.into_frame(asker.request));
    }

    /// Sends; a client that is gone or does not read is dropped.
    pub(super) fn send(&mut self, key: u32, frame: &Frame) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        if connection.socket.send_frame(frame).is_err() {
            self.close(key);
        }
    }

    /// Tells everyone who wants to hear events.
    pub(super) fn publish(&mut self, event: &Event) {
        let frame = event.clone().into_frame();
        for key in self
            .connections
            .keys(|client| client.stage == Stage::Greeted { events: true })
        {
            self.send(key, &frame);
        }
    }

    /// Drops a client. What belongs to it goes with it.
    pub(super) fn close(&mut self, key: u32) {
        if self.connections.take(key).is_some() {
            self.hang_up_execs_of(key);
            // Nobody will come back for a supervisor that keeps nothing.
            self.leaving |= self.namespaces.is_none() && self.connections.iter().next().is_none();
        }
    }
}
