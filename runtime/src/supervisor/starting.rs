//! A container's launch, from the request to its answer.
//!
//! ```text
//!  StartContainer ─► launch ─► Starting ──EOF──► begin ─► Running, the askers are answered
//!        │ asked again: joins the askers   └── failed: the askers are told, nothing is kept
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::attach::Stdin;
use super::child::Child;
use super::container::{Container, Phase, Running};
use super::control::Supervisor;
use super::launching::{Launch, Progress, died};
use super::log::{LogFile, LogSlot, Source, StreamName};
use super::oom::OomCounter;
use super::reach::signal_cgroup;
use super::requests::{Answer, Asker};
use super::stdio::{Stdio, Wanted};
use super::token::Token;
use crate::launch::{Ahead, Stock, Surroundings, launch_alone, launch_container};
use crate::protocol::{Failure, Given, RefusalCode, Reply, SignalScope, StartContainer, Started};

/// Its launch is under way.
#[derive(Debug)]
pub(super) struct Starting {
    launch: Launch,
    stdio: Stdio,
    input: Input,
    log: Option<OwnedFd>,
    oom: Option<OomCounter>,
    /// Held until it runs: the end of a mount that it has not taken would hold it up.
    stock: Option<Stock>,
    /// Who asked for it, and who asked again meanwhile.
    askers: Vec<Asker>,
}

/// What was asked for as to stdin.
#[derive(Clone, Copy, Debug)]
struct Input {
    wanted: bool,
    once: bool,
}

impl Supervisor {
    /// Launches a container, or says what became of the one with that id.
    pub(super) fn start_container(
        &mut self,
        asker: Asker,
        start: StartContainer,
        mut given: Given,
    ) -> Answer {
        if let Some((key, _)) = self.containers.find(|container| container.id == start.container) {
            return Ok(self.join_start(key, asker));
        }
        if self.reexec.is_some() {
            return Err(RefusalCode::Busy);
        }
        let starting = 1 + self.containers_starting();
        if !self.log.has_room(starting) {
            return Err(RefusalCode::Full);
        }
        let explained = self.oom_kills_known(None);
        let counter = start.oom_file.as_deref();
        let oom = match counter.map(|file| OomCounter::open(file, explained)).transpose() {
            Ok(oom) => oom,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(0);
                let step = "open oom counter".into();
                return Ok(Some(Reply::Failed(Failure {
                    step,
                    path: start.oom_file,
                    errno,
                })));
            }
        };
        let stock = start.alone.then(|| self.stock.take()).flatten();
        match self.launch(&start, &given, stock.as_ref()) {
            Ok((launch, stdio)) => {
                let starting = Starting {
                    launch,
                    stdio,
                    input: Input {
                        wanted: start.stdin,
                        once: start.stdin_once,
                    },
                    log: given.log.take(),
                    oom,
                    stock,
                    askers: vec![asker],
                };
                let key = self.containers.reserve();
                // Without a place in the set its end would never be seen.
                let token = Token::Launch(key).pack();
                if let Err(error) = self.poll.add_for_end(starting.launch.fd(), token) {
                    if let Some(process) = starting.launch.give_up() {
                        self.reap_later(process);
                    }
                    return Ok(Some(Reply::system(&error)));
                }
                let phase = Phase::Starting(Box::new(starting));
                let (id, cgroup) = (start.container, start.cgroup);
                self.containers.put(
                    key,
                    Container {
                        id,
                        cgroup,
                        phase,
                        log_lost: 0,
                    },
                );
                Ok(None)
            }
            Err(Refused::Because(code)) => Err(code),
            Err(Refused::System(error)) => Ok(Some(Reply::system(&error))),
        }
    }

    fn containers_starting(&self) -> usize {
        self.containers
            .keys(|container| matches!(container.phase, Phase::Starting(_)))
            .len()
    }

    fn launch(
        &mut self,
        start: &StartContainer,
        given: &Given,
        stock: Option<&Stock>,
    ) -> Result<(Launch, Stdio), Refused> {
        if self.namespaces.is_none() {
            return Err(Refused::Because(RefusalCode::NoPod));
        }
        // Not before the pod's namespaces exist, which takes a process of one thread; and not after the clone, since
        // the new thread allocates until it is ready.
        let starting = 1 + self.containers_starting();
        self.log.ensure_idle(starting).map_err(Refused::System)?;
        let pod = self
            .namespaces
            .as_ref()
            .ok_or(Refused::Because(RefusalCode::NoPod))?;
        let pid_target = match &start.pid_target {
            Some(target) => {
                let running = self
                    .container(target)
                    .and_then(|(_, target)| target.phase.running());
                Some(running.map_err(Refused::Because)?.child.pidfd.as_fd())
            }
            None => None,
        };
        let around = Surroundings {
            pod,
            cgroup_v2: given.cgroup.as_ref().map(AsFd::as_fd),
            pid_target,
        };
        let wanted = match start.tty {
            true => Wanted::NONE,
            false => Wanted {
                stdin: start.stdin,
                stdout: true,
                stderr: true,
            },
        };
        let (stdio, child) = wanted.make().map_err(Refused::System)?;
        let plan = given.plan.as_fd();
        let launching = match start.alone && pod.user.is_none() {
            true => {
                let ahead = Ahead {
                    root: given.root.as_ref().map(AsFd::as_fd),
                    empty: given.empty.as_ref().map(AsFd::as_fd),
                    stock,
                };
                launch_alone(plan, child, around, ahead)
            }
            false => launch_container(plan, child, around),
        };
        let (launch, stage1) = Launch::new(launching.map_err(Refused::System)?);
        if let Some(stage1) = stage1 {
            self.reap_later(stage1);
        }
        Ok((launch, stdio))
    }

    /// The same container was asked for again.
    fn join_start(&mut self, key: u32, asker: Asker) -> Option<Reply> {
        let (process, exit) = match &mut self.containers.get_mut(key)?.phase {
            Phase::Starting(starting) => {
                starting.askers.push(asker);
                return None;
            }
            Phase::Running(running) => (running.child.process, None),
            Phase::Draining(draining) => (draining.process, Some(draining.status)),
            Phase::Exited { process, status } => (*process, Some(*status)),
        };
        Some(Reply::Started(Started { process, exit }))
    }

    /// A container's launch has reported.
    pub(super) fn container_launching(&mut self, key: u32) {
        let Some(mut container) = self.containers.take(key) else {
            return;
        };
        let Phase::Starting(starting) = container.phase else {
            return self.containers.put(key, container);
        };
        let Starting {
            launch,
            stdio,
            input,
            log,
            oom,
            stock,
            askers,
        } = *starting;
        match launch.advance() {
            Progress::Pending(launch) => {
                let starting = Starting {
                    launch,
                    stdio,
                    input,
                    log,
                    oom,
                    stock,
                    askers,
                };
                container.phase = Phase::Starting(Box::new(starting));
                self.containers.put(key, container);
            }
            Progress::Launched { child, console } => {
                let reply = Started {
                    process: child.process,
                    exit: None,
                };
                match self.begin(key, child, (stdio, input), console, (log, oom)) {
                    Ok(running) => {
                        container.phase = Phase::Running(running);
                        self.containers.put(key, container);
                        self.reply_all(&askers, || Reply::Started(reply.clone()));
                    }
                    Err((child, error)) => {
                        // No descriptors left to watch it: better no container than one whose end nobody sees.
                        let _ = child.signal(libc::SIGKILL, SignalScope::Process);
                        self.reap_later(child.pidfd);
                        self.reply_all(&askers, || Reply::system(&error));
                    }
                }
            }
            Progress::Refused { failure, process } => {
                if let Some(child) = process {
                    self.reap_later(child.pidfd);
                }
                self.reply_all(&askers, || Reply::Failed(failure.clone()));
            }
            Progress::Died { process } => {
                if let Some(child) = process {
                    self.reap_later(child.pidfd);
                }
                if let Some(cgroup) = &container.cgroup {
                    // An empty or absent cgroup is what is wanted here.
                    let _ = signal_cgroup(cgroup, libc::SIGKILL);
                }
                self.sweep_soon();
                self.reply_all(&askers, || Reply::Failed(died()));
            }
        }
    }

    /// Watches a container that runs, and its output.
    fn begin(
        &mut self,
        key: u32,
        child: Child,
        (stdio, input): (Stdio, Input),
        terminal: Option<OwnedFd>,
        (log, oom): (Option<OwnedFd>, Option<OomCounter>),
    ) -> Result<Running, (Child, io::Error)> {
        let stdin = match &terminal {
            Some(master) if input.wanted => master.try_clone().map(Some),
            _ => Ok(stdio.stdin),
        };
        let stdin = match stdin {
            Ok(stdin) => Stdin::new(stdin, input.once),
            Err(error) => return Err((child, error)),
        };
        let stdout = match terminal.as_ref().map(OwnedFd::try_clone) {
            Some(Err(error)) => return Err((child, error)),
            Some(Ok(master)) => {
                // Shared with the handle kept for resizing, which never reads.
                if let Err(errno) = rustix::io::ioctl_fionbio(&master, true) {
                    return Err((child, errno.into()));
                }
                Some(master)
            }
            None => stdio.stdout,
        };
        let stdout = Source::new(StreamName::Stdout, stdout);
        let stderr = Source::new(StreamName::Stderr, stdio.stderr);
        let slot = Box::new(LogSlot::new(key, stdout, stderr, LogFile::new(log)));
        if let Err(error) = self.log.open(slot) {
            return Err((child, error));
        }
        if let Err(error) = self.poll.add(child.pidfd.as_fd(), Token::Init(key).pack()) {
            self.log.finish(key);
            return Err((child, error));
        }
        Ok(Running {
            child,
            stdin,
            terminal,
            oom,
        })
    }

    fn reply_all(&mut self, askers: &[Asker], reply: impl Fn() -> Reply) {
        for asker in askers {
            self.reply(*asker, reply());
        }
    }
}

/// Why a launch did not even begin.
enum Refused {
    Because(RefusalCode),
    System(io::Error),
}
