//! Execs: further processes in a container. Each belongs to the connection that asked for it.
//!
//! ```text
//!  Exec ──► Starting ──EOF──► Running ──ended──► Exited to its owner, gone
//!               │ failed          │ owner gone: SIGHUP, after 10 s SIGKILL, to it and what it has started
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::brood::Brood;
use super::child::{Child, Ended};
use super::control::Supervisor;
use super::launching::{Launch, Progress, died};
use super::requests::{Answer, Asker};
use super::stdio::{Stdio, Wanted};
use super::token::Token;
use crate::launch::{Surroundings, launch_exec};
use crate::protocol::{self, Event, ExecStdio, Exited, Process, RefusalCode, Reply, SignalScope, Target};

/// What an exec whose owner has gone has left to end by itself.
const GRACE: Duration = Duration::from_secs(10);

/// An exec.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) target: Target,
    pub(super) owner: Owner,
    pub(super) phase: ExecPhase,
    /// What was below it when it lost its owner.
    pub(super) brood: Brood,
}

/// Whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Connection(u32),
    /// The owner has gone; the exec ends at that time at the latest.
    Gone {
        kill_at: Option<Instant>,
    },
}

/// Where it is in its life.
#[derive(Debug)]
pub(super) enum ExecPhase {
    Starting {
        launch: Launch,
        stdio: Stdio,
        request: u32,
    },
    Running {
        child: Child,
        terminal: Option<OwnedFd>,
    },
}

impl Exec {
    /// Its process may be there already, and is not known yet.
    pub(super) fn is_starting(&self) -> bool {
        matches!(self.phase, ExecPhase::Starting { .. })
    }

    pub(super) fn process(&self) -> Option<Process> {
        self.child().map(|child| child.process)
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.process().map(|process| process.pid)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.owner {
            Owner::Connection(_) => None,
            Owner::Gone { kill_at } => kill_at,
        }
    }

    fn child(&self) -> Option<&Child> {
        match &self.phase {
            ExecPhase::Running { child, .. } => Some(child),
            ExecPhase::Starting { .. } => None,
        }
    }

    /// Kills its group, whose number is its own until it is reaped, and what was found below it.
    fn kill(&mut self) {
        if let Some(child) = self.child() {
            // ESRCH: all of the group have ended.
            let _ = child.signal(libc::SIGKILL, SignalScope::Group);
        }
        self.brood.kill();
    }

    /// The owner has gone. A terminal is hung up by closing it, which tells its foreground job as well.
    fn hang_up(&mut self) {
        let kill_at = match &mut self.phase {
            ExecPhase::Starting { .. } => None,
            ExecPhase::Running { child, terminal } => {
                self.brood = Brood::below(child.process.pid);
                *terminal = None;
                // ESRCH: it has ended, its pidfd is about to tell.
                let _ = child.signal(libc::SIGHUP, SignalScope::Group);
                Some(Instant::now() + GRACE)
            }
        };
        self.owner = Owner::Gone { kill_at };
    }
}

impl Supervisor {
    pub(super) fn start_exec(
        &mut self,
        asker: Asker,
        exec: protocol::Exec,
        plan: &OwnedFd,
        cgroup: Option<&OwnedFd>,
    ) -> Answer {
        let target = Target::exec(exec.container.clone(), exec.exec.clone());
        if self.execs.find(|exec| exec.target == target).is_some() {
            return Err(RefusalCode::ExecExists);
        }
        if self.reexec.is_some() {
            return Err(RefusalCode::Busy);
        }
        let wanted = match exec.tty {
            true => Wanted::NONE,
            false => Wanted {
                stdin: exec.stdin,
                stdout: exec.stdout,
                stderr: exec.stderr,
            },
        };
        let (_, container) = self.container(&exec.container)?;
        let init = container.phase.running()?.child.pidfd.as_fd();
        let pod = self.namespaces.as_ref().ok_or(RefusalCode::NoPod)?;
        let around = Surroundings {
            pod,
            cgroup_v2: cgroup.map(AsFd::as_fd),
            pid_target: None,
        };
        let launched = wanted
            .make()
            .and_then(|(stdio, child)| Ok((launch_exec(plan.as_fd(), child, around, init)?, stdio)));
        let (launching, stdio) = match launched {
            Ok(launched) => launched,
            Err(error) => return Ok(Some(Reply::system(&error))),
        };
        let (launch, stage1) = Launch::new(launching);
        if let Some(stage1) = stage1 {
            self.reap_later(stage1);
        }
        let key = self.execs.reserve();
        if let Err(error) = self.poll.add_for_end(launch.fd(), Token::ExecLaunch(key).pack()) {
            return Ok(Some(Reply::system(&error)));
        }
        let phase = ExecPhase::Starting {
            launch,
            stdio,
            request: asker.request,
        };
        self.execs.put(
            key,
            Exec {
                target,
                owner: Owner::Connection(asker.connection),
                phase,
                brood: Brood::default(),
            },
        );
        Ok(None)
    }

    /// An exec's launch has reported.
    pub(super) fn exec_launching(&mut self, key: u32) {
        let Some(mut exec) = self.execs.take(key) else {
            return;
        };
        let ExecPhase::Starting {
            launch,
            stdio,
            request,
        } = exec.phase
        else {
            return self.execs.put(key, exec);
        };
        let asker = match exec.owner {
            Owner::Connection(connection) => Some(Asker { connection, request }),
            Owner::Gone { .. } => None,
        };
        let reply = match launch.advance() {
            Progress::Pending(launch) => {
                exec.phase = ExecPhase::Starting {
                    launch,
                    stdio,
                    request,
                };
                return self.execs.put(key, exec);
            }
            Progress::Launched { child, console } => {
                let process = child.process;
                match self.watch_exec(key, &child, console.as_ref()) {
                    Ok(terminal) => {
                        exec.phase = ExecPhase::Running { child, terminal };
                        if asker.is_none() {
                            exec.hang_up();
                        }
                        self.execs.put(key, exec);
                        let stdio = match console {
                            Some(master) => ExecStdio::Terminal(master),
                            None => stdio.into_exec(),
                        };
                        Reply::ExecStarted { process, stdio }
                    }
                    Err(error) => {
                        let _ = child.signal(libc::SIGKILL, SignalScope::Group);
                        self.reap_later(child.pidfd);
                        Reply::system(&error)
                    }
                }
            }
            Progress::Refused { failure, process } => {
                if let Some(child) = process {
                    self.reap_later(child.pidfd);
                }
                Reply::Failed(failure)
            }
            Progress::Died { process } => {
                if let Some(child) = process {
                    self.reap_later(child.pidfd);
                }
                self.sweep_soon();
                Reply::Failed(died())
            }
        };
        if let Some(asker) = asker {
            self.reply(asker, reply);
        }
    }

    /// Watches an exec that runs; gives a second handle of its terminal, for resizing.
    fn watch_exec(&self, key: u32, child: &Child, console: Option<&OwnedFd>) -> io::Result<Option<OwnedFd>> {
        let terminal = console.map(OwnedFd::try_clone).transpose()?;
        self.poll.add(child.pidfd.as_fd(), Token::Exec(key).pack())?;
        Ok(terminal)
    }

    /// An exec has ended.
    pub(super) fn exec_ended(&mut self, key: u32) {
        if let Some(exec) = self.execs.get_mut(key)
            && let Owner::Gone { .. } = exec.owner
        {
            // Nobody is left to care for what it leaves.
            exec.kill();
        }
        let Some(child) = self.execs.get(key).and_then(Exec::child) else {
            return;
        };
        let (Some(ended), process) = (Ended::reap(&child.pidfd), child.process) else {
            return;
        };
        let Some(exec) = self.execs.take(key) else { return };
        if let Owner::Connection(owner) = exec.owner {
            let status = ended.status(&process, false);
            let event = Event::Exited(Exited {
                target: exec.target,
                process,
                status,
            });
            self.send(owner, &event.into_frame());
        }
    }

    /// A client has gone: so do its execs.
    pub(super) fn hang_up_execs_of(&mut self, connection: u32) {
        for (_, exec) in self.execs.iter_mut() {
            if exec.owner == Owner::Connection(connection) {
                exec.hang_up();
            }
        }
    }

    /// The client that an exec was run for has gone, though its connection here has not.
    pub(super) fn hang_up_exec(&mut self, target: &Target) -> Answer {
        let (_, exec) = self
            .execs
            .iter_mut()
            .find(|(_, exec)| exec.target == *target)
            .ok_or(RefusalCode::UnknownExec)?;
        exec.hang_up();
        Ok(Some(Reply::Done))
    }

    /// An exec without an owner has had its time.
    pub(super) fn kill_exec(&mut self, key: u32) {
        let Some(exec) = self.execs.get_mut(key) else {
            return;
        };
        exec.owner = Owner::Gone { kill_at: None };
        exec.kill();
    }

    /// The process of an exec that runs.
    pub(super) fn exec_child(&self, target: &Target) -> Result<&Child, RefusalCode> {
        self.exec(target)?.child().ok_or(RefusalCode::NotRunning)
    }

    /// The terminal of an exec that runs, if it has one.
    pub(super) fn exec_terminal(&self, target: &Target) -> Result<Option<&OwnedFd>, RefusalCode> {
        match &self.exec(target)?.phase {
            ExecPhase::Running { terminal, .. } => Ok(terminal.as_ref()),
            ExecPhase::Starting { .. } => Err(RefusalCode::NotRunning),
        }
    }

    fn exec(&self, target: &Target) -> Result<&Exec, RefusalCode> {
        let found = self.execs.find(|exec| exec.target == *target);
        found.map(|(_, exec)| exec).ok_or(RefusalCode::UnknownExec)
    }
}

impl Stdio {
    fn into_exec(self) -> ExecStdio {
        ExecStdio::Pipes {
            stdin: self.stdin,
            stdout: self.stdout,
            stderr: self.stderr,
        }
    }
}
