//! The daemon's side: one binary for all pods, one process per pod, one socket per conversation.
//!
//! Everything here is synchronous and does not block; the daemon drives [`Socket`] with its own event loop.
//!
//! ```text
//!   SupervisorBinary::load ── sealed memfd ──► spawn ──► crisp-pod   0: listening socket  <dir>/sock
//!                                               │                   1: first connection ──► Spawned.connection
//!   after a restart:  connect(<dir>/sock) ──────┴─ peer credentials: uid 0, pid of the supervisor
//! ```

mod placeholder;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect as connect_socket, listen,
    socket_with, sockopt::socket_peercred,
};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

pub use placeholder::Placeholder;

pub use crate::protocol::{Event, Frame, Kind, Reply, Request, Socket};

use crate::cgroup::Cgroup;
use crate::protocol::PodId;
use crate::sys;

/// Name of the socket in a pod's run directory.
pub const SOCKET_NAME: &str = "sock";
/// Connections that may wait for a supervisor without a moment to spare: one for each daemon that has died meanwhile.
pub(crate) const BACKLOG: i32 = 1024;

/// A daemon's dealing with supervisors failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The supervisor's binary could not be made unchangeable and executable.
    #[error("load supervisor binary {path}: {source}")]
    Load {
        /// The binary.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A placeholder could not be started.
    #[error("start placeholder: {source}")]
    Placeholder {
        /// What the kernel answered.
        source: io::Error,
    },
    /// A supervisor could not be started.
    #[error("start supervisor of pod {pod}: {step}: {source}")]
    Spawn {
        /// The pod.
        pod: PodId,
        /// What was being done.
        step: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// No connection to a supervisor.
    #[error("connect to supervisor at {path}: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Somebody else listens on the supervisor's socket.
    #[error("{path} belongs to pid {pid} of uid {uid}, not to a supervisor of root")]
    Peer {
        /// The socket.
        path: PathBuf,
        /// The listener's pid.
        pid: i32,
        /// The listener's uid.
        uid: u32,
    },
}

/// The supervisor's executable, loaded once and shared by all pods; nothing can write to it any more.
#[derive(Debug)]
pub struct SupervisorBinary(OwnedFd);

/// What a new supervisor is told.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The pod it is to keep.
    pub pod: &'a PodId,
    /// The pod's run directory, which exists, mode 0700; the socket is made in it.
    pub directory: &'a Path,
    /// Directory of the exit records, which exists.
    pub exits: &'a Path,
    /// The cgroup that it enters before anything else, which exists; never below the pod's.
    pub cgroup: Option<&'a Cgroup>,
    /// Where its panic message goes, should it ever have one; else `/dev/null`.
    pub stderr: Option<OwnedFd>,
}

/// A supervisor that was started. It is a child of this process: whoever waits for `pidfd` reaps it.
#[derive(Debug)]
pub struct Spawned {
    /// Its first connection; `Hello` is still to be sent.
    pub connection: Socket,
    /// Its process id.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// Its start in clock ticks since boot, to tell it from a later process with its pid.
    pub start_time: u64,
}

/// A connection by path, its peer checked.
#[derive(Debug)]
pub struct Connected {
    /// The connection; `Hello` is still to be sent.
    pub connection: Socket,
    /// The supervisor's process id.
    pub pid: i32,
}

impl SupervisorBinary {
    /// Copies the binary into a sealed memfd; where `vm.memfd_noexec` forbids executing one, takes a detached read-only
    /// clone of its mount instead. Either way no holder of the descriptor can reach a writable file.
    ///
    /// # Errors
    /// [`ClientError::Load`]
    pub fn load(path: &Path) -> Result<SupervisorBinary, ClientError> {
        sys::binary::load(path)
            .map(SupervisorBinary)
            .map_err(|source| ClientError::Load {
                path: path.to_owned(),
                source,
            })
    }

    /// A descriptor for `Request::Reexec`.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn to_fd(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Starts a process that does nothing: for a cgroup that must not be empty.
    ///
    /// # Errors
    /// [`ClientError::Placeholder`]
    pub fn hold_place(&self) -> Result<Placeholder, ClientError> {
        Placeholder::start(self).map_err(|source| ClientError::Placeholder { source })
    }

    /// What to execute: the descriptor, which has no name anywhere else.
    fn program(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    /// Starts a supervisor (`posix_spawn`: no copy of this process's memory) with a clean environment.
    ///
    /// # Errors
    /// [`ClientError::Spawn`]; nothing is left behind but a socket file in the pod's directory.
    pub fn spawn(&self, spawn: Spawn<'_>) -> Result<Spawned, ClientError> {
        let fail = |step| {
            move |source: io::Error| ClientError::Spawn {
                pod: spawn.pod.clone(),
                step,
                source,
            }
        };
        let listener = listen_in(spawn.directory).map_err(fail("listen"))?;
        let (ours, theirs) = Socket::pair().map_err(fail("socketpair"))?;
        let stderr = match spawn.stderr {
            Some(stderr) => stderr,
            None => OwnedFd::from(File::create("/dev/null").map_err(fail("open /dev/null"))?),
        };
        let entrances = spawn.cgroup.map(entrances).unwrap_or_default();
        let mut arguments = vec![
            OsStr::new("crisp-pod"),
            spawn.pod.as_str().as_ref(),
            spawn.exits.as_os_str(),
        ];
        arguments.extend(entrances.iter().map(|tasks| tasks.as_os_str()));
        let program = self.program();
        let stdio = [listener.as_fd(), theirs.as_fd(), stderr.as_fd()];
        let pid = sys::spawn::spawn(program.as_ref(), &arguments, stdio).map_err(fail("spawn"))?;
        let (pidfd, start_time) = hold(pid).map_err(fail("hold"))?;
        Ok(Spawned {
            connection: ours,
            pid,
            pidfd,
            start_time,
        })
    }
}

/// The pidfd and the start time of a child that nobody has reaped yet, so that the pid is its own. Without them it could
/// not be kept track of: then it is ended at once.
fn hold(child: i32) -> io::Result<(OwnedFd, u64)> {
    let pid = Pid::from_raw(child).ok_or(io::ErrorKind::InvalidData)?;
    let held = pidfd_open(pid, PidfdFlags::empty())
        .map_err(io::Error::from)
        .and_then(|pidfd| Ok((pidfd, sys::proc::start_time(child)?)));
    if held.is_err() {
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
    held
}

impl AsFd for SupervisorBinary {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The files to which a process writes `0` to enter a cgroup. On a hybrid host the v2 hierarchy is left out: it limits
/// nothing there, and moving a process costs milliseconds.
fn entrances(cgroup: &Cgroup) -> Vec<PathBuf> {
    let v1 = cgroup.tasks_files();
    if v1.is_empty() {
        cgroup
            .directories()
            .map(|path| path.join("cgroup.procs"))
            .collect()
    } else {
        v1
    }
}

/// Connects to a supervisor by the path of its socket and checks that the listener is root's; with `pid` also that it
/// is that process (a supervisor listens anew when it starts, so the credentials are its own).
///
/// # Errors
/// [`ClientError::Connect`] (`NotFound` or `ConnectionRefused` when there is no supervisor, `WouldBlock` when its backlog is
/// full) or [`ClientError::Peer`].
pub fn connect(path: &Path, pid: Option<i32>) -> Result<Connected, ClientError> {
    let fail = |source: io::Error| ClientError::Connect {
        path: path.to_owned(),
        source,
    };
    let connection = connect_by_directory(path).map_err(fail)?;
    let peer = socket_peercred(&connection).map_err(|e| fail(e.into()))?;
    let peer_pid = peer.pid.as_raw_nonzero().get();
    if !peer.uid.is_root() || pid.is_some_and(|pid| pid != peer_pid) {
        return Err(ClientError::Peer {
            path: path.to_owned(),
            pid: peer_pid,
            uid: peer.uid.as_raw(),
        });
    }
    Ok(Connected {
        connection: Socket::from_fd(connection).map_err(fail)?,
        pid: peer_pid,
    })
}

/// Marks every descriptor above standard error to be closed on exec, so that nothing this process was started with
/// reaches what it starts. For the first moments of a daemon.
///
/// # Errors
/// Those of close_range(2).
pub fn keep_descriptors_from_children() -> io::Result<()> {
    Ok(crate::sys::fds::close_on_exec_from(3)?)
}

/// Lets all threads of this process share two heaps, from which large blocks are kept out: an idle daemon would keep what
/// its busiest moments left in each.
/// For the first moments of a daemon.
pub fn keep_heap_small() {
    crate::sys::heap::keep_small(2);
}

/// Gives back memory that this process does not use now: free heap, and its program's code, which comes back from the page
/// cache where it is used again. For a daemon that has had nothing to do for a while: the next calls are slower.
pub fn give_memory_back() {
    crate::sys::heap::trim();
    // Without /proc it is kept.
    let _ = crate::sys::program::release_text();
}

/// A listening socket `directory/sock`, mode 0600, in place of whatever had that name.
fn listen_in(directory: &Path) -> io::Result<OwnedFd> {
    let held = open_directory(directory)?;
    match rustix::fs::unlinkat(&held, SOCKET_NAME, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let socket = seqpacket()?;
    // The mode of the socket file is that of the socket's inode at bind(2), less the umask: nobody can connect between
    // bind and a later chmod.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &short_address(&held, OsStr::new(SOCKET_NAME))?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn connect_by_directory(path: &Path) -> io::Result<OwnedFd> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let held = open_directory(path.parent().ok_or_else(invalid)?)?;
    let socket = seqpacket()?;
    connect_socket(
        &socket,
        &short_address(&held, path.file_name().ok_or_else(invalid)?)?,
    )?;
    Ok(socket)
}

fn open_directory(directory: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(File::from(openat(CWD, directory, flags, Mode::empty())?))
}

fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// An address has room for 108 bytes, a state directory may be longer: go by the directory's descriptor.
fn short_address(directory: &File, name: &OsStr) -> io::Result<SocketAddrUnix> {
    let path = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    Ok(SocketAddrUnix::new(path)?)
}
