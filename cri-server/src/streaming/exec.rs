//! Exec: a command in a running container, as long as its client is there.
//!
//! ```text
//!   streams ──► start ──► Running ──exit──► drain output ──► status ──► goodbye
//!                 │ failed ─► status            │ client gone at any time
//!                 ▼                             ▼
//!              status                     hang up: SIGHUP, after 10 s SIGKILL
//! ```

use std::convert::Infallible;
use std::sync::Arc;

use runtime::protocol::{self, ExecStdio, Target};
use tokio::sync::watch;

use super::endpoint::Endpoint;
use super::pump::{self, Patience};
use super::remotecommand::{Shape, Streams};
use super::status::Ending;
use crate::app::App;
use crate::container::Container;
use crate::pod::Pod;
use crate::supervisor::{Exec, Supervisor, next_exec_id};
use crate::{Error, Result, spec};

/// A command that waits for its client.
pub struct Request {
    /// The container's pod.
    pub pod: Arc<Pod>,
    /// Where it is to run.
    pub container: Arc<Container>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Its streams.
    pub shape: Shape,
}

/// Runs the session to its end.
pub async fn run(app: &Arc<App>, request: Request, streams: Streams) {
    let Streams {
        stdin,
        stdout,
        stderr,
        resize,
        end,
    } = streams;
    let session = async {
        let running = Running::start(app, &request).await?;
        let (over, ended) = watch::channel(false);
        let patience = Patience {
            ended,
            drain: app.config.limits.exec_drain,
        };
        let Process {
            stdin: sink,
            stdout: out,
            stderr: err,
            terminal,
        } = running.process;
        let input = async {
            let resized = async {
                if let Some(terminal) = &terminal {
                    pump::resize(resize, terminal).await;
                }
            };
            let fed = async {
                pump::feed(stdin, sink.as_ref().or(terminal.as_ref())).await;
                // The end of the client's input is the end of the command's; a terminal's is typed.
                drop(sink);
            };
            tokio::join!(resized, fed);
            std::future::pending::<Infallible>().await
        };
        let mut guard = running.guard;
        let output = async {
            let exited = async {
                let status = running.exit.await;
                guard.disarm();
                over.send_replace(true);
                status
            };
            let out = pump::drain(out.as_ref().or(terminal.as_ref()), stdout, patience.clone());
            let err = pump::drain(err.as_ref(), stderr, patience.clone());
            tokio::join!(exited, out, err).0
        };
        let status = tokio::select! {
            status = output => status,
            never = input => match never {},
        };
        match status {
            Ok(status) if status.code == 0 => Ok(Ending::Success),
            Ok(status) => Ok(Ending::ExitCode(status.code)),
            Err(_) => Err(crate::supervisor::Error::Gone.into()),
        }
    };
    let outcome: Result<Ending> = tokio::select! {
        outcome = session => outcome,
        () = end.closed() => return,
    };
    let ending = outcome.unwrap_or_else(|error| Ending::Failure(format!("exec: {error}")));
    end.tell(&ending).await;
}

/// A command under way.
struct Running {
    process: Process,
    exit: tokio::sync::oneshot::Receiver<protocol::ExitStatus>,
    guard: HangUp,
}

/// Its stdio: pipes or a terminal.
#[derive(Default)]
struct Process {
    stdin: Option<Endpoint>,
    stdout: Option<Endpoint>,
    stderr: Option<Endpoint>,
    terminal: Option<Endpoint>,
}

impl Running {
    async fn start(app: &Arc<App>, request: &Request) -> Result<Self> {
        let record = &request.container.record;
        request.container.running()?;
        let supervisor = request.pod.ready()?;
        let (process, args) = spec::exec(record, &request.command, request.shape.tty)?;
        let plan = app.exec_plan(record, &process, args)?;
        let cgroup = app.cgroups.open(&record.cgroup)?.open_v2()?;
        let mut exec = protocol::Exec::new(record.wire_id()?, next_exec_id());
        exec.tty = request.shape.tty;
        (exec.stdin, exec.stdout, exec.stderr) =
            (request.shape.stdin, request.shape.stdout, request.shape.stderr);
        let Exec {
            stdio, exit, target, ..
        } = supervisor.exec(exec, plan, cgroup).await?;
        let guard = HangUp {
            supervisor,
            target: Some(target),
        };
        Ok(Self {
            process: Process::new(stdio).map_err(Error::io("watch", "stdio of an exec"))?,
            exit,
            guard,
        })
    }
}

impl Process {
    fn new(stdio: ExecStdio) -> std::io::Result<Self> {
        Ok(match stdio {
            ExecStdio::Terminal(master) => Self {
                terminal: Some(Endpoint::new(master)?),
                ..Self::default()
            },
            ExecStdio::Pipes {
                stdin,
                stdout,
                stderr,
            } => Self {
                stdin: stdin.map(Endpoint::new).transpose()?,
                stdout: stdout.map(Endpoint::new).transpose()?,
                stderr: stderr.map(Endpoint::new).transpose()?,
                terminal: None,
            },
        })
    }
}

/// A command whose client has gone is hung up.
struct HangUp {
    supervisor: Supervisor,
    target: Option<Target>,
}

impl HangUp {
    /// It has ended by itself.
    fn disarm(&mut self) {
        self.target = None;
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        if let Some(target) = self.target.take() {
            self.supervisor.abandon(target);
        }
    }
}
