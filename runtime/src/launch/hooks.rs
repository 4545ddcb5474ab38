//! OCI hooks: programs of the host's administrator that take part in a launch.
//!
//! ```text
//!  stage-1          init
//!     │ clone ───────► mounts (the root at <bundle>/rootfs)
//!     │               ├─ pid ──► runner ─► createRuntime hooks, in the namespaces of the host
//!     │               ◄─ byte ───┘
//!     │               createContainer hooks, in the container's namespaces, the host's files still there
//!     │               pivot, confinement
//!     │               startContainer hooks, as the container sees itself
//!     │               execve
//! ```
//! Each gets the OCI state on its stdin, no environment but its own, no descriptor but 0 to 2, a session of its own,
//! and a time limit. The runner is cloned before anything is given up, in the container's cgroup, and ends with init.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, getpid, kill_process_group, waitid};

use super::Step;
use super::failure::{InStep, StepResult, failure};
use super::plan::{Hook, HooksPlan};
use super::values::{HostPath, ProcessString};
use crate::sys;
use crate::sys::clone::{CloneOptions, clone_child, clone3};

/// Where the root is attached, below the bundle: what `root.path` of its `config.json` says.
pub(crate) const ROOT: &str = "rootfs";
/// For a hook that sets none.
pub(crate) const DEFAULT_TIMEOUT: u32 = 60;
/// The version of the state that hooks read (OCI runtime spec, "State").
const STATE_VERSION: &str = "1.2.1";

/// The process that runs `createRuntime` hooks when init says that its mounts are there.
#[derive(Debug)]
pub(crate) struct Runner(OwnedFd);

impl Runner {
    /// Clones it, when there are such hooks.
    pub(crate) fn start(hooks: Option<&HooksPlan>) -> StepResult<Option<Runner>> {
        let Some(hooks) = hooks.filter(|hooks| !hooks.create_runtime.is_empty()) else {
            return Ok(None);
        };
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .step(Step::Hook)?;
        clone3(CloneOptions::default(), || match serve(hooks, &theirs) {
            Ok(()) => 0,
            Err(failed) => {
                let _ = rustix::io::write(&theirs, &report(&failed));
                1
            }
        })
        .step(Step::Hook)?;
        Ok(Some(Runner(ours)))
    }

    /// Tells it init's process id on the host, which init itself does not know.
    pub(crate) fn tell(&self, pid: i32) -> StepResult<()> {
        rustix::io::write(&self.0, &pid.to_le_bytes())
            .step(Step::Hook)
            .map(drop)
    }

    /// Tells it that the mounts are there, and waits until its hooks have run.
    fn run(&self) -> StepResult<()> {
        rustix::io::write(&self.0, b"m").step(Step::Hook)?;
        let mut answer = [0; 4096];
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut answer)).step(Step::Hook)?;
        match &answer[..length] {
            b"ok" => Ok(()),
            [a, b, c, d, path @ ..] => Err(failure(
                Step::Hook,
                Some(String::from_utf8_lossy(path).into_owned()),
                Errno::from_raw_os_error(i32::from_le_bytes([*a, *b, *c, *d])),
            )),
            _ => Err(failure(Step::Hook, Some("createRuntime".into()), Errno::CHILD)),
        }
    }
}

fn report(failed: &super::SetupFailure) -> Vec<u8> {
    let path = failed.path.as_deref().unwrap_or_default().as_bytes();
    let mut message = failed.errno.to_le_bytes().to_vec();
    message.extend_from_slice(&path[..path.len().min(4000)]);
    message
}

fn serve(hooks: &HooksPlan, socket: &OwnedFd) -> StepResult<()> {
    // Stage-1 leaves before init is done, so its death says nothing; the end of the stream is that of init.
    let mut keep = [0, 1, 2, socket.as_raw_fd()];
    sys::fds::close_all_except(&mut keep).step(Step::Hook)?;
    let (mut pid, mut mounted) = (None, false);
    while pid.is_none() || !mounted {
        let mut word = [0; 4];
        match rustix::io::retry_on_intr(|| rustix::io::read(socket, &mut word)).step(Step::Hook)? {
            0 => return Ok(()),
            1 => mounted = true,
            _ => pid = Some(i32::from_le_bytes(word)),
        }
    }
    run_all(&hooks.create_runtime, hooks, "creating", pid.unwrap_or_default())?;
    rustix::io::write(socket, b"ok").step(Step::Hook).map(drop)
}

/// Runs what belongs between the mounts and the pivot.
pub(crate) fn before_pivot(hooks: &HooksPlan, runner: Option<&Runner>) -> StepResult<()> {
    if let Some(runner) = runner {
        runner.run()?;
    }
    let own = getpid().as_raw_nonzero().get();
    run_all(&hooks.create_container, hooks, "creating", own)
}

/// Runs what belongs just before `execve`.
pub(crate) fn before_exec(hooks: Option<&HooksPlan>) -> StepResult<()> {
    let Some(hooks) = hooks else { return Ok(()) };
    let own = getpid().as_raw_nonzero().get();
    run_all(&hooks.start_container, hooks, "created", own)
}

fn run_all(list: &[Hook], hooks: &HooksPlan, status: &str, pid: i32) -> StepResult<()> {
    if list.is_empty() {
        return Ok(());
    }
    let state = state(hooks, status, pid);
    list.iter().try_for_each(|hook| run(hook, &hooks.bundle, &state))
}

/// The OCI state (OCI runtime spec, "State") as JSON.
fn state(hooks: &HooksPlan, status: &str, pid: i32) -> Vec<u8> {
    let annotations: serde_json::Map<_, _> = hooks
        .annotations
        .iter()
        .map(|(name, value)| (name.clone(), serde_json::Value::from(value.as_str())))
        .collect();
    serde_json::json!({
        "ociVersion": STATE_VERSION,
        "id": hooks.id,
        "status": status,
        "pid": pid,
        "bundle": hooks.bundle.to_string(),
        "annotations": annotations,
    })
    .to_string()
    .into_bytes()
}

/// Runs one hook to its end.
fn run(hook: &Hook, bundle: &HostPath, state: &[u8]) -> StepResult<()> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).step_at(Step::Hook, &hook.path)?;
    // By the call that a filter allows: the last hooks run under the container's.
    let child = clone_child(|| become_hook(hook, bundle, &reader).raw_os_error().min(125))
        .step_at(Step::Hook, &hook.path)?;
    drop(reader);
    let until = Instant::now() + Duration::from_secs(hook.timeout_seconds.into());
    let given = give(&writer, state, until);
    drop(writer);
    let ended = given.and_then(|()| wait(child.pidfd.as_fd(), until));
    let status = match ended {
        Ok(status) => status,
        Err(errno) => {
            // It leads a session, and with it whatever it has started.
            if let Some(group) = rustix::process::Pid::from_raw(child.pid) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL);
            let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
            return Err(errno).step_at(Step::Hook, &hook.path);
        }
    };
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => {
            Err(Errno::CANCELED).step_at(Step::Hook, format_args!("{} (exit code {code})", hook.path))
        }
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            Err(Errno::CANCELED).step_at(Step::Hook, format_args!("{} (signal {signal})", hook.path))
        }
    }
}

/// Writes the state, which the hook may read slowly or not at all.
fn give(writer: &OwnedFd, mut state: &[u8], until: Instant) -> rustix::io::Result<()> {
    rustix::io::ioctl_fionbio(writer, true)?;
    while !state.is_empty() {
        match rustix::io::write(writer, state) {
            Ok(written) => state = &state[written..],
            Err(Errno::AGAIN) => ready(writer.as_fd(), PollFlags::OUT, until)?,
            Err(Errno::INTR) => {}
            // It does not want to know.
            Err(Errno::PIPE) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn wait(child: BorrowedFd<'_>, until: Instant) -> rustix::io::Result<WaitIdStatus> {
    ready(child, PollFlags::IN, until)?;
    waitid(WaitId::PidFd(child), WaitIdOptions::EXITED)?.ok_or(Errno::CHILD)
}

fn ready(fd: BorrowedFd<'_>, wanted: PollFlags, until: Instant) -> rustix::io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::TIMEDOUT);
        }
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::from_borrowed_fd(fd, wanted)], Some(&left)) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// In the clone. Returns only why not.
fn become_hook(hook: &Hook, bundle: &HostPath, stdin: &OwnedFd) -> Errno {
    let prepared = (|| {
        rustix::process::setsid()?;
        let null = rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(stdin)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        // A hook of the container's own finds no bundle there.
        let _ = rustix::process::chdir(bundle.as_c_str()).or_else(|_| rustix::process::chdir("/"));
        rustix::process::umask(Mode::from(0o022));
        sys::signal::reset_all();
        sys::fds::close_on_exec_from(3)
    })();
    if let Err(errno) = prepared {
        return errno;
    }
    let text =
        |list: &'_ [ProcessString]| -> Vec<std::ffi::CString> { list.iter().map(|s| s.0.clone()).collect() };
    let (args, env) = (text(&hook.args), text(&hook.env));
    let args: Vec<&CStr> = match args.is_empty() {
        true => vec![hook.path.as_c_str()],
        false => args.iter().map(|arg| arg.as_c_str()).collect(),
    };
    let env: Vec<&CStr> = env.iter().map(|variable| variable.as_c_str()).collect();
    sys::exec::execve(hook.path.as_c_str(), &args, &env)
}
