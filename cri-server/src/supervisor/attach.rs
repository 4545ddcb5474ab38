//! Attaching to a container, and its terminal.

use runtime::protocol::{Attach, AttachStdio, ContainerId, Reply, Request, Target, WindowSize};

use super::{Error, Result, Supervisor};

impl Supervisor {
    /// Our ends of a container's stdio, as far as they were asked for and exist; see [`AttachStdio`] for what each of
    /// them is and when it ends. They are this caller's own: dropping them is how it leaves.
    ///
    /// # Errors
    /// [`Error::Refused`] when the container does not run, else those of the connection.
    pub async fn attach(&self, attach: Attach) -> Result<AttachStdio> {
        match self.ask(Request::Attach(attach)).await? {
            Reply::Attached(stdio) => Ok(stdio),
            _ => Err(Error::Unexpected("Attach")),
        }
    }

    /// Sets the size of a container's or an exec's terminal.
    ///
    /// # Errors
    /// [`Error::Refused`] when it has none or does not run, else those of the connection.
    pub async fn resize(&self, target: Target, size: WindowSize) -> Result<()> {
        self.done(Request::Resize { target, size }, "Resize").await
    }

    /// Ends a container's input for good.
    ///
    /// # Errors
    /// [`Error::Refused`] when the container does not run, else those of the connection.
    pub async fn close_stdin(&self, container: ContainerId) -> Result<()> {
        self.done(Request::CloseStdin { container }, "CloseStdin").await
    }
}
