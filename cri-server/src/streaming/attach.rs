//! Attach: a client at the stdio of a container that runs already, beside its log and other clients.
//!
//! The supervisor gives each client pipes of its own (see [`runtime::protocol::AttachStdio`]): a slow client is cut off
//! there, and neither the container nor its log ever waits for one. It gets what it has left unread, and is told that
//! there was more.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use runtime::protocol::{self, Target, WindowSize};
use tokio::sync::watch;

use super::channel::{Receiver, Sender};
use super::endpoint::Endpoint;
use super::pump::{self, Patience};
use super::remotecommand::{Shape, Streams};
use super::resize::Sizes;
use super::status::Ending;
use crate::app::App;
use crate::container::Container;
use crate::pod::Pod;
use crate::supervisor::Supervisor;
use crate::{Error, Result};

/// What a client is told whose output was cut off.
const CUT_OFF: &str = "output cut off: this client does not read as fast as the container writes, or too many are \
                       attached to it; the log has everything";

/// An attachment that waits for its client.
pub struct Request {
    /// The container's pod.
    pub pod: Arc<Pod>,
    /// The container.
    pub container: Arc<Container>,
    /// The streams that the client wants.
    pub shape: Shape,
}

/// Runs the session to its end: that of the container's output, or the client's leave.
pub async fn run(app: &App, request: Request, streams: Streams) {
    let Streams {
        stdin,
        stdout,
        stderr,
        resize,
        end,
    } = streams;
    let session = async {
        let mut attached = Attached::to(&request).await?;
        let sink = attached.stdin.take();
        // There is no process whose end would bound the wait: output ends when the container closes it.
        let (_running, ended) = watch::channel(false);
        let patience = Patience {
            ended,
            drain: app.config.limits.exec_drain,
        };
        let fed = async {
            pump::feed(stdin, sink.as_ref()).await;
            drop(sink);
        };
        let output = async {
            let out = attached.hear(attached.stdout.as_ref(), stdout, patience.clone());
            let err = attached.hear(attached.stderr.as_ref(), stderr, patience.clone());
            tokio::try_join!(out, err)
        };
        let resized = resized(resize, &attached.supervisor, &attached.target);
        if attached.stdout.is_none() && attached.stderr.is_none() {
            tokio::select! {
                () = fed => {}
                () = async { resized.await; std::future::pending().await } => {}
            }
            return Ok(Ending::Success);
        }
        // Input and sizes go on until the output is over.
        let input = async {
            tokio::join!(fed, resized);
            std::future::pending::<Infallible>().await
        };
        let heard = tokio::select! {
            heard = output => heard,
            never = input => match never {},
        };
        Ok(match heard {
            Ok(_) => Ending::Success,
            Err(CutOff) => Ending::Failure(CUT_OFF.to_owned()),
        })
    };
    let outcome: Result<Ending> = tokio::select! {
        outcome = session => outcome,
        () = end.closed() => return,
    };
    let ending = outcome.unwrap_or_else(|error| Ending::Failure(format!("attach: {error}")));
    end.tell(&ending).await;
}

/// Our ends of a container's stdio.
struct Attached {
    stdin: Option<Endpoint>,
    stdout: Option<Endpoint>,
    stderr: Option<Endpoint>,
    /// Rings when an output was cut off; a supervisor of an older build has none.
    bell: Option<OwnedFd>,
    supervisor: Supervisor,
    target: Target,
}

impl Attached {
    async fn to(request: &Request) -> Result<Self> {
        request.container.running()?;
        let supervisor = request.pod.ready()?;
        let container = request.container.record.wire_id()?;
        let stdio = supervisor
            .attach(protocol::Attach {
                container: container.clone(),
                stdin: request.shape.stdin,
                stdout: request.shape.stdout,
                stderr: request.shape.stderr,
                bell: true,
            })
            .await?;
        let endpoint = |fd: Option<_>| {
            fd.map(Endpoint::new)
                .transpose()
                .map_err(Error::io("watch", "stdio of a container"))
        };
        Ok(Self {
            stdin: endpoint(stdio.stdin)?,
            stdout: endpoint(stdio.stdout)?,
            stderr: endpoint(stdio.stderr)?,
            bell: stdio.bell,
            supervisor,
            target: Target::init(container),
        })
    }

    /// One output, to its end.
    async fn hear(
        &self,
        from: Option<&Endpoint>,
        to: Option<Sender>,
        patience: Patience,
    ) -> std::result::Result<(), CutOff> {
        pump::drain(from, to, patience).await;
        // An eventfd that has rung has its eight bytes.
        let rung = self
            .bell
            .as_ref()
            .is_some_and(|bell| rustix::io::read(bell, &mut [0; 8]) == Ok(8));
        match rung {
            true => Err(CutOff),
            false => Ok(()),
        }
    }
}

/// An output was not heard to its end.
struct CutOff;

/// The client's window to the container's terminal, which all clients share: the last to change it wins.
async fn resized(from: Option<Receiver>, supervisor: &Supervisor, target: &Target) {
    let Some(mut from) = from else { return };
    let mut sizes = Sizes::default();
    while let Some(bytes) = from.receive().await {
        if let Some(size) = sizes.newest(&bytes) {
            let size = WindowSize {
                rows: size.ws_row,
                columns: size.ws_col,
            };
            if let Err(error) = supervisor.resize(target.clone(), size).await {
                tracing::debug!(%error, "the size of an attached terminal");
            }
        }
    }
}
