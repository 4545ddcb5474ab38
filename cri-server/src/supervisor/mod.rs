//! The daemon's end of a pod's supervisor.
//!
//! ```text
//!   operation ── call ──► Supervisor ── frame ──► crisp-pod
//!       ▲                     │  one reader task per connection
//!       └──── reply ◄── waiting[id] ◄── frame ──┤
//!                 execs[id] ◄── Exited(exec) ◄──┤
//!                    events ◄── Exited(container), LogFault, and finally the end of the connection
//! ```
//!
//! Replies find their callers by request id; the end of an exec finds whoever ran it; what concerns
//! containers goes to the pod's watcher as [`Notice`]s. When the connection ends, all that wait are
//! told, and the last notice says so.

mod attach;
mod connection;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use runtime::client::{ClientError, Spawned};
use runtime::protocol::{
    self, ContainerId, ExecId, ExecStdio, ExitStatus, Exited, Failure, Features, Hello, Listing, PodCreated,
    ProtocolError, Refusal, Reply, Request, Signal, SignalScope, Started, Target,
};
use tokio::sync::{mpsc, oneshot};

use connection::Connection;

/// How long a supervisor may take to answer what needs no launch: it never blocks, so this is generous.
const ANSWER: Duration = Duration::from_secs(10);

/// Dealing with a supervisor failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started or connected to.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The connection has ended; whether the supervisor has, the next one tells.
    #[error("the connection to the pod's supervisor has ended")]
    Gone,
    /// It did not answer in time.
    #[error("the pod's supervisor does not answer")]
    Silent,
    /// It refused the request.
    #[error("{0}")]
    Refused(Refusal),
    /// A step of a launch failed.
    #[error("{0}")]
    Failed(Failure),
    /// It answered something else than was asked.
    #[error("unexpected answer to {0}")]
    Unexpected(&'static str),
    /// Its answer does not follow the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// A socket or descriptor of ours failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// The outcome of dealing with a supervisor.
pub type SupervisorResult<T> = std::result::Result<T, Error>;

type Result<T> = SupervisorResult<T>;

/// What a pod's watcher is told.
#[derive(Debug)]
pub enum Notice {
    /// A container's first process ended; its exit record is written.
    Exited(Exited),
    /// A container's log could not be written.
    LogFault(protocol::LogFault),
    /// The connection ended.
    Gone,
}

/// The notices of one supervisor, in order.
pub type Notices = mpsc::UnboundedReceiver<Notice>;

/// A connected supervisor. Cheap to clone.
#[derive(Clone)]
pub struct Supervisor {
    shared: Arc<Shared>,
}

struct Shared {
    connection: Connection,
    /// Process id of the supervisor.
    pid: i32,
    /// What it can do; known when it has said Welcome.
    features: OnceLock<Features>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u32,
    closed: bool,
    replies: HashMap<u32, oneshot::Sender<Result<Reply>>>,
    execs: HashMap<Target, oneshot::Sender<ExitStatus>>,
}

/// An exec under way.
pub struct Exec {
    /// Its process, which leads a session of its own.
    pub pid: i32,
    /// Our ends of its standard streams.
    pub stdio: ExecStdio,
    /// Resolves when it has ended; fails when the supervisor is gone.
    pub exit: oneshot::Receiver<ExitStatus>,
    /// For signals.
    pub target: Target,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Supervisor({})", self.shared.pid)
    }
}

impl Supervisor {
    /// Greets a supervisor that was started, and reaps it in the end.
    ///
    /// # Errors
    /// Those of the greeting.
    pub async fn adopt(spawned: Spawned) -> Result<(Self, Notices)> {
        reap(spawned.pidfd)?;
        let (supervisor, notices) = Self::follow(spawned.connection, spawned.pid)?;
        supervisor.greet().await?;
        Ok((supervisor, notices))
    }

    /// Finds a supervisor that an earlier daemon started, and still has to [greet](Self::greet). That somebody is there is
    /// known at once, since the kernel answers for one that has no time.
    ///
    /// # Errors
    /// [`Error::Client`] when nobody listens there.
    pub fn connect(socket: &Path) -> Result<(Self, Notices)> {
        let connected = runtime::client::connect(socket, None)?;
        Self::follow(connected.connection, connected.pid)
    }

    fn follow(socket: protocol::Socket, pid: i32) -> Result<(Self, Notices)> {
        let (notices, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            connection: Connection::new(socket)?,
            pid,
            features: OnceLock::new(),
            waiting: Mutex::default(),
        });
        crate::task::spawn(read(shared.clone(), notices));
        Ok((Self { shared }, receiver))
    }

    /// Introduces this daemon; may be repeated.
    ///
    /// # Errors
    /// [`Error::Silent`] while it has no time for an answer, else those of the connection.
    pub async fn greet(&self) -> Result<()> {
        let hello = Hello {
            features: Features::OURS,
            events: true,
        };
        match self.ask(Request::Hello(hello)).await? {
            Reply::Welcome(welcome) => {
                tracing::debug!(pid = self.pid(), build = welcome.build, "supervisor connected");
                let _ = self.shared.features.set(welcome.features);
                Ok(())
            }
            _ => Err(Error::Unexpected("Hello")),
        }
    }

    /// Whether it was there when last heard of.
    pub fn is_connected(&self) -> bool {
        !self.waiting().closed
    }

    /// Whether it launches containers alone, with what was made ahead.
    pub fn launches_alone(&self) -> bool {
        let features = self.shared.features.get();
        features.is_some_and(|features| features.contains(Features::ALONE))
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.shared.pid
    }

    /// Lets it make what its first container may want; before the pod is created.
    ///
    /// # Errors
    /// [`Error::Failed`] with the step, else those of the connection.
    pub async fn stock(&self, plan: OwnedFd) -> Result<()> {
        self.done(Request::Stock { plan }, "Stock").await
    }

    /// Makes the pod's namespaces, all but a network namespace that is given.
    ///
    /// # Errors
    /// [`Error::Failed`] with the step, else those of the connection.
    pub async fn create_pod(&self, plan: OwnedFd, network: Option<OwnedFd>) -> Result<PodCreated> {
        match self.ask(Request::CreatePod { plan, network }).await? {
            Reply::PodCreated(created) => Ok(created),
            _ => Err(Error::Unexpected("CreatePod")),
        }
    }

    /// Those namespaces again.
    ///
    /// # Errors
    /// [`Error::Refused`] when there are none yet, else those of the connection.
    pub async fn namespaces(&self) -> Result<PodCreated> {
        match self.ask(Request::Namespaces).await? {
            Reply::PodCreated(created) => Ok(created),
            _ => Err(Error::Unexpected("Namespaces")),
        }
    }

    /// Launches a container; resolves when its program was executed. There is no time limit: a volume
    /// may hang for as long as it likes, and the launch can be ended by a signal.
    ///
    /// # Errors
    /// [`Error::Failed`] with the step, else those of the connection.
    pub async fn start(&self, start: protocol::StartContainer, given: protocol::Given) -> Result<Started> {
        match self.call(Request::StartContainer { start, given }).await? {
            Reply::Started(started) => Ok(started),
            _ => Err(Error::Unexpected("StartContainer")),
        }
    }

    /// Runs a process in a running container.
    ///
    /// # Errors
    /// [`Error::Failed`] with the step, else those of the connection.
    pub async fn exec(&self, exec: protocol::Exec, plan: OwnedFd, cgroup: Option<OwnedFd>) -> Result<Exec> {
        let target = Target::exec(exec.container.clone(), exec.exec.clone());
        let (ended, exit) = oneshot::channel();
        self.waiting().execs.insert(target.clone(), ended);
        let mut asked = Asked {
            supervisor: self,
            target: Some(target.clone()),
        };
        let answer = self.call(Request::Exec { exec, plan, cgroup }).await;
        asked.target = None;
        match answer {
            Ok(Reply::ExecStarted { stdio, process }) => Ok(Exec {
                pid: process.pid,
                stdio,
                exit,
                target,
            }),
            failed => {
                self.waiting().execs.remove(&target);
                Err(failed.err().unwrap_or(Error::Unexpected("Exec")))
            }
        }
    }

    /// Leaves an exec to end by itself within ten seconds: SIGHUP, then SIGKILL, to all of its processes. Asked for
    /// in the background; a supervisor that is gone has no execs.
    pub fn abandon(&self, target: Target) {
        self.waiting().execs.remove(&target);
        let supervisor = self.clone();
        crate::task::spawn(async move {
            match supervisor.done(Request::HangUp(target), "HangUp").await {
                // It has ended meanwhile.
                Ok(()) | Err(Error::Refused(_) | Error::Gone) => {}
                Err(error) => tracing::warn!(%error, "an exec could not be hung up"),
            }
        });
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`Error::Refused`] when the process is unknown, else those of the connection.
    pub async fn signal(&self, target: Target, signal: i32, scope: SignalScope) -> Result<()> {
        self.done(
            Request::Signal(Signal {
                target,
                signal,
                scope,
            }),
            "Signal",
        )
        .await
    }

    /// Makes a container's log go on in another file.
    ///
    /// # Errors
    /// [`Error::Refused`] when the container does not run, else those of the connection.
    pub async fn reopen_log(&self, container: ContainerId, log: OwnedFd) -> Result<()> {
        self.done(Request::ReopenLog { container, log }, "ReopenLog")
            .await
    }

    /// All that it keeps.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn list(&self) -> Result<Listing> {
        match self.ask(Request::List).await? {
            Reply::Listing(memfd) => Ok(Listing::read(memfd)?),
            _ => Err(Error::Unexpected("List")),
        }
    }

    /// Makes it forget an exited container and its exit record.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn forget(&self, container: ContainerId) -> Result<()> {
        self.done(Request::Forget { container }, "Forget").await
    }

    /// Makes it leave; resolves when it has answered.
    ///
    /// # Errors
    /// [`Error::Refused`] while a container runs, else those of the connection.
    pub async fn shutdown(&self) -> Result<()> {
        self.done(Request::Shutdown, "Shutdown").await
    }

    async fn done(&self, request: Request, name: &'static str) -> Result<()> {
        match self.ask(request).await? {
            Reply::Done => Ok(()),
            _ => Err(Error::Unexpected(name)),
        }
    }

    /// A call that is answered at once by a supervisor that works.
    async fn ask(&self, request: Request) -> Result<Reply> {
        tokio::time::timeout(ANSWER, self.call(request))
            .await
            .unwrap_or(Err(Error::Silent))
    }

    async fn call(&self, request: Request) -> Result<Reply> {
        let (answered, answer) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting();
            if waiting.closed {
                return Err(Error::Gone);
            }
            // Zero is the events' own.
            waiting.next = waiting.next.checked_add(1).unwrap_or(1);
            let id = waiting.next;
            waiting.replies.insert(id, answered);
            id
        };
        // Whoever stops waiting takes its place along, so that the table cannot grow.
        let _leave = Leave { supervisor: self, id };
        self.shared
            .connection
            .send(&request.into_frame(id))
            .await
            .map_err(|_| Error::Gone)?;
        match answer.await.unwrap_or(Err(Error::Gone))? {
            Reply::Failed(failure) => Err(Error::Failed(failure)),
            Reply::Refused(refusal) => Err(Error::Refused(refusal)),
            reply => Ok(reply),
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.shared.waiting()
    }
}

/// An exec that was asked for, by somebody who may leave before the answer: then it is nobody's.
struct Asked<'a> {
    supervisor: &'a Supervisor,
    target: Option<Target>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(target) = self.target.take() {
            self.supervisor.abandon(target);
        }
    }
}

struct Leave<'a> {
    supervisor: &'a Supervisor,
    id: u32,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.supervisor.waiting().replies.remove(&self.id);
    }
}

impl Shared {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads until the connection ends, then tells everybody.
async fn read(shared: Arc<Shared>, notices: mpsc::UnboundedSender<Notice>) {
    loop {
        match shared.connection.receive().await {
            Ok(frame) => dispatch(&shared, &notices, frame),
            Err(error) => {
                tracing::debug!(pid = shared.pid, %error, "connection to supervisor ended");
                break;
            }
        }
    }
    let mut waiting = shared.waiting();
    waiting.closed = true;
    // Dropping the senders wakes those who wait.
    waiting.replies.clear();
    waiting.execs.clear();
    drop(waiting);
    let _ = notices.send(Notice::Gone);
}

fn dispatch(shared: &Shared, notices: &mpsc::UnboundedSender<Notice>, frame: protocol::Frame) {
    if frame.kind.is_event() {
        match protocol::Event::from_frame(&frame) {
            Ok(protocol::Event::Exited(exited)) if exited.target.exec.is_some() => {
                let waiter = shared.waiting().execs.remove(&exited.target);
                // Nobody waits for an exec whose caller has gone.
                waiter.map(|waiter| waiter.send(exited.status));
            }
            // A watcher that is gone belongs to a pod that is.
            Ok(protocol::Event::Exited(exited)) => drop(notices.send(Notice::Exited(exited))),
            Ok(protocol::Event::LogFault(fault)) => drop(notices.send(Notice::LogFault(fault))),
            Err(error) => tracing::debug!(%error, "event of a later version"),
        }
        return;
    }
    let id = frame.request_id;
    let waiter = shared.waiting().replies.remove(&id);
    if let Some(waiter) = waiter {
        let _ = waiter.send(Reply::from_frame(frame).map_err(Error::from));
    }
}

/// Waits for a supervisor that is our child, so that it leaves no zombie.
#[allow(deprecated)] // its successor wants a promise that the descriptor stays open: we own it
fn reap(pidfd: OwnedFd) -> Result<()> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let pidfd = tokio::io::unix::AsyncFd::with_interest(pidfd, tokio::io::Interest::READABLE)?;
    crate::task::spawn(async move {
        use std::os::fd::AsFd;
        if pidfd.readable().await.is_ok() {
            let _ = waitid(WaitId::PidFd(pidfd.get_ref().as_fd()), WaitIdOptions::EXITED);
        }
    });
    Ok(())
}

/// A name for an exec, unique in this life of the daemon.
pub fn next_exec_id() -> ExecId {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let text = format!("e{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    // Letters, digits and a dash: always an id.
    ExecId::new(&text).unwrap_or_else(|_| unreachable!("{text:?} is an id"))
}
