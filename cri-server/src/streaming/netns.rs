//! Sockets in a pod's network namespace.
//!
//! A socket belongs to the namespace in which it was made, and may be used from anywhere. So only its making happens inside,
//! on a thread made for it: a pool's thread that entered a pod might fail to come back.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

/// What the thread needs: a system call or two.
const STACK: usize = 256 << 10;

/// A network namespace; `None` is the daemon's own, the node's.
#[derive(Clone, Debug)]
pub struct Netns(Option<Arc<OwnedFd>>);

impl Netns {
    /// That of a pod, or the node's for a pod without one of its own.
    pub fn new(fd: Option<OwnedFd>) -> Self {
        Self(fd.map(Arc::new))
    }

    /// Connects to a port of the namespace's loopback: IPv4, and where nobody listens there, IPv6.
    ///
    /// # Errors
    /// That of connect(2) for IPv4, when neither answers.
    pub async fn connect_loopback(&self, port: u16) -> io::Result<TcpStream> {
        let (v4, v6) = self.sockets().await?;
        let refused = match v4.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        // A kernel without IPv6 has no second try.
        let Some(v6) = v6 else { return Err(refused) };
        let second = v6.connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await;
        second.map_err(|_| refused)
    }

    async fn sockets(&self) -> io::Result<(TcpSocket, Option<TcpSocket>)> {
        let make = || Ok((TcpSocket::new_v4()?, TcpSocket::new_v6().ok()));
        let Some(netns) = self.0.clone() else {
            return make();
        };
        let (done, made) = oneshot::channel();
        std::thread::Builder::new()
            .name("port-forward".into())
            .stack_size(STACK)
            .spawn(move || {
                let sockets = setns(&*netns, CloneFlags::CLONE_NEWNET)
                    .map_err(io::Error::from)
                    .and_then(|()| make());
                // Nobody waits any more: the sockets are closed.
                let _ = done.send(sockets);
            })?;
        made.await
            .unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
    }
}
