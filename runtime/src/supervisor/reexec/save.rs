//! From the supervisor to its saved form.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use super::bundle::Packing;
use super::state;
use crate::supervisor::connection::Stage;
use crate::supervisor::container::{Container, Phase, Running};
use crate::supervisor::control::Supervisor;
use crate::supervisor::exec::{Exec, ExecPhase, Owner};
use crate::supervisor::log::{LogSlot, Source, StreamName};
use crate::supervisor::requests::Asker;
use crate::sys::memfd;

impl Supervisor {
    /// Saves everything; returns the socket that the next image reads.
    pub(super) fn save(&self, asker: Asker, slots: &[LogSlot]) -> io::Result<OwnedFd> {
        let mut fds = Packing::default();
        let mut indices = HashMap::new();
        let mut connections = Vec::new();
        for (key, connection) in self.connections.iter() {
            indices.insert(key, u32::try_from(connections.len()).map_err(io::Error::other)?);
            let greeted = match connection.stage {
                Stage::Silent => None,
                Stage::Greeted { events } => Some(events),
            };
            connections.push(state::Connection {
                socket: fds.put(&connection.socket),
                greeted,
            });
        }
        let namespaces = self.namespaces.as_ref().map(|namespaces| state::Namespaces {
            net: fds.put_some(namespaces.net.as_ref()),
            ipc: fds.put_some(namespaces.ipc.as_ref()),
            uts: fds.put_some(namespaces.uts.as_ref()),
            init: fds.put_some(namespaces.init.as_ref().map(|init| &init.pidfd)),
            init_pid: namespaces.init.as_ref().map_or(0, |init| init.pid),
            user: fds.put_some(namespaces.user.as_ref()),
        });
        let mut containers = Vec::new();
        for (key, container) in self.containers.iter() {
            let slot = slots.iter().find(|slot| slot.key == key);
            containers.extend(save_container(container, slot, &mut fds));
        }
        let owner = |owner: u32| indices.get(&owner).copied();
        let state = state::State {
            pod: self.identity.pod.clone(),
            exits: fds.put(&self.identity.exits),
            listener: fds.put(self.listener.socket()),
            namespaces,
            connections,
            containers,
            execs: self
                .execs
                .iter()
                .filter_map(|(_, exec)| save_exec(exec, owner, &mut fds))
                .collect(),
            strays: self.strays.iter().map(|(_, stray)| fds.put(stray)).collect(),
            asker: owner(asker.connection),
            request: asker.request,
        };
        let mut bytes = Vec::new();
        minicbor::encode(&state, &mut bytes).map_err(io::Error::other)?;
        fds.send(&memfd::sealed(c"crisp-pod-state", &bytes)?)
    }
}

/// A launch under way has no saved form; there is none, or there would be no re-exec.
fn save_container<'a>(
    container: &'a Container,
    slot: Option<&'a LogSlot>,
    fds: &mut Packing<'a>,
) -> Option<state::Container> {
    let (process, running, exit) = match &container.phase {
        Phase::Running(running) => (
            running.child.process,
            Some(save_running(running, slot, fds)),
            None,
        ),
        Phase::Exited { process, status } => (*process, None, Some(*status)),
        Phase::Starting(_) | Phase::Draining(_) => return None,
    };
    Some(state::Container {
        id: container.id.clone(),
        cgroup: container.cgroup.clone(),
        log_lost: container.log_lost,
        process,
        running,
        exit,
    })
}

fn save_running<'a>(
    running: &'a Running,
    slot: Option<&'a LogSlot>,
    fds: &mut Packing<'a>,
) -> state::Running {
    let oom = running.oom.as_ref();
    state::Running {
        pidfd: fds.put(&running.child.pidfd),
        stdin: fds.put_some(running.stdin.fd()),
        terminal: fds.put_some(running.terminal.as_ref()),
        oom: oom.map(|oom| fds.put(oom)),
        oom_at_start: oom.map_or(0, |oom| oom.at_start()),
        log: slot.map(|slot| save_log(slot, fds)),
        stdin_once: running.stdin.is_once(),
    }
}

fn save_log<'a>(slot: &'a LogSlot, fds: &mut Packing<'a>) -> state::Log {
    let mut stream = |source: &'a Source| {
        let (fd, held, continued) = source.parts();
        let taps = source.taps().iter().map(|tap| tap.parts());
        let (taps, bells) = taps
            .map(|(pipe, bell)| (fds.put(pipe), bell.map(|bell| fds.put(bell))))
            .unzip();
        state::Stream {
            fd: fds.put_some(fd),
            held: held.to_vec().into(),
            continued,
            taps,
            bells,
        }
    };
    let stdout = stream(slot.source(StreamName::Stdout));
    let stderr = stream(slot.source(StreamName::Stderr));
    let (file, successor) = slot.file.descriptors();
    let (unwritten, uncut, of) = slot.buffers.pending();
    state::Log {
        file: fds.put_some(file),
        successor: fds.put_some(successor),
        lost: slot.file.lost(),
        latest: slot.stamp.latest(),
        stdout,
        stderr,
        unwritten: (!unwritten.is_empty()).then(|| unwritten.to_vec().into()),
        uncut: (!uncut.is_empty()).then(|| uncut.to_vec().into()),
        uncut_stderr: of == StreamName::Stderr,
    }
}

fn save_exec<'a>(
    exec: &'a Exec,
    index: impl Fn(u32) -> Option<u32>,
    fds: &mut Packing<'a>,
) -> Option<state::Exec> {
    let ExecPhase::Running { child, terminal } = &exec.phase else {
        return None;
    };
    let (owner, kill_at) = match exec.owner {
        Owner::Connection(connection) => (index(connection), None),
        Owner::Gone { kill_at } => (None, kill_at),
    };
    let kill_in = kill_at.map(|at| at.saturating_duration_since(Instant::now()).as_millis());
    Some(state::Exec {
        target: exec.target.clone(),
        process: child.process,
        pidfd: fds.put(&child.pidfd),
        terminal: fds.put_some(terminal.as_ref()),
        owner,
        kill_in: kill_in.map(|millis| u64::try_from(millis).unwrap_or(0)),
    })
}
