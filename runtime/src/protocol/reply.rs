//! What a supervisor answers.

use std::fmt;
use std::os::fd::OwnedFd;

use minicbor::{Decode, Encode};

use super::frame::{Frame, Kind, ProtocolError};
use super::id::PodId;
use super::request::Empty;
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

/// The requester's ends of an exec's stdio.
#[derive(Debug)]
pub enum ExecStdio {
    /// Pipes, as far as they were asked for.
    Pipes {
        /// Write end.
        stdin: Option<OwnedFd>,
        /// Read end.
        stdout: Option<OwnedFd>,
        /// Read end.
        stderr: Option<OwnedFd>,
    },
    /// The master of its pty.
    Terminal(OwnedFd),
}

/// A client's ends of a container's stdio. All are non-blocking; for its own reads and writes the client may change none
/// of that, since the flag of stdin belongs to the container's pipe or terminal as a whole.
#[derive(Debug, Default)]
pub struct AttachStdio {
    /// Write end of the container's stdin, or the master of its terminal, which is to be written to and never read
    /// (resizing is `Resize`, for all clients). None when it was not asked for, when the container has no stdin, when the
    /// container's stdin was closed, and for all but the first client of a `stdin_once` container.
    ///
    /// Closing it ends nothing as long as the container keeps its stdin; the one of a `stdin_once` container is handed
    /// over for good, so that closing it is the end of the container's input.
    pub stdin: Option<OwnedFd>,
    /// Read end. It ends when the container closes the stream or ends, and when this client was too slow.
    pub stdout: Option<OwnedFd>,
    /// Read end, as stdout. None with a terminal.
    pub stderr: Option<OwnedFd>,
    /// The container's stdio is a terminal.
    pub terminal: bool,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Failure {
    /// Stable name of the step.
    #[n(0)]
    pub step: String,
    /// What it worked on: a path, a device, a name.
    #[n(1)]
    pub path: Option<String>,
    /// The kernel's answer; 0 when the step has no errno.
    #[n(2)]
    pub errno: i32,
}

/// A request that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Refusal {
    /// Why, for programs.
    #[n(0)]
    pub code: RefusalCode,
    /// The kernel's answer, when there was one.
    #[n(1)]
    pub errno: Option<i32>,
}

/// Why a request was not carried out. A code of a later version decodes as `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// The kind of request is not known to the supervisor, or not for this target.
    Unsupported,
    /// The body broke the protocol.
    Malformed,
    /// `Hello` did not come first.
    HelloFirst,
    /// `CreatePod` has not succeeded yet.
    NoPod,
    /// No container of that id.
    UnknownContainer,
    /// No exec of that id.
    UnknownExec,
    /// An exec of that id exists.
    ExecExists,
    /// The container is not running.
    NotRunning,
    /// Not while a container runs, or is being launched.
    Busy,
    /// The target has no terminal, log or stdin to work on.
    NoStdio,
    /// A system call failed; see the errno.
    System,
    /// Too many containers for one supervisor.
    Full,
    /// A code that this build does not know.
    Other(u16),
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

#[derive(Encode, Decode)]
#[cbor(map)]
struct ExecStartedBody {
    #[n(0)]
    process: Process,
    #[n(1)]
    tty: bool,
    #[n(2)]
    stdin: bool,
    #[n(3)]
    stdout: bool,
    #[n(4)]
    stderr: bool,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct AttachedBody {
    #[n(70)]
    stdin: bool,
    #[n(71)]
    stdout: bool,
    #[n(72)]
    stderr: bool,
    #[n(73)]
    terminal: bool,
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
            Reply::ExecStarted {
                process,
                stdio: ExecStdio::Terminal(master),
            } => {
                let body = ExecStartedBody {
                    process,
                    tty: true,
                    stdin: false,
                    stdout: false,
                    stderr: false,
                };
                Frame::new(EXEC_STARTED, id, &body, vec![master])
            }
            Reply::ExecStarted {
                process,
                stdio:
                    ExecStdio::Pipes {
                        stdin,
                        stdout,
                        stderr,
                    },
            } => {
                let body = ExecStartedBody {
                    process,
                    tty: false,
                    stdin: stdin.is_some(),
                    stdout: stdout.is_some(),
                    stderr: stderr.is_some(),
                };
                Frame::new(
                    EXEC_STARTED,
                    id,
                    &body,
                    [stdin, stdout, stderr].into_iter().flatten().collect(),
                )
            }
            Reply::Attached(stdio) => {
                let body = AttachedBody {
                    stdin: stdio.stdin.is_some(),
                    stdout: stdio.stdout.is_some(),
                    stderr: stdio.stderr.is_some(),
                    terminal: stdio.terminal,
                };
                let fds = [stdio.stdin, stdio.stdout, stdio.stderr];
                Frame::new(ATTACHED, id, &body, fds.into_iter().flatten().collect())
            }
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
                let body: ExecStartedBody = frame.body()?;
                let stdio = if body.tty {
                    ExecStdio::Terminal(frame.take_fd()?)
                } else {
                    let want = [body.stdin, body.stdout, body.stderr]
                        .into_iter()
                        .filter(|w| *w)
                        .count();
                    let mut fds = frame.take_fds(want)?;
                    ExecStdio::Pipes {
                        stdin: fds.announced(body.stdin),
                        stdout: fds.announced(body.stdout),
                        stderr: fds.announced(body.stderr),
                    }
                };
                Reply::ExecStarted {
                    process: body.process,
                    stdio,
                }
            }
            ATTACHED => {
                let body: AttachedBody = frame.body()?;
                let count = [body.stdin, body.stdout, body.stderr].map(usize::from);
                let mut fds = frame.take_fds(count.iter().sum())?;
                Reply::Attached(AttachStdio {
                    stdin: fds.announced(body.stdin),
                    stdout: fds.announced(body.stdout),
                    stderr: fds.announced(body.stderr),
                    terminal: body.terminal,
                })
            }
            LISTING => Reply::Listing(frame.take_fd()?),
            FAILED => Reply::Failed(frame.body()?),
            REFUSED => Reply::Refused(frame.body()?),
            kind => return Err(ProtocolError::UnknownKind(kind)),
        };
        Ok(reply)
    }
}

impl RefusalCode {
    const CODES: [RefusalCode; 12] = [
        RefusalCode::Unsupported,
        RefusalCode::Malformed,
        RefusalCode::HelloFirst,
        RefusalCode::NoPod,
        RefusalCode::UnknownContainer,
        RefusalCode::UnknownExec,
        RefusalCode::ExecExists,
        RefusalCode::NotRunning,
        RefusalCode::Busy,
        RefusalCode::NoStdio,
        RefusalCode::System,
        RefusalCode::Full,
    ];

    fn number(self) -> u16 {
        match self {
            RefusalCode::Unsupported => 1,
            RefusalCode::Malformed => 2,
            RefusalCode::HelloFirst => 3,
            RefusalCode::NoPod => 4,
            RefusalCode::UnknownContainer => 5,
            RefusalCode::UnknownExec => 6,
            RefusalCode::ExecExists => 7,
            RefusalCode::NotRunning => 8,
            RefusalCode::Busy => 9,
            RefusalCode::NoStdio => 10,
            RefusalCode::System => 11,
            RefusalCode::Full => 12,
            RefusalCode::Other(number) => number,
        }
    }
}

impl<C> Encode<C> for RefusalCode {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.u16(self.number())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for RefusalCode {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let number = d.u16()?;
        let known = Self::CODES.into_iter().find(|code| code.number() == number);
        Ok(known.unwrap_or(RefusalCode::Other(number)))
    }
}

impl fmt::Display for Failure {
    /// `<step> <path>: <errno text>`, the message of a `StartError`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.step)?;
        if let Some(path) = &self.path {
            write!(f, " {path}")?;
        }
        if self.errno != 0 {
            // std prints "No such file or directory (os error 2)"; the number says nothing more to a reader.
            let text = std::io::Error::from_raw_os_error(self.errno).to_string();
            let text = text.split(" (os error").next().unwrap_or(&text);
            write!(f, ": {text}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.code {
            RefusalCode::Unsupported => "not supported",
            RefusalCode::Malformed => "malformed request",
            RefusalCode::HelloFirst => "hello did not come first",
            RefusalCode::NoPod => "the pod's namespaces do not exist yet",
            RefusalCode::UnknownContainer => "no such container",
            RefusalCode::UnknownExec => "no such exec",
            RefusalCode::ExecExists => "an exec of that id exists",
            RefusalCode::NotRunning => "the container is not running",
            RefusalCode::Busy => "busy",
            RefusalCode::NoStdio => "nothing of that kind is attached",
            RefusalCode::System => "system call failed",
            RefusalCode::Full => "too many containers in one pod",
            RefusalCode::Other(_) => "refused for a reason this build does not know",
        };
        f.write_str(text)?;
        match self.errno {
            Some(errno) => write!(f, ": {}", std::io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }
}
