//! Streaming: exec, attach and port-forward, by way of an HTTP server of the daemon's own.
//!
//! ```text
//!   kubelet ── Exec (gRPC) ──► ops::exec ── checks ──► Tokens ── URL with a token ──► kubelet
//!   kubelet ── HTTP upgrade ──► server: gate, token ──► Spdy | WebSocket ──► channels
//!                                                          │ Receiver, Sender
//!        exec · attach ◄── remotecommand: stdin, stdout, stderr, error, resize
//!        port_forward  ◄── one pair of streams per connection
//! ```
//!
//! Bytes go straight between the peer's socket and the process's pipe or terminal; the pod's supervisor is not on
//! the way.
//!
//! Invariants
//! - A token is worth one session, of one operation on one object, for a minute.
//! - A session owns its tasks, and its process: when the connection ends, so do they.
//! - Everything that waits is bounded: tokens, sessions, streams, frames, headers, bytes.
//! - Nothing is cut: a session's status is sent behind all of its output, and the peer has time to read both.
//!
//! Read next: [`server`], [`remotecommand`], [`channel`].

pub mod attach;
pub mod channel;
pub mod endpoint;
pub mod exec;
pub mod gate;
pub mod link;
pub mod netns;
pub mod port_forward;
pub mod protocol;
pub mod pump;
pub mod remotecommand;
pub mod resize;
pub mod server;
pub mod spdy;
pub mod status;
pub mod tls;
pub mod tokens;
pub mod websocket;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::config;
use crate::{Error, Result};
use tls::Tls;
use tokens::Tokens;

/// What a token stands for.
pub enum Request {
    /// A command in a container.
    Exec(exec::Request),
    /// The stdio of a container.
    Attach(attach::Request),
    /// Ports of a pod.
    PortForward(port_forward::Request),
}

impl Request {
    /// The first part of its URL's path.
    pub fn operation(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

/// The daemon's streaming server.
pub struct Streaming {
    /// Requests that wait for their clients.
    pub tokens: Tokens<Request>,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    settings: config::Streaming,
    sessions: Arc<Semaphore>,
    node: String,
}

impl Streaming {
    /// Binds the server's address; [`server::serve`] accepts on the listener.
    ///
    /// # Errors
    /// [`Error::Io`] when the address cannot be used, [`Error::Invalid`] for a certificate or key that is none.
    pub async fn bind(settings: &config::Streaming) -> Result<(Self, TcpListener)> {
        let wanted = SocketAddr::new(settings.address, settings.port);
        let fail = || Error::io("listen on", wanted.to_string());
        let listener = TcpListener::bind(wanted).await.map_err(fail())?;
        let address = listener.local_addr().map_err(fail())?;
        let tls = settings.tls.as_ref().map(Tls::load).transpose()?.map(Arc::new);
        let streaming = Self {
            tokens: Tokens::default(),
            address,
            tls,
            sessions: Arc::new(Semaphore::new(settings.max_sessions)),
            node: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            settings: settings.clone(),
        };
        Ok((streaming, listener))
    }

    /// Keeps the request for a minute, and gives the URL under which it is taken up.
    ///
    /// # Errors
    /// [`Error::Busy`] when too many wait.
    pub fn announce(&self, request: Request) -> Result<String> {
        let operation = request.operation();
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let token = self.tokens.issue(request)?;
        Ok(format!("{scheme}://{}/{operation}/{token}", self.reachable()))
    }

    /// Sessions under way.
    pub fn sessions(&self) -> usize {
        self.settings.max_sessions - self.sessions.available_permits()
    }

    /// Kubelet is on the node: it reaches a server that listens everywhere by the loopback address.
    fn reachable(&self) -> SocketAddr {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, self.address.port())
    }
}
