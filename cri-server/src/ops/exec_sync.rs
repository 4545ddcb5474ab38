//! ExecSync: a command in a running container, its output and its exit code.

use std::sync::Arc;
use std::time::Duration;

use cri_api::v1;
use runtime::cgroup::Cgroup;
use runtime::protocol::{self, ExecStdio, SignalScope, Target};
use rustix::process::{Pid, PidfdFlags, Signal, getsid, pidfd_open, pidfd_send_signal};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::app::App;
use crate::supervisor::{Exec, Supervisor, next_exec_id};
use crate::{Error, Result, spec};

/// Most bytes that are kept of each stream; what follows is read and dropped.
const MAX_OUTPUT: usize = 16 << 20;
/// Most bytes of both streams in one answer: kubelet takes messages of 16 MiB.
const MAX_ANSWER: usize = (16 << 20) - 4096;

/// Runs the command to its end.
///
/// # Errors
/// [`Error::State`] when the container does not run, [`Error::Launch`] when the command cannot be
/// executed, [`Error::ExecTimeout`] when it did not end in time; it is killed then.
pub async fn exec(app: &Arc<App>, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse> {
    let (pod, container) = app.registry.container(&request.container_id)?;
    container.running()?;
    if request.timeout < 0 {
        return Err(Error::invalid("timeout", "must not be negative; 0 means none"));
    }
    let supervisor = pod.ready()?;
    // Probes come all the time: that is not listed, but whatever can wait leaves the processors to it.
    let _brief = app.operations.enter_briefly();
    let (process, args) = spec::exec(&container.record, &request.cmd, false)?;
    let plan = app.exec_plan(&container.record, &process, args)?;
    let cgroup = app.cgroups.open(&container.record.cgroup)?.open_v2()?;
    let mut exec = protocol::Exec::new(container.record.wire_id()?, next_exec_id());
    (exec.stdout, exec.stderr) = (true, true);
    let started = supervisor.exec(exec, plan, cgroup).await?;
    let started_pid = started.pid;
    let leftovers = || -> Result<Leftovers> {
        Ok(Leftovers {
            leader: started_pid,
            cgroup: app.cgroups.open(&container.record.cgroup)?,
        })
    };
    let mut guard = KillOnDrop {
        supervisor,
        target: Some(started.target.clone()),
    };

    let drain = app.config.limits.exec_drain;
    let limit = match u64::try_from(request.timeout) {
        Ok(0) | Err(_) => None,
        Ok(seconds) => Some(Duration::from_secs(seconds)),
    };
    let outcome = match limit {
        None => run(started, leftovers()?, drain).await,
        Some(limit) => match tokio::time::timeout(limit, run(started, leftovers()?, drain)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                guard.kill().await;
                // A job of an interactive shell has a group of its own in the same session.
                leftovers()?.kill().await?;
                let command = request.cmd.into_iter().next().unwrap_or_default();
                return Err(Error::ExecTimeout {
                    command,
                    seconds: request.timeout,
                });
            }
        },
    };
    guard.target = None;
    outcome
}

/// Reads both streams while waiting for the end, and for `drain` after it: a child that the command left behind
/// may hold the pipes open for ever.
async fn run(exec: Exec, leftovers: Leftovers, drain: Duration) -> Result<v1::ExecSyncResponse> {
    let ExecStdio::Pipes { stdout, stderr, .. } = exec.stdio else {
        return Err(crate::supervisor::Error::Unexpected("Exec").into());
    };
    let (mut out, mut err) = (Output::new(stdout)?, Output::new(stderr)?);
    let mut exit = exec.exit;
    let status = {
        let mut reading = std::pin::pin!(async { tokio::join!(out.read(), err.read()) });
        let status = tokio::select! {
            status = &mut exit => Some(status),
            _ = &mut reading => None,
        };
        match status {
            Some(status) => {
                // What it wrote is in the pipes by now; more comes only from what it left behind.
                if tokio::time::timeout(drain, reading).await.is_err() {
                    leftovers.kill().await?;
                }
                status
            }
            None => exit.await,
        }
    };
    let status = status.map_err(|_| crate::supervisor::Error::Gone)?;
    let (mut stdout, mut stderr) = (out.kept, err.kept);
    let room = MAX_ANSWER.saturating_sub(stdout.len().min(stderr.len()));
    stdout.truncate(room.max(MAX_ANSWER / 2));
    stderr.truncate(MAX_ANSWER - stdout.len());
    Ok(v1::ExecSyncResponse {
        stdout,
        stderr,
        exit_code: status.code,
    })
}

/// What a command that ended may have left behind: the processes of its session that still run.
struct Leftovers {
    /// The command's process, which was its session's leader.
    leader: i32,
    /// The container's.
    cgroup: Cgroup,
}

impl Leftovers {
    /// Kills them. A process is looked at again when it is held by descriptor, so that nobody who got its
    /// number meanwhile is hit.
    async fn kill(self) -> Result<()> {
        let work = move || {
            for pid in self.cgroup.pids()? {
                let Some(pid) = Pid::from_raw(pid).filter(|pid| self.has(*pid)) else {
                    continue;
                };
                if let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
                    && self.has(pid)
                {
                    // It may have ended just now, which is as well.
                    let _ = pidfd_send_signal(process, Signal::KILL);
                }
            }
            Ok(())
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or(Err(Error::Crashed))
    }

    /// Whether a process is of the command's session, which is over, so that no other can have its number.
    fn has(&self, pid: Pid) -> bool {
        getsid(Some(pid)).is_ok_and(|session| session.as_raw_nonzero().get() == self.leader)
    }
}

/// One stream: what is kept of it.
struct Output {
    pipe: Option<Receiver>,
    kept: Vec<u8>,
}

impl Output {
    fn new(pipe: Option<std::os::fd::OwnedFd>) -> Result<Self> {
        let pipe = pipe
            .map(Receiver::from_owned_fd)
            .transpose()
            .map_err(Error::io("read", "exec pipe"))?;
        Ok(Self {
            pipe,
            kept: Vec::new(),
        })
    }

    /// Reads to the end; what is beyond the cap is dropped so that the command never blocks on us.
    async fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut chunk = vec![0; 64 << 10];
        while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
            let room = MAX_OUTPUT - self.kept.len();
            self.kept.extend_from_slice(&chunk[..count.min(room)]);
        }
    }
}

/// A command whose caller went away is nobody's: it is killed.
struct KillOnDrop {
    supervisor: Supervisor,
    target: Option<Target>,
}

impl KillOnDrop {
    async fn kill(&mut self) {
        if let Some(target) = self.target.take() {
            // It may have ended meanwhile, which is as well.
            let _ = self
                .supervisor
                .signal(target, libc::SIGKILL, SignalScope::Group)
                .await;
        }
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(target) = self.target.take() {
            let supervisor = self.supervisor.clone();
            crate::task::spawn(
                async move { supervisor.signal(target, libc::SIGKILL, SignalScope::Group).await },
            );
        }
    }
}
