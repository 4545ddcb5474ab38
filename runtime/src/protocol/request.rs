//! What a daemon may ask.

use std::os::fd::OwnedFd;

use minicbor::{Decode, Encode};

use super::frame::{Frame, Kind, ProtocolError};
use super::id::{ContainerId, ExecId};
use super::start::{Given, StartContainer, is_false};
use super::value::{Features, Target};

/// A request with the descriptors that travel with it.
#[derive(Debug)]
pub enum Request {
    /// First on each connection; answered `Welcome`.
    Hello(Hello),
    /// Make the pod's namespaces; answered `PodCreated` or `Failed`. Asked again, it answers what exists.
    CreatePod {
        /// Sealed memfd with a `launch::PodPlan`.
        plan: OwnedFd,
        /// The network namespace, where the plan has one of the pod's own and no user namespace; else the supervisor makes
        /// it as the plan says.
        network: Option<OwnedFd>,
    },
    /// Launch a container; answered `Started` or `Failed`. Asked again for the same id, it joins the launch under
    /// way or answers what came of it, and launches nothing.
    StartContainer {
        /// The container.
        start: StartContainer,
        /// What it is made of.
        given: Given,
    },
    /// Run a further process in a running container; answered `ExecStarted` or `Failed`.
    Exec {
        /// The exec.
        exec: Exec,
        /// Sealed memfd with a `launch::ExecPlan`.
        plan: OwnedFd,
        /// As in `StartContainer`.
        cgroup: Option<OwnedFd>,
    },
    /// Send a signal; answered `Done`.
    Signal(Signal),
    /// Go on in another log file from a line boundary on; answered `Done` when the writer has the file.
    ReopenLog {
        /// The container.
        container: ContainerId,
        /// The new file, opened for appending.
        log: OwnedFd,
    },
    /// What exists; answered `Listing`.
    List,
    /// Drop an exited container from the table and unlink its exit record; answered `Done`, also when the id is
    /// unknown.
    Forget {
        /// The container.
        container: ContainerId,
    },
    /// Set the size of a terminal; answered `Done`.
    Resize {
        /// The process with the terminal.
        target: Target,
        /// Its new size.
        size: WindowSize,
    },
    /// Close a container's stdin; answered `Done`.
    CloseStdin {
        /// The container.
        container: ContainerId,
    },
    /// Listen to and feed a container's stdio beside its log; answered `Attached`.
    Attach(Attach),
    /// The client of an exec has gone: SIGHUP now, SIGKILL in ten seconds; answered `Done`. Nothing is heard of its end.
    HangUp(Target),
    /// The pod's namespaces, once more; answered `PodCreated`.
    Namespaces,
    /// Make what the next container that is launched alone will want, if it wants just that; answered `Done` or `Failed`.
    Stock {
        /// Sealed memfd with a `launch::StockPlan`.
        plan: OwnedFd,
    },
    /// Go on as a newer binary; answered `Done` by that binary.
    Reexec {
        /// The executable.
        binary: OwnedFd,
    },
    /// Leave; answered `Done`, or `Busy` while a container runs.
    Shutdown,
}

/// Opens a connection.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    /// What the client can do.
    #[n(0)]
    pub features: Features,
    /// Whether this connection wants to hear of containers' exits and log faults.
    #[n(1)]
    pub events: bool,
}

/// What an exec needs besides its plan.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Exec {
    /// The exec and its container.
    #[n(0)]
    pub container: ContainerId,
    /// The exec's own id.
    #[n(1)]
    pub exec: ExecId,
    /// The plan has a terminal; the reply brings the pty's master in place of pipes.
    #[n(2)]
    pub tty: bool,
    /// Make a pipe for stdin.
    #[n(3)]
    pub stdin: bool,
    /// Make a pipe for stdout.
    #[n(4)]
    pub stdout: bool,
    /// Make a pipe for stderr.
    #[n(5)]
    pub stderr: bool,
    /// A cgroup descriptor follows the plan.
    #[n(6)]
    has_cgroup: bool,
}

/// Which of a container's streams a client wants.
///
/// What the container writes from now on comes through pipes made for this client alone, a terminal's as stdout. A
/// client that leaves more than [`ATTACH_BUFFER`](super::ATTACH_BUFFER) bytes unread is cut off: its pipe ends, its bell
/// rings, and the container never waits. Stdin is the container's own.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Attach {
    /// The container.
    #[n(0)]
    pub container: ContainerId,
    /// The end to write to.
    #[n(70)]
    #[cbor(default)]
    pub stdin: bool,
    /// A copy of what goes to stdout.
    #[n(71)]
    #[cbor(default)]
    pub stdout: bool,
    /// A copy of what goes to stderr.
    #[n(72)]
    #[cbor(default)]
    pub stderr: bool,
    /// A bell that tells an output cut off from one that has ended.
    #[n(120)]
    #[cbor(default)]
    pub bell: bool,
}

/// A signal and whom it reaches.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Signal {
    /// The process.
    #[n(0)]
    pub target: Target,
    /// Signal number, signal(7).
    #[n(1)]
    pub signal: i32,
    /// How far it reaches.
    #[n(2)]
    pub scope: SignalScope,
}

/// How far a signal reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum SignalScope {
    /// The process alone.
    #[n(0)]
    Process,
    /// Its process group.
    #[n(1)]
    Group,
    /// Every process in the container's cgroup.
    #[n(2)]
    All,
}

/// Size of a terminal in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct WindowSize {
    /// Rows.
    #[n(0)]
    pub rows: u16,
    /// Columns.
    #[n(1)]
    pub columns: u16,
}

/// What comes with a pod's plan.
#[derive(Encode, Decode)]
#[cbor(map)]
struct CreatePod {
    /// A network namespace follows.
    #[n(170)]
    #[cbor(default, skip_if = "is_false")]
    has_network: bool,
}

/// A body that names a container and nothing else.
#[derive(Encode, Decode)]
#[cbor(map)]
struct Named {
    #[n(0)]
    container: ContainerId,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Resize {
    #[n(0)]
    target: Target,
    #[n(1)]
    size: WindowSize,
}

/// A body without keys.
#[derive(Encode, Decode)]
#[cbor(map)]
pub(super) struct Empty {}

const HELLO: Kind = Kind(1);
const CREATE_POD: Kind = Kind(2);
const START_CONTAINER: Kind = Kind(3);
const EXEC: Kind = Kind(4);
const SIGNAL: Kind = Kind(5);
const REOPEN_LOG: Kind = Kind(6);
const LIST: Kind = Kind(7);
const FORGET: Kind = Kind(8);
const RESIZE: Kind = Kind(9);
const CLOSE_STDIN: Kind = Kind(10);
const ATTACH: Kind = Kind(11);
const REEXEC: Kind = Kind(12);
const SHUTDOWN: Kind = Kind(13);
const HANG_UP: Kind = Kind(60);
const NAMESPACES: Kind = Kind(61);
const STOCK: Kind = Kind(62);

impl Exec {
    /// An exec without terminal or stdio.
    pub fn new(container: ContainerId, exec: ExecId) -> Exec {
        Exec {
            container,
            exec,
            tty: false,
            stdin: false,
            stdout: false,
            stderr: false,
            has_cgroup: false,
        }
    }
}

impl Request {
    /// The frame that carries this request.
    pub fn into_frame(self, id: u32) -> Frame {
        match self {
            Request::Hello(hello) => Frame::new(HELLO, id, &hello, vec![]),
            Request::CreatePod { plan, network } => {
                let body = CreatePod {
                    has_network: network.is_some(),
                };
                let fds = [Some(plan), network].into_iter().flatten().collect();
                Frame::new(CREATE_POD, id, &body, fds)
            }
            Request::StartContainer { start, given } => {
                let (start, fds) = start.carrying(given);
                Frame::new(START_CONTAINER, id, &start, fds)
            }
            Request::Exec {
                mut exec,
                plan,
                cgroup,
            } => {
                exec.has_cgroup = cgroup.is_some();
                let fds = [Some(plan), cgroup].into_iter().flatten().collect();
                Frame::new(EXEC, id, &exec, fds)
            }
            Request::Signal(signal) => Frame::new(SIGNAL, id, &signal, vec![]),
            Request::ReopenLog { container, log } => {
                Frame::new(REOPEN_LOG, id, &Named { container }, vec![log])
            }
            Request::List => Frame::new(LIST, id, &Empty {}, vec![]),
            Request::Forget { container } => Frame::new(FORGET, id, &Named { container }, vec![]),
            Request::Resize { target, size } => Frame::new(RESIZE, id, &Resize { target, size }, vec![]),
            Request::CloseStdin { container } => Frame::new(CLOSE_STDIN, id, &Named { container }, vec![]),
            Request::Attach(attach) => Frame::new(ATTACH, id, &attach, vec![]),
            Request::Reexec { binary } => Frame::new(REEXEC, id, &Empty {}, vec![binary]),
            Request::Shutdown => Frame::new(SHUTDOWN, id, &Empty {}, vec![]),
            Request::HangUp(target) => Frame::new(HANG_UP, id, &target, vec![]),
            Request::Namespaces => Frame::new(NAMESPACES, id, &Empty {}, vec![]),
            Request::Stock { plan } => Frame::new(STOCK, id, &Empty {}, vec![plan]),
        }
    }

    /// Reads a request.
    ///
    /// # Errors
    /// [`ProtocolError::UnknownKind`] for a kind of a later version (to be answered `Unsupported`);
    /// [`ProtocolError::Body`] and [`ProtocolError::Descriptors`] for a message that breaks the rules.
    pub fn from_frame(mut frame: Frame) -> Result<Request, ProtocolError> {
        let request = match frame.kind {
            HELLO => Request::Hello(frame.body()?),
            CREATE_POD => {
                let CreatePod { has_network } = frame.body()?;
                let mut fds = frame.take_fds(1 + usize::from(has_network))?;
                let plan = fds.required()?;
                let network = fds.announced(has_network);
                Request::CreatePod { plan, network }
            }
            START_CONTAINER => {
                let start: StartContainer = frame.body()?;
                let given = start.carried(&mut frame)?;
                Request::StartContainer { start, given }
            }
            EXEC => {
                let exec: Exec = frame.body()?;
                let mut fds = frame.take_fds(1 + usize::from(exec.has_cgroup))?;
                let plan = fds.required()?;
                let cgroup = fds.announced(exec.has_cgroup);
                Request::Exec { exec, plan, cgroup }
            }
            SIGNAL => Request::Signal(frame.body()?),
            REOPEN_LOG => {
                let Named { container } = frame.body()?;
                Request::ReopenLog {
                    container,
                    log: frame.take_fd()?,
                }
            }
            LIST => Request::List,
            HANG_UP => Request::HangUp(frame.body()?),
            NAMESPACES => Request::Namespaces,
            STOCK => Request::Stock {
                plan: frame.take_fd()?,
            },
            FORGET => Request::Forget {
                container: frame.body::<Named>()?.container,
            },
            RESIZE => {
                let Resize { target, size } = frame.body()?;
                Request::Resize { target, size }
            }
            CLOSE_STDIN => Request::CloseStdin {
                container: frame.body::<Named>()?.container,
            },
            ATTACH => Request::Attach(frame.body()?),
            REEXEC => Request::Reexec {
                binary: frame.take_fd()?,
            },
            SHUTDOWN => Request::Shutdown,
            kind => return Err(ProtocolError::UnknownKind(kind)),
        };
        Ok(request)
    }
}
