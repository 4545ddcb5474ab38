//! What each request does. One line per verb here; the verbs are where their objects are.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::connection::Stage;
use super::container::{Container, Phase};
use super::control::Supervisor;
use super::exec::Exec;
use super::reach::signal_cgroup;
use crate::launch::{PodNamespaces, PodPlan, Stock, StockPlan, create_namespaces};
use crate::protocol::{
    ContainerEntry, ContainerId, ContainerState, ExecEntry, Failure, Features, Hello, Listing, PodCreated,
    RefusalCode, Reply, Request, Signal, SignalScope, Target, Welcome, WindowSize,
};

/// Who asked, and under which number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) connection: u32,
    pub(super) request: u32,
}

/// A reply now, a refusal now, or a reply when it is known.
pub(super) type Answer = Result<Option<Reply>, RefusalCode>;

impl Supervisor {
    pub(super) fn answer(&mut self, asker: Asker, request: Request) {
        let answer = match request {
            Request::Hello(hello) => self.hello(asker, &hello),
            _ if !self.is_greeted(asker) => Err(RefusalCode::HelloFirst),
            Request::CreatePod { plan, network } => Ok(Some(self.create_pod(&plan, network))),
            Request::StartContainer { start, given } => self.start_container(asker, start, given),
            Request::Exec { exec, plan, cgroup } => self.start_exec(asker, exec, &plan, cgroup.as_ref()),
            Request::Signal(signal) => self.signal(&signal),
            Request::ReopenLog { container, log } => self.reopen_log(&container, log),
            Request::List => Ok(Some(self.list())),
            Request::Forget { container } => self.forget(&container),
            Request::Resize { target, size } => self.resize(&target, size),
            Request::CloseStdin { container } => self.close_stdin(&container),
            Request::Attach(attach) => self.attach(&attach),
            Request::Namespaces => Ok(Some(self.share_namespaces())),
            Request::Stock { plan } => Ok(Some(self.lay_in(&plan))),
            Request::HangUp(target) => self.hang_up_exec(&target),
            Request::Reexec { binary } => self.reexec(asker, binary),
            Request::Shutdown => self.shut_down(),
        };
        let has_new_pod = matches!(answer, Ok(Some(Reply::PodCreated(_))));
        match answer {
            Ok(Some(reply)) => self.reply(asker, reply),
            Ok(None) => {}
            Err(code) => self.reply(asker, Reply::refused(code)),
        }
        if has_new_pod {
            // The first container finds its log's writer there. What fails here fails again, and is told, when it starts.
            let _ = self.log.ensure_idle(1);
        }
    }

    fn is_greeted(&self, asker: Asker) -> bool {
        self.connections
            .get(asker.connection)
            .is_some_and(|client| client.stage != Stage::Silent)
    }

    fn hello(&mut self, asker: Asker, hello: &Hello) -> Answer {
        if let Some(client) = self.connections.get_mut(asker.connection) {
            client.stage = Stage::Greeted { events: hello.events };
        }
        Ok(Some(Reply::Welcome(Welcome {
            features: Features::OURS,
            pod: self.identity.pod.clone(),
            build: env!("CARGO_PKG_VERSION").into(),
            process: self.identity.process,
        })))
    }

    fn create_pod(&mut self, plan: &OwnedFd, network: Option<OwnedFd>) -> Reply {
        if self.namespaces.is_none() {
            let created = PodPlan::from_memfd(plan.as_fd()).map(|plan| create_namespaces(&plan, network));
            match created {
                Ok(Ok(namespaces)) => {
                    self.watch_pod_init(&namespaces);
                    self.namespaces = Some(namespaces);
                }
                Err(failure) => return Reply::Failed(Failure::from(failure)),
                // The process is in some of its namespaces and not in others: no use to anyone.
                Ok(Err(failure)) => {
                    self.leaving = true;
                    return Reply::Failed(Failure::from(failure));
                }
            }
        }
        self.share_namespaces()
    }

    /// Makes what the next container may want. A pod that runs has threads, and its containers what they want.
    fn lay_in(&mut self, plan: &OwnedFd) -> Reply {
        if self.namespaces.is_some() {
            return Reply::refused(RefusalCode::Busy);
        }
        match StockPlan::from_memfd(plan.as_fd()).and_then(|plan| Stock::make(&plan)) {
            Ok(stock) => {
                self.stock = Some(stock);
                Reply::Done
            }
            Err(failure) => Reply::Failed(Failure::from(failure)),
        }
    }

    fn share_namespaces(&self) -> Reply {
        let share = |fd: &Option<OwnedFd>| fd.as_ref().map(|fd| fd.try_clone()).transpose();
        let created = |namespaces: &PodNamespaces| -> io::Result<PodCreated> {
            Ok(PodCreated {
                network: share(&namespaces.net)?,
                ipc: share(&namespaces.ipc)?,
                uts: share(&namespaces.uts)?,
                init_pid: namespaces.init.as_ref().map(|init| init.pid),
            })
        };
        match self.namespaces.as_ref().map(created) {
            Some(Ok(created)) => Reply::PodCreated(created),
            Some(Err(error)) => Reply::system(&error),
            None => Reply::refused(RefusalCode::NoPod),
        }
    }

    fn signal(&mut self, signal: &Signal) -> Answer {
        let (_, container) = self.container(&signal.target.container)?;
        let sent = match (&signal.target.exec, signal.scope, &container.cgroup) {
            (None, SignalScope::All, Some(cgroup)) => signal_cgroup(cgroup, signal.signal),
            (None, scope, _) => container.phase.running()?.child.signal(signal.signal, scope),
            (Some(_), scope, _) => self.exec_child(&signal.target)?.signal(signal.signal, scope),
        };
        Ok(Some(match sent {
            Ok(()) => Reply::Done,
            // Ended, but not reaped yet.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                Reply::refused(RefusalCode::NotRunning)
            }
            Err(error) => Reply::system(&error),
        }))
    }

    fn resize(&mut self, target: &Target, size: WindowSize) -> Answer {
        let terminal = match &target.exec {
            None => self
                .container(&target.container)?
                .1
                .phase
                .running()?
                .terminal
                .as_ref(),
            Some(_) => self.exec_terminal(target)?,
        };
        let terminal = terminal.ok_or(RefusalCode::NoStdio)?;
        let size = rustix::termios::Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(Some(match rustix::termios::tcsetwinsize(terminal, size) {
            Ok(()) => Reply::Done,
            Err(errno) => Reply::system(&errno.into()),
        }))
    }

    fn list(&self) -> Reply {
        let entry = |(_, container): (u32, &Container)| ContainerEntry {
            container: container.id.clone(),
            state: match &container.phase {
                Phase::Starting(_) => ContainerState::Starting,
                Phase::Running(running) => ContainerState::Running(running.child.process),
                Phase::Draining(draining) => ContainerState::Running(draining.process),
                Phase::Exited { process, status } => ContainerState::Exited(*process, *status),
            },
            log_lost: container.log_lost,
        };
        let exec = |(_, exec): (u32, &Exec)| {
            Some(ExecEntry {
                target: exec.target.clone(),
                process: exec.process()?,
            })
        };
        let init = self
            .namespaces
            .as_ref()
            .and_then(|namespaces| namespaces.init.as_ref());
        let listing = Listing {
            pod: self.identity.pod.clone(),
            created: self.namespaces.is_some(),
            init_pid: init.map(|init| init.pid),
            containers: self.containers.iter().map(entry).collect(),
            execs: self.execs.iter().filter_map(exec).collect(),
        };
        match listing.seal() {
            Ok(memfd) => Reply::Listing(memfd),
            Err(error) => Reply::system(&error),
        }
    }

    fn shut_down(&mut self) -> Answer {
        if self
            .containers
            .find(|container| !matches!(container.phase, Phase::Exited { .. }))
            .is_some()
        {
            return Err(RefusalCode::Busy);
        }
        self.leaving = true;
        Ok(Some(Reply::Done))
    }

    /// The container of that id.
    pub(super) fn container(&self, id: &ContainerId) -> Result<(u32, &Container), RefusalCode> {
        self.containers
            .find(|container| container.id == *id)
            .ok_or(RefusalCode::UnknownContainer)
    }
}
