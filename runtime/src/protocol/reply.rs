//! What a supervisor answers.

use std::os::fd::OwnedFd;

use minicbor::{Decode, Encode};

use super::frame::{Frame, Kind, ProtocolError};
use super::id::PodId;
use super::refusal::{Failure, Refusal, RefusalCode};
use super::request::Empty;
use super::stdio::{AttachStdio, ExecStdio};
use super::value::{ExitStatus, Features, Process};

/// A reply with the descriptors that travel with it.
#[derive(Debug)]
pub enum Reply {
    /// The request was carried out; nothing more to say.
    Done,
    /// Answer to `Hello`.
    Welcome(Welcome),
    /// Answer to `CreatePod`.
    PodCreated(PodCreated),
    /// Answer to `StartContainer`: its `execve` succeeded.
    Started(Started),
    /// Answer to `Exec`: its `execve` succeeded.
    ExecStarted {
        /// The exec's process.
        process: Process,
        /// The requester's ends of its stdio.
        stdio: ExecStdio,
    },
    /// Answer to `Attach`: the ends that are the client's.
    Attached(AttachStdio),
    /// Answer to `List`: a memfd with a [`Listing`](super::Listing).
    Listing(OwnedFd),
    /// A set-up step of a pod, container or exec failed; nothing of it is left running.
    Failed(Failure),
    /// The request was not carried out.
    Refused(Refusal),
}

/// The supervisor introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Welcome {
    /// What the supervisor can do.
    #[n(0)]
    pub features: Features,
    /// The pod it keeps.
    #[n(1)]
    pub pod: PodId,
    /// Version of its build, for people.
    #[n(2)]
    pub build: String,
    /// Its pid and start; `started_at` is the start of this image (it changes with a re-exec).
    #[n(3)]
    pub process: Process,
}

/// The pod's namespaces; none where the pod uses the host's.
#[derive(Debug, Default)]
pub struct PodCreated {
    /// Network namespace.
    pub network: Option<OwnedFd>,
    /// IPC namespace.
    pub ipc: Option<OwnedFd>,
    /// UTS namespace.
    pub uts: Option<OwnedFd>,
    /// The pod's pid 1, when its containers share a pid namespace.
    pub init_pid: Option<i32>,
}

/// A container that runs, or ran.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Started {
    /// Its init.
    #[n(0)]
    pub process: Process,
    /// Set when the request was a repetition and init has ended meanwhile.
    #[n(1)]
    pub exit: Option<ExitStatus>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct PodCreatedBody {
    #[n(0)]
    network: bool,
    #[n(1)]
    ipc: bool,
    #[n(2)]
    uts: bool,
    #[n(3)]
    init_pid: Option<i32>,
}

const DONE: Kind = Kind(Kind::REPLY);
const WELCOME: Kind = Kind(Kind::REPLY | 1);
const POD_CREATED: Kind = Kind(Kind::REPLY | 2);
const STARTED: Kind = Kind(Kind::REPLY | 3);
const EXEC_STARTED: Kind = Kind(Kind::REPLY | 4);
const LISTING: Kind = Kind(Kind::REPLY | 5);
const FAILED: Kind = Kind(Kind::REPLY | 6);
const REFUSED: Kind = Kind(Kind::REPLY | 7);
const ATTACHED: Kind = Kind(Kind::REPLY | 70);

impl Reply {
    /// A refusal without errno.
    pub fn refused(code: RefusalCode) -> Reply {
        Reply::Refused(Refusal { code, errno: None })
    }

    /// A refusal because a system call failed.
    pub fn system(error: &std::io::Error) -> Reply {
        Reply::Refused(Refusal {
            code: RefusalCode::System,
            errno: error.raw_os_error(),
        })
    }

    /// The frame that carries this reply to the request `id`.
    pub fn into_frame(self, id: u32) -> Frame {
        match self {
            Reply::Done => Frame::new(DONE, id, &Empty {}, vec![]),
            Reply::Welcome(welcome) => Frame::new(WELCOME, id, &welcome, vec![]),
            Reply::PodCreated(PodCreated {
                network,
                ipc,
                uts,
                init_pid,
            }) => {
                let body = PodCreatedBody {
                    network: network.is_some(),
                    ipc: ipc.is_some(),
                    uts: uts.is_some(),
                    init_pid,
                };
                Frame::new(
                    POD_CREATED,
                    id,
                    &body,
                    [network, ipc, uts].into_iter().flatten().collect(),
                )
            }
            Reply::Started(started) => Frame::new(STARTED, id, &started, vec![]),
            Reply::ExecStarted { process, stdio } => stdio.into_frame(EXEC_STARTED, id, process),
            Reply::Attached(stdio) => stdio.into_frame(ATTACHED, id),
            Reply::Listing(memfd) => Frame::new(LISTING, id, &Empty {}, vec![memfd]),
            Reply::Failed(failure) => Frame::new(FAILED, id, &failure, vec![]),
            Reply::Refused(refusal) => Frame::new(REFUSED, id, &refusal, vec![]),
        }
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// As [`Request::from_frame`](super::Request::from_frame).
    pub fn from_frame(mut frame: Frame) -> Result<Reply, ProtocolError> {
        let reply = match frame.kind {
            DONE => Reply::Done,
            WELCOME => Reply::Welcome(frame.body()?),
            POD_CREATED => {
                let body: PodCreatedBody = frame.body()?;
                let [network, ipc, uts] = [body.network, body.ipc, body.uts];
                let mut fds = frame.take_fds(usize::from(network) + usize::from(ipc) + usize::from(uts))?;
                Reply::PodCreated(PodCreated {
                    network: fds.announced(network),
                    ipc: fds.announced(ipc),
                    uts: fds.announced(uts),
                    init_pid: body.init_pid,
                })
            }
            STARTED => Reply::Started(frame.body()?),
            EXEC_STARTED => {
                let (process, stdio) = ExecStdio::from_frame(frame)?;
                Reply::ExecStarted { process, stdio }
            }
            ATTACHED => Reply::Attached(AttachStdio::from_frame(frame)?),
            LISTING => Reply::Listing(frame.take_fd()?),
            FAILED => Reply::Failed(frame.body()?),
            REFUSED => Reply::Refused(frame.body()?),
            kind => return Err(ProtocolError::UnknownKind(kind)),
        };
        Ok(reply)
    }
}
