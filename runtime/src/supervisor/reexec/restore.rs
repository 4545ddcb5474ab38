//! From the saved form to a supervisor that goes on.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use minicbor::bytes::ByteVec;

use super::bundle::Unpacking;
use super::state;
use crate::exit::boot_id;
use crate::launch::{PodInit, PodNamespaces};
use crate::protocol::{Reply, UnixNanos};
use crate::supervisor::attach::Stdin;
use crate::supervisor::brood::Brood;
use crate::supervisor::child::Child;
use crate::supervisor::connection::Stage;
use crate::supervisor::container::{Container, Phase, Running};
use crate::supervisor::control::{Identity, Supervisor};
use crate::supervisor::exec::{Exec, ExecPhase, Owner};
use crate::supervisor::log::{LogFile, LogSlot, Source, StreamName, Tap};
use crate::supervisor::oom::OomCounter;
use crate::supervisor::requests::Asker;
use crate::supervisor::start::{StartError, own_process, system, take_stdin};
use crate::supervisor::token::Token;
use crate::sys::memfd;

/// Largest saved form in bytes: every container with two lines of 16 KiB held back, and buffers full of what its file
/// does not take.
const MAX_STATE: u64 = 64 << 20;

/// Takes up what the older image of this process left on descriptor 0.
pub(in crate::supervisor) fn resume() -> Result<Supervisor, StartError> {
    let socket = take_stdin().map_err(system("take state socket"))?;
    let (memfd, mut fds) = Unpacking::receive(&socket).map_err(system("receive state"))?;
    let state = read(memfd).map_err(system("read state"))?;
    restore(state, &mut fds).map_err(system("restore state"))
}

fn read(memfd: OwnedFd) -> io::Result<state::State> {
    let bytes = memfd::read(&File::from(memfd), MAX_STATE)?;
    minicbor::decode(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
}

fn restore(state: state::State, fds: &mut Unpacking) -> io::Result<Supervisor> {
    let identity = Identity {
        pod: state.pod,
        exits: fds.take(state.exits)?.into(),
        boot_id: boot_id()?,
        process: own_process()?,
    };
    let mut supervisor = Supervisor::new(identity, fds.take(state.listener)?)?;
    if let Some(saved) = state.namespaces {
        let namespaces = restore_namespaces(&saved, fds)?;
        supervisor.watch_pod_init(&namespaces);
        supervisor.namespaces = Some(namespaces);
    }
    let mut keys = Vec::new();
    for connection in state.connections {
        let stage = connection
            .greeted
            .map_or(Stage::Silent, |events| Stage::Greeted { events });
        keys.push(supervisor.welcome(fds.take(connection.socket)?, stage));
    }
    let key_of = |index: u32| keys.get(usize::try_from(index).ok()?).copied().flatten();
    for container in state.containers {
        supervisor.restore_container(container, fds)?;
    }
    for exec in state.execs {
        let owner = exec.owner.and_then(key_of);
        supervisor.restore_exec(exec, owner, fds)?;
    }
    for stray in state.strays {
        supervisor.reap_later(fds.take(stray)?);
    }
    if let Some(connection) = state.asker.and_then(key_of) {
        supervisor.reply(
            Asker {
                connection,
                request: state.request,
            },
            Reply::Done,
        );
    }
    Ok(supervisor)
}

fn restore_namespaces(saved: &state::Namespaces, fds: &mut Unpacking) -> io::Result<PodNamespaces> {
    let init = fds.take_some(saved.init)?;
    Ok(PodNamespaces {
        net: fds.take_some(saved.net)?,
        ipc: fds.take_some(saved.ipc)?,
        uts: fds.take_some(saved.uts)?,
        user: fds.take_some(saved.user)?,
        init: init.map(|pidfd| PodInit {
            pid: saved.init_pid,
            pidfd,
        }),
    })
}

impl Supervisor {
    fn restore_container(&mut self, saved: state::Container, fds: &mut Unpacking) -> io::Result<()> {
        let key = self.containers.reserve();
        let phase = match (saved.running, saved.exit) {
            (_, Some(status)) => Phase::Exited {
                process: saved.process,
                status,
            },
            (Some(running), None) => {
                let child = Child {
                    process: saved.process,
                    pidfd: fds.take(running.pidfd)?,
                };
                self.poll.add(child.pidfd.as_fd(), Token::Init(key).pack())?;
                let oom = fds.take_some(running.oom)?;
                let log = running.log.map(|log| restore_log(key, log, fds)).transpose()?;
                self.log
                    .open(Box::new(log.unwrap_or_else(|| LogSlot::closed(key))))?;
                Phase::Running(Running {
                    child,
                    stdin: Stdin::new(fds.take_some(running.stdin)?, running.stdin_once),
                    terminal: fds.take_some(running.terminal)?,
                    oom: oom.map(|file| OomCounter::resume(file, running.oom_at_start)),
                })
            }
            (None, None) => return Err(io::Error::from(io::ErrorKind::InvalidData)),
        };
        let container = Container {
            id: saved.id,
            cgroup: saved.cgroup,
            phase,
            log_lost: saved.log_lost,
        };
        self.containers.put(key, container);
        Ok(())
    }

    fn restore_exec(
        &mut self,
        saved: state::Exec,
        owner: Option<u32>,
        fds: &mut Unpacking,
    ) -> io::Result<()> {
        let key = self.execs.reserve();
        let child = Child {
            process: saved.process,
            pidfd: fds.take(saved.pidfd)?,
        };
        self.poll.add(child.pidfd.as_fd(), Token::Exec(key).pack())?;
        let kill_at = saved
            .kill_in
            .map(|millis| Instant::now() + Duration::from_millis(millis));
        let owner = owner.map_or(Owner::Gone { kill_at }, Owner::Connection);
        let phase = ExecPhase::Running {
            child,
            terminal: fds.take_some(saved.terminal)?,
        };
        self.execs.put(
            key,
            Exec {
                target: saved.target,
                owner,
                phase,
                // Known only where it was hung up; its group is killed as ever.
                brood: Brood::default(),
            },
        );
        Ok(())
    }
}

fn restore_log(key: u32, saved: state::Log, fds: &mut Unpacking) -> io::Result<LogSlot> {
    let mut stream = |name, saved: &state::Stream| -> io::Result<Source> {
        let mut source = Source::new(name, fds.take_some(saved.fd)?);
        source.resume(&saved.held, saved.continued);
        // An older image has none.
        let bells = saved.bells.iter().copied().chain(std::iter::repeat(None));
        let taps = saved.taps.iter().zip(bells);
        let taps = taps.map(|(pipe, bell)| Ok(Tap::resume(fds.take(*pipe)?, fds.take_some(bell)?)));
        source
            .taps_mut()
            .resume(taps.collect::<io::Result<Vec<_>>>()?.into_iter());
        Ok(source)
    };
    let stdout = stream(StreamName::Stdout, &saved.stdout)?;
    let stderr = stream(StreamName::Stderr, &saved.stderr)?;
    let mut file = LogFile::new(fds.take_some(saved.file)?);
    file.resume(saved.lost, fds.take_some(saved.successor)?);
    let mut slot = LogSlot::new(key, stdout, stderr, file);
    slot.stamp.advance(UnixNanos(saved.latest.0));
    let of = match saved.uncut_stderr {
        true => StreamName::Stderr,
        false => StreamName::Stdout,
    };
    let bytes = |saved: Option<ByteVec>| saved.map(Vec::from).unwrap_or_default();
    slot.buffers
        .resume(&bytes(saved.unwritten), &bytes(saved.uncut), of);
    Ok(slot)
}
