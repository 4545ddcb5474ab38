//! From `execve` to the control loop.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::signal::SigSet;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{DumpableBehavior, getpid, set_dumpable_behavior};

use super::connection::{Listener, Stage};
use super::control::{Identity, Supervisor};
use super::log::LogPump;
use super::poll::Poll;
use super::reexec;
use super::table::Table;
use super::token::Token;
use crate::exit::{ExitDirectory, boot_id};
use crate::protocol::{InvalidId, PodId, Process, UnixNanos};
use crate::sys::{fds, proc};

/// Spared by the kernel's OOM killer before everything that kubelet runs; as low as other supervisors go.
const OOM_SCORE_ADJ: &str = "-998";

/// Why a supervisor could not start. Nobody but a person who reads its stderr ever sees this.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("usage: crisp-pod POD-ID EXIT-DIRECTORY [CGROUP-TASKS-FILE]...; descriptors 0 and 1 are sockets")]
    Usage,
    #[error("pod id: {0}")]
    Id(#[from] InvalidId),
    #[error("{step}: {source}")]
    System { step: &'static str, source: io::Error },
}

/// Asks for a process that only waits; see `client::Placeholder`.
pub(crate) const HOLD: &str = "--hold";

/// What the command line says.
enum Arguments {
    /// A new supervisor, started by `client::SupervisorBinary::spawn`.
    Fresh {
        pod: PodId,
        exits: PathBuf,
        cgroups: Vec<PathBuf>,
    },
    /// The continuation of an older image of this process; its state waits on descriptor 0.
    Resumed,
    /// To be in a cgroup until descriptor 0 ends.
    Hold,
    /// Somebody compares the two programs of a node.
    Version,
}

/// The program `crisp-pod`.
pub fn main() -> ExitCode {
    let supervisor = Arguments::parse(std::env::args_os().skip(1)).and_then(|arguments| match arguments {
        Arguments::Version => {
            println!("crisp-pod {}", env!("CARGO_PKG_VERSION"));
            std::process::exit(0)
        }
        Arguments::Hold => {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            std::process::exit(0)
        }
        Arguments::Fresh { pod, exits, cgroups } => fresh(pod, &exits, &cgroups),
        Arguments::Resumed => {
            harden();
            reexec::resume()
        }
    });
    match supervisor {
        Ok(mut supervisor) => {
            supervisor.run();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("crisp-pod: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Arguments, StartError> {
        let first = arguments.next().and_then(|first| first.into_string().ok());
        let first = first.ok_or(StartError::Usage)?;
        if first == "--version" {
            return Ok(Arguments::Version);
        }
        if first == HOLD {
            return Ok(Arguments::Hold);
        }
        if first == reexec::RESUME {
            return Ok(Arguments::Resumed);
        }
        let exits = arguments.next().ok_or(StartError::Usage)?.into();
        let cgroups = arguments.map(PathBuf::from).collect();
        Ok(Arguments::Fresh {
            pod: PodId::new(&first)?,
            exits,
            cgroups,
        })
    }
}

fn fresh(pod: PodId, exits: &Path, cgroups: &[PathBuf]) -> Result<Supervisor, StartError> {
    // What the daemon's own parent left open in it is none of a supervisor's business. Nobody owns one of these yet.
    fds::close_all_except(&mut [0, 1, 2]).map_err(|errno| system("close descriptors")(errno.into()))?;
    for tasks in cgroups {
        // A thread that attaches itself does not wait for an RCU grace period, as one that attaches another does.
        std::fs::write(tasks, "0").map_err(system("enter cgroup"))?;
    }
    harden();
    std::env::set_current_dir("/").map_err(system("enter /"))?;
    let (listener, first) = take_sockets().map_err(system("take sockets"))?;
    let exits = ExitDirectory::open(exits).map_err(system("open exit directory"))?;
    let identity = Identity {
        pod,
        exits,
        boot_id: boot_id().map_err(system("read boot id"))?,
        process: own_process().map_err(system("read own start time"))?,
    };
    let mut supervisor = Supervisor::new(identity, listener).map_err(system("watch sockets"))?;
    supervisor
        .welcome(first, Stage::Silent)
        .ok_or(StartError::Usage)?;
    Ok(supervisor)
}

impl Supervisor {
    /// A supervisor without pod or clients.
    pub(super) fn new(identity: Identity, listener: OwnedFd) -> io::Result<Supervisor> {
        let poll = Poll::new()?;
        let listener = Listener::new(listener, &poll)?;
        let log = LogPump::new()?;
        poll.add(log.bell(), Token::Log.pack())?;
        Ok(Supervisor {
            identity,
            poll,
            listener,
            connections: Table::new(),
            namespaces: None,
            stock: None,
            containers: Table::new(),
            execs: Table::new(),
            strays: Table::new(),
            log,
            sweeping: None,
            reexec: None,
            oom_kills: 0,
            leaving: false,
        })
    }
}

pub(super) fn system(step: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::System { step, source }
}

/// This process, as clients are told of it.
pub(super) fn own_process() -> io::Result<Process> {
    let pid = getpid().as_raw_nonzero().get();
    Ok(Process {
        pid,
        start_time: proc::start_time(pid)?,
        started_at: UnixNanos::now(),
    })
}

/// What can be done against accidents and curiosity. Each may be refused in some surroundings, and none is needed to work.
fn harden() {
    // Only SIGKILL and SIGSTOP get through: systemd stopping the daemon, or a stray kill, must not take the pods along.
    let _ = SigSet::all().thread_block();
    let _ = rustix::thread::set_name(c"crisp-pod");
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // Lowering it takes CAP_SYS_RESOURCE. The containers get theirs explicitly.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
}

/// Takes the listening socket from descriptor 0 and the first connection from 1, and puts `/dev/null` in their places.
fn take_sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let listener = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let first = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok((listener, first))
}

/// Takes what the older image left on descriptor 0, and puts `/dev/null` in its place.
pub(super) fn take_stdin() -> io::Result<OwnedFd> {
    let stdin = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(stdin)
}
