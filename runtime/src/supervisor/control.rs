//! The control loop: what is ready, what is due, and who is told.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::child::{Ended, sweep};
use super::connection::{Connection, Listener};
use super::container::{Container, Phase};
use super::exec::Exec;
use super::log::{LogPump, Report};
use super::poll::{Poll, Ready};
use super::reexec::PendingReexec;
use super::table::Table;
use super::token::Token;
use crate::exit::ExitDirectory;
use crate::launch::{PodNamespaces, Stock};
use crate::protocol::{Event, LogFault, PodId, Process};

/// After a launch died half-way: how often, and how far apart, to look for a child that nobody knows.
const SWEEPS: u8 = 20;
const SWEEP_PAUSE: Duration = Duration::from_millis(50);

/// Everything the control thread has.
pub(super) struct Supervisor {
    pub(super) identity: Identity,
    pub(super) poll: Poll,
    pub(super) listener: Listener,
    pub(super) connections: Table<Connection>,
    pub(super) namespaces: Option<PodNamespaces>,
    /// For the next container.
    pub(super) stock: Option<Stock>,
    pub(super) containers: Table<Container>,
    pub(super) execs: Table<Exec>,
    /// Children that nobody waits for otherwise: stage-1s, and inits of launches that failed.
    pub(super) strays: Table<OwnedFd>,
    pub(super) log: LogPump,
    pub(super) sweeping: Option<Sweeping>,
    pub(super) reexec: Option<PendingReexec>,
    /// The kernel's kills for want of memory in containers that have ended.
    pub(super) oom_kills: u64,
    pub(super) leaving: bool,
}

/// Who this supervisor is.
pub(super) struct Identity {
    pub(super) pod: PodId,
    pub(super) exits: ExitDirectory,
    pub(super) boot_id: String,
    pub(super) process: Process,
}

/// A search for children of a launch that died.
pub(super) struct Sweeping {
    left: u8,
    next: Instant,
}

impl Supervisor {
    /// Runs until `Shutdown`.
    pub(super) fn run(&mut self) {
        let mut ready: Ready = Default::default();
        while !self.leaving {
            let pause = self
                .next_deadline()
                .map(|at| at.saturating_duration_since(Instant::now()));
            for &token in self.poll.wait(&mut ready, pause) {
                if let Some(token) = Token::unpack(token) {
                    self.handle(token);
                }
            }
            self.expire();
        }
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Listener => self.accept(),
            Token::Log => self.hear_writer(),
            Token::PodInit => self.pod_init_ended(),
            Token::Connection(key) => self.hear(key),
            Token::Launch(key) => self.container_launching(key),
            Token::Init(key) => self.init_ended(key),
            Token::ExecLaunch(key) => self.exec_launching(key),
            Token::Exec(key) => self.exec_ended(key),
            Token::Stray(key) => self.stray_ended(key),
        }
    }

    /// When something is due that no descriptor will announce.
    fn next_deadline(&self) -> Option<Instant> {
        let drains = self
            .containers
            .iter()
            .filter_map(|(_, container)| container.phase.deadline());
        let kills = self.execs.iter().filter_map(|(_, exec)| exec.deadline());
        let sweep = self.sweep_at();
        drains
            .chain(kills)
            .chain(sweep)
            .chain(self.listener.deadline())
            .chain(self.reexec.as_ref().map(PendingReexec::deadline))
            .min()
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        for key in self.containers.keys(|container| due(container.phase.deadline())) {
            self.container_drained(key, None);
        }
        for key in self.execs.keys(|exec| due(exec.deadline())) {
            self.kill_exec(key);
        }
        if due(self.reexec.as_ref().map(PendingReexec::deadline)) {
            self.give_up_reexec();
        }
        if due(self.listener.deadline()) {
            self.listener.resume(&self.poll);
        }
        if due(self.sweep_at()) {
            self.sweep();
        }
    }

    fn hear_writer(&mut self) {
        self.log.hush();
        while let Some(report) = self.log.next_report() {
            match report {
                Report::Finished(slot) => self.container_drained(slot.key, Some(&slot)),
                Report::Surrendered(slot) => self.keep_slot(slot),
                Report::Fault { key, errno } => {
                    if let Some(container) = self.containers.get(key) {
                        let container = container.id.clone();
                        self.publish(&Event::LogFault(LogFault { container, errno }));
                    }
                }
            }
        }
        if self.reexec.is_some() && self.log.serving() == 0 {
            self.carry_out_reexec();
        }
    }

    /// Watches a child only to reap it.
    pub(super) fn reap_later(&mut self, pidfd: OwnedFd) {
        let key = self.strays.reserve();
        // What finds no room in the set is swept when a launch dies, or reaped by init when this process ends.
        let _ = self.poll.add(pidfd.as_fd(), Token::Stray(key).pack());
        self.strays.put(key, pidfd);
    }

    fn stray_ended(&mut self, key: u32) {
        let ended = self.strays.get(key).and_then(Ended::reap);
        if ended.is_some() {
            self.strays.take(key);
        }
    }

    /// Watches the pod's own pid 1, if it has one.
    pub(super) fn watch_pod_init(&self, namespaces: &PodNamespaces) {
        if let Some(init) = &namespaces.init {
            // Unwatched it stays a zombie after its death until this process ends, and no more.
            let _ = self.poll.add(init.pidfd.as_fd(), Token::PodInit.pack());
        }
    }

    fn pod_init_ended(&mut self) {
        // The kernel has killed whatever was in its pid namespace; the containers' own pidfds tell. The namespace is
        // kept by name so that a start that needs it fails by itself.
        if let Some(init) = self
            .namespaces
            .as_ref()
            .and_then(|namespaces| namespaces.init.as_ref())
        {
            let _ = Ended::reap(&init.pidfd);
            self.poll.remove(init.pidfd.as_fd());
        }
    }

    /// Looks for children of launches that died without telling what they had cloned.
    pub(super) fn sweep_soon(&mut self) {
        self.sweeping = Some(Sweeping {
            left: SWEEPS,
            next: Instant::now(),
        });
    }

    fn sweep(&mut self) {
        let Some(sweeping) = self.sweeping.take() else {
            return;
        };
        while sweep(|pid| self.knows(pid)) {}
        if sweeping.left > 0 {
            self.sweeping = Some(Sweeping {
                left: sweeping.left - 1,
                next: Instant::now() + SWEEP_PAUSE,
            });
        }
    }

    /// Not while a launch goes on, whose child is not known yet and must not be reaped as nobody's. Its end wakes the loop.
    fn sweep_at(&self) -> Option<Instant> {
        let sweeping = self.sweeping.as_ref()?;
        (!self.is_launching()).then_some(sweeping.next)
    }

    fn is_launching(&self) -> bool {
        self.containers
            .find(|container| matches!(container.phase, Phase::Starting(_)))
            .is_some()
            || self.execs.find(Exec::is_starting).is_some()
    }

    fn knows(&self, pid: i32) -> bool {
        let init = |container: &Container| match &container.phase {
            Phase::Running(running) => running.child.process.pid == pid,
            Phase::Starting(_) | Phase::Draining(_) | Phase::Exited { .. } => false,
        };
        let pod_init = self
            .namespaces
            .as_ref()
            .and_then(|namespaces| namespaces.init.as_ref());
        self.containers.find(init).is_some()
            || self.execs.find(|exec| exec.pid() == Some(pid)).is_some()
            || pod_init.is_some_and(|init| init.pid == pid)
    }
}
