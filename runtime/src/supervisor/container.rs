//! One container's life.
//!
//! ```text
//!  StartContainer        EOF of the launch        init ended          pipes empty, record written
//!  ──────────► Starting ────────────────► Running ──────────► Draining ─────────────────────────► Exited ──Forget─►
//!        `starting` │ failed: reported, nothing is kept
//! ```

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::attach::Stdin;
use super::child::Child;
use super::control::Supervisor;
use super::log::LogSlot;
use super::oom::OomCounter;
use super::requests::Answer;
use super::starting::Starting;
use crate::exit::ExitRecord;
use crate::protocol::{ContainerId, Event, ExitStatus, Exited, Process, RefusalCode, Reply, Target};

/// How long an exit waits for the log writer: somewhat longer than the writer itself goes on reading, so that only a
/// writer stuck in a write is overtaken.
const DRAIN: Duration = Duration::from_millis(2500);

/// A container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: ContainerId,
    /// Directory of its cgroup, to reach all its processes.
    pub(super) cgroup: Option<String>,
    pub(super) phase: Phase,
    /// Bytes of its log that could not be written.
    pub(super) log_lost: u64,
}

/// Where it is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    Starting(Box<Starting>),
    Running(Running),
    Draining(Draining),
    Exited { process: Process, status: ExitStatus },
}

/// Its init runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) child: Child,
    pub(super) stdin: Stdin,
    pub(super) terminal: Option<OwnedFd>,
    pub(super) oom: Option<OomCounter>,
}

/// Its init has ended, its last output is being written.
#[derive(Debug)]
pub(super) struct Draining {
    pub(super) process: Process,
    pub(super) status: ExitStatus,
    pub(super) until: Instant,
}

impl Phase {
    pub(super) fn running(&self) -> Result<&Running, RefusalCode> {
        match self {
            Phase::Running(running) => Ok(running),
            Phase::Starting(_) | Phase::Draining(_) | Phase::Exited { .. } => Err(RefusalCode::NotRunning),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Phase::Draining(draining) => Some(draining.until),
            Phase::Starting(_) | Phase::Running(_) | Phase::Exited { .. } => None,
        }
    }
}

impl Supervisor {
    /// The kernel's kills for want of memory that are known of the pod's containers, except one.
    pub(super) fn oom_kills_known(&self, except: Option<u32>) -> u64 {
        let others = self.containers.iter().filter(|(key, _)| Some(*key) != except);
        let running = others.filter_map(|(_, other)| other.phase.running().ok()?.oom.as_ref()?.rise());
        self.oom_kills + running.sum::<u64>()
    }

    /// A container's init has ended.
    pub(super) fn init_ended(&mut self, key: u32) {
        let Some(container) = self.containers.get(key) else {
            return;
        };
        let Phase::Running(running) = &container.phase else {
            return;
        };
        // Read before the child is reaped: a cgroup without processes may vanish at any time.
        let rise = running.oom.as_ref().and_then(OomCounter::rise);
        let known = || self.oom_kills_known(Some(key));
        let out_of_memory = running.oom.as_ref().is_some_and(|oom| oom.has_risen(known));
        let Some(ended) = running.child.reap() else { return };
        let process = running.child.process;
        let oom_killed = out_of_memory && ended.is_sigkill();
        self.oom_kills += rise.unwrap_or(u64::from(oom_killed));
        let Some(container) = self.containers.get_mut(key) else {
            return;
        };
        let status = ended.status(&process, oom_killed);
        container.phase = Phase::Draining(Draining {
            process,
            status,
            until: Instant::now() + DRAIN,
        });
        self.log.finish(key);
    }

    /// A container's output is written, or has been waited for long enough.
    pub(super) fn container_drained(&mut self, key: u32, slot: Option<&LogSlot>) {
        let Some(container) = self.containers.get_mut(key) else {
            return;
        };
        if let Some(slot) = slot {
            container.log_lost = slot.file.lost();
        }
        let Phase::Draining(draining) = &container.phase else {
            return;
        };
        let (process, status) = (draining.process, draining.status);
        container.phase = Phase::Exited { process, status };
        let record = ExitRecord {
            container: container.id.clone(),
            boot_id: self.identity.boot_id.clone(),
            process,
            status,
            finished_boot: crate::exit::boot_clock(),
        };
        // The record is a second copy for the time when this process is gone; the table and the event go on without.
        let _ = self.identity.exits.write(&record);
        self.publish(&Event::Exited(Exited {
            target: Target::init(record.container),
            process,
            status,
        }));
    }

    pub(super) fn reopen_log(&mut self, id: &ContainerId, log: OwnedFd) -> Answer {
        let (key, container) = self.container(id)?;
        container.phase.running()?;
        if self.reexec.is_some() {
            return Err(RefusalCode::Busy);
        }
        self.log.reopen(key, log);
        Ok(Some(Reply::Done))
    }

    pub(super) fn close_stdin(&mut self, id: &ContainerId) -> Answer {
        let (key, _) = self.container(id)?;
        let container = self
            .containers
            .get_mut(key)
            .ok_or(RefusalCode::UnknownContainer)?;
        let Phase::Running(running) = &mut container.phase else {
            return Err(RefusalCode::NotRunning);
        };
        running.stdin = Stdin::Closed;
        Ok(Some(Reply::Done))
    }

    pub(super) fn forget(&mut self, id: &ContainerId) -> Answer {
        if let Ok((key, container)) = self.container(id) {
            if !matches!(container.phase, Phase::Exited { .. }) {
                return Err(RefusalCode::Busy);
            }
            self.containers.take(key);
        }
        Ok(Some(match self.identity.exits.remove(id) {
            Ok(()) => Reply::Done,
            Err(error) => Reply::system(&error),
        }))
    }
}
