//! What the daemon and a pod's supervisor say to each other.
//!
//! One `SOCK_SEQPACKET` message is one [`Frame`]: an eight-byte header, a CBOR map with integer keys,
//! and up to [`MAX_FDS`] file descriptors. What could outgrow a frame (launch plans, listings) travels as a
//! sealed memfd among those descriptors, so a frame is small and its size is bounded before it is read.
//!
//! ```text
//!   daemon                                          crisp-pod
//!     │ Hello{version, features, events}                │
//!     ├────────────────────────────────────────────────►│
//!     │                 Welcome{version, features, pod} │
//!     │◄────────────────────────────────────────────────┤
//!     │ CreatePod            [pod plan, net]            │
//!     ├────────────────────────────────────────────────►│  join net, unshare ipc, uts
//!     │                 PodCreated  [net, ipc, uts]     │
//!     │◄────────────────────────────────────────────────┤
//!     │ StartContainer{id}   [plan, log, cgroup]        │
//!     ├────────────────────────────────────────────────►│  clone stage-1 ─► init ─► execve
//!     │                 Started{process} | Failed{step} │
//!     │◄────────────────────────────────────────────────┤
//!     │ Exec{exec, container} [plan]                    │
//!     ├────────────────────────────────────────────────►│
//!     │                 ExecStarted [stdio ends | pty]  │
//!     │◄────────────────────────────────────────────────┤
//!     │ Attach{container, streams}                      │
//!     ├────────────────────────────────────────────────►│
//!     │ Attached [stdin | pty, stdout, stderr, bell]    │
//!     │◄────────────────────────────────────────────────┤
//!     │ Signal, Resize, CloseStdin, ReopenLog, List …   │
//!     ├────────────────────────────────────────────────►│
//!     │                 Done | Listing[memfd] | Refused │
//!     │◄────────────────────────────────────────────────┤
//!     │                                                 │  init exits, pipes drained, record written
//!     │                 Exited{target, status}          │
//!     │◄────────────────────────────────────────────────┤
//! ```
//!
//! Rules of the exchange:
//! - `Hello` comes first on every connection; requests may be sent right behind it without waiting.
//! - A reply carries the id of its request. Replies may overtake each other: a launch answers when its
//!   `execve` succeeded, a `Signal` sent meanwhile answers before. Events carry the id 0.
//! - Unknown keys of a body are ignored; an unknown kind of request is answered `Refused{Unsupported}`; a
//!   frame that cannot be parsed closes its connection and nothing else.
//! - A client that does not read loses its connection (the supervisor never waits for one); it comes
//!   back by path and asks for a listing.
//! - An exec belongs to the connection that asked for it and hears `Exited` there only. A container's `Exited`
//!   goes to every connection whose `Hello` asked for events.
//!
//! Version 1 of the header never changes its meaning; what is added later shows in [`Features`].

mod event;
mod frame;
mod id;
mod listing;
mod refusal;
mod reply;
mod request;
mod socket;
mod start;
mod stdio;
mod value;

#[cfg(test)]
mod golden;

pub use event::{Event, Exited, LogFault};
pub use frame::{Frame, HEADER_LEN, Kind, MAX_BODY, MAX_FDS, ProtocolError, VERSION};
pub use id::{ContainerId, ExecId, InvalidId, PodId};
pub use listing::{ContainerEntry, ContainerState, ExecEntry, Listing};
pub use refusal::{Failure, Refusal, RefusalCode};
pub use reply::{PodCreated, Reply, Started, Welcome};
pub use request::{Attach, Exec, Hello, Request, Signal, SignalScope, WindowSize};
pub use socket::Socket;
pub use start::{Given, StartContainer};
pub use stdio::{AttachStdio, ExecStdio};
pub use value::{ExitStatus, Features, Process, Target, UnixNanos};

/// Bytes that the kernel keeps of each stream for a client that attached, and does not read at the moment.
pub const ATTACH_BUFFER: usize = 1 << 20;
